"""What every reconciler begins and ends with: reading a spec, publishing it, writing a status."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

import orjson
from pydantic import ValidationError

from seedbed.controllers.conditions import (
    Verdict,
    conditions,
    generation_of,
    news,
    stalled,
    waiting,
)
from seedbed.controllers.plan import Effect, Observed, Plan, Publish, Raw, Withdraw
from seedbed.crds.base import Model
from seedbed.crds.errors import InvalidError
from seedbed.crds.invalid import invalid

S = TypeVar("S", bound=Model)


def read_spec(form: type[S], obj: Raw) -> S:
    """An object's spec.

    Raises:
        InvalidError: where it is not as its model wants it; possible when a CRD is older or newer.
    """
    try:
        return form.model_validate(obj.get("spec") or {})
    except ValidationError as error:
        raise invalid(error, "spec") from error


def status_of(obj: Raw) -> Raw:
    """An object's status, {} where it has none yet."""
    found: Raw = obj.get("status") or {}
    return found


def child_of(children: Sequence[Raw], kind: str, name: str) -> Raw:
    """The child of a kind and a name; one without anything where there is none."""
    for child in children:
        if child["kind"] == kind and child["metadata"]["name"] == name:
            return child
    return {"metadata": {}}


def seen(child: Raw) -> bool:
    """Whether Kubernetes' status of a child speaks of what is wanted of it now."""
    newest: int = child["metadata"].get("generation", 0)
    return bool(status_of(child).get("observedGeneration", 0) >= newest)


def publish(observed: Observed, key: str, spec: Model) -> tuple[Effect, ...]:
    """Publishes a spec as a live setting, unless it stands there already."""
    value = orjson.dumps(spec.model_dump(mode="json", by_alias=True), option=orjson.OPT_SORT_KEYS)
    return () if observed.settings.get(key) == value else (Publish(key, value),)


def withdraw(observed: Observed, key: str) -> tuple[Effect, ...]:
    """Removes a live setting where there is one."""
    return (Withdraw(key),) if key in observed.settings else ()


def told(
    obj: Raw,
    verdicts: Mapping[str, Verdict],
    now: datetime,
    *,
    fields: Mapping[str, Any] | None = None,
    **plan: Any,
) -> Plan:
    """A plan that sets the status: the conditions, the kind's own fields, an Event where it is news."""
    previous, generation = status_of(obj), generation_of(obj)
    status = {
        "observedGeneration": generation,
        "conditions": conditions(previous, verdicts, generation, now),
        **(fields or {}),
    }
    return Plan(status=status, events=news(previous, verdicts), **plan)


def awaiting(obj: Raw, reason: str, message: str, now: datetime) -> Plan:
    """A plan for what has to come from elsewhere first: it says so and leaves everything else."""
    return _amended(obj, waiting(reason, message), now)


def declined(obj: Raw, reason: str, message: str, now: datetime) -> Plan:
    """A plan for what somebody else has found to be wrong: likewise."""
    verdicts = {**stalled(reason, message), "Accepted": Verdict("False", reason, message)}
    return _amended(obj, verdicts, now)


def _amended(obj: Raw, verdicts: Mapping[str, Verdict], now: datetime) -> Plan:
    status = status_of(obj)
    others = {
        one["type"]: Verdict(one["status"], one["reason"], one["message"])
        for one in status.get("conditions") or ()
    }
    return told(obj, {**others, **verdicts}, now, fields=_own_fields(status))


def _own_fields(status: Raw) -> dict[str, Any]:
    shared = ("conditions", "observedGeneration", "fencingToken")
    return {name: value for name, value in status.items() if name not in shared}


def refused(
    obj: Raw, error: InvalidError, now: datetime, *, reason: str = "InvalidSpec", **plan: Any
) -> Plan:
    """A plan for a spec that cannot work: it says so and leaves everything else as it is."""
    verdicts = stalled(reason, str(error))
    accepted = Verdict("False", reason, str(error))
    kept = _own_fields(status_of(obj))
    return told(obj, {**verdicts, "Accepted": accepted}, now, fields=kept, **plan)
