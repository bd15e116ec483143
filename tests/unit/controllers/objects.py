"""Objects and passes for the tests of the reconcilers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from seedbed.controllers.plan import (
    AdjustRun,
    Defaults,
    Key,
    Observed,
    Plan,
    Publish,
    Raw,
    Withdraw,
)
from seedbed.controllers.pods import key_of
from seedbed.crds.base import API_VERSION

NOW = datetime(2026, 11, 21, 10, 0, tzinfo=UTC)
LATER = NOW + timedelta(minutes=5)
DEFAULTS = Defaults(
    image="example.org/seedbed:1",
    environment=({"name": "SEEDBED_BUS", "value": "nats://nats:4222"},),
)
Reconcile = Callable[[Observed, datetime, Defaults], Plan]


def made(kind: str, name: str, spec: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
    """An object as the API server would hold it."""
    return {
        "apiVersion": API_VERSION,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": "team",
            "uid": f"uid-of-{name}",
            "generation": 1,
            **metadata,
        },
        "spec": dict(spec),
    }


def look(obj: Raw, **seen: Any) -> Observed:
    """One object under reconciliation."""
    return Observed(key_of(obj), obj, **seen)


def named(*objects: Raw) -> dict[Key, Raw | None]:
    """References that exist."""
    return {key_of(obj): obj for obj in objects}


def after(observed: Observed, plan: Plan) -> Observed:
    """What the next pass would see once the plan is carried out."""
    settings = dict(observed.settings)
    for effect in plan.effects:
        if isinstance(effect, Publish):
            settings[effect.key] = effect.value
        elif isinstance(effect, Withdraw):
            settings.pop(effect.key, None)
    children = {key_of(child): child for child in observed.children}
    for child in plan.apply:
        status = (children.get(key_of(child)) or {}).get("status")
        children[key_of(child)] = {**child, **({"status": status} if status else {})}
    for key in plan.delete:
        children.pop(key, None)
    obj = observed.object
    if obj is not None and plan.status is not None:
        obj = {**obj, "status": {**plan.status, "fencingToken": 7}}
    return replace(observed, object=obj, settings=settings, children=tuple(children.values()))


def quiet(reconcile: Reconcile, observed: Observed, now: datetime = LATER) -> bool:
    """Whether a pass at `now` would write nothing: neither objects, settings nor Events."""
    plan = reconcile(observed, now, DEFAULTS)
    there = {key_of(child): child for child in observed.children}
    status = dict((observed.object or {}).get("status") or {})
    status.pop("fencingToken", None)
    return (
        all(
            {k: v for k, v in there.get(key_of(child), {}).items() if k != "status"} == child
            for child in plan.apply
        )
        and not plan.delete
        and (plan.status is None or plan.status == status)
        and all(isinstance(effect, AdjustRun) for effect in plan.effects)
        and not plan.events
    )


def verdict(plan: Plan, name: str) -> tuple[str, str]:
    """Status and reason of a condition."""
    assert plan.status is not None
    for condition in plan.status["conditions"]:
        if condition["type"] == name:
            return condition["status"], condition["reason"]
    raise AssertionError(f"no condition {name}")


def message(plan: Plan, name: str = "Ready") -> str:
    """The sentence of a condition."""
    assert plan.status is not None
    found: list[str] = [c["message"] for c in plan.status["conditions"] if c["type"] == name]
    return found[0]
