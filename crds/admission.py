"""What an object must meet beyond its schema, said before it is stored.

The webhook asks this on a cluster, where the API server has checked the schema already;
`seedbed run` asks it without one, so it checks the whole object. It looks at one object alone:
whether the things it names exist is for the reconcilers to tell in conditions.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pydantic import ValidationError

from seedbed.crds.agent import AgentSpec
from seedbed.crds.base import API_VERSION, NAME_PATTERN, Model, seconds
from seedbed.crds.errors import InvalidError
from seedbed.crds.expressions import Expression, suggestion
from seedbed.crds.feature_flag import FeatureFlagSpec
from seedbed.crds.graph_builder import graph_problems
from seedbed.crds.graph_checks import check_retry
from seedbed.crds.kinds import BY_NAME, Kind
from seedbed.crds.pool import PoolSpec
from seedbed.crds.seed_checks import check_seed_layer
from seedbed.crds.seed_layer import NAME_LIMIT, SEED_IMMUTABLE, SeedLayerSpec
from seedbed.crds.signature import Signature
from seedbed.crds.steps_source import PUSHED
from seedbed.crds.sub_workflow import check_params
from seedbed.crds.templates import below
from seedbed.crds.values import written
from seedbed.crds.workflow import WorkflowSpec

Manifest = dict[str, Any]


def validate(obj: Manifest, old: Manifest | None = None) -> list[InvalidError]:
    """Everything that is wrong with an object; empty where it may pass.

    Args:
        obj: the object as a user wrote it.
        old: the object as it is stored, for an update. What was stored once may stay: an update
            that leaves the spec alone passes, and so does any update of an object being deleted.
    """
    kind = BY_NAME.get(str(obj.get("kind")))
    if kind is None:
        known = dict.fromkeys(BY_NAME)
        name = str(obj.get("kind"))
        return [InvalidError("kind", f"there is no kind `{name}`{suggestion(name, known)}")]
    if obj.get("apiVersion") != API_VERSION:
        return [InvalidError("apiVersion", f"must be {API_VERSION}")]
    metadata = obj.get("metadata")
    if not isinstance(metadata, dict):
        return [InvalidError("metadata", "is required, with a name")]
    if old is not None and (
        metadata.get("deletionTimestamp") or obj.get("spec") == old.get("spec")
    ):
        return []
    return [*_check_name(metadata, kind), *_check_spec(kind, obj.get("spec", {}), old)]


def _check_name(metadata: dict[str, Any], kind: Kind) -> list[InvalidError]:
    name = metadata.get("name")
    if name is None and metadata.get("generateName"):
        return []  # the API server checks the name it makes
    if not isinstance(name, str) or not re.fullmatch(NAME_PATTERN, name):
        expected = "must have 1 to 63 lower-case letters, digits and hyphens, and no dot"
        return [InvalidError("metadata.name", expected)]
    if kind.spec is SeedLayerSpec and len(name) > NAME_LIMIT:
        expected = f"the name of a SeedLayer has at most {NAME_LIMIT} characters"
        return [InvalidError("metadata.name", expected)]
    return []


def _check_spec(kind: Kind, raw: Any, old: Manifest | None) -> list[InvalidError]:
    try:
        # Strict, as the API server is: "3" is no number. JSON, so that lists may become tuples.
        spec = kind.spec.model_validate_json(written(raw), strict=True)
    except TypeError as error:
        return [InvalidError("spec", f"cannot be read: {error}")]
    except ValidationError as error:
        return [_from_pydantic(each) for each in error.errors()]
    found = _CHECKS[kind.spec](spec) if kind.spec in _CHECKS else []
    if old is not None and kind.spec in _IMMUTABLE:
        found += _check_immutable(kind, spec, old)
    return found


def _check_immutable(kind: Kind, spec: Model, old: Manifest) -> list[InvalidError]:
    try:
        before = kind.spec.model_validate(old.get("spec") or {})
    except ValidationError:
        return []  # it was stored by another version, and nothing can be compared
    was, now = before.model_dump(by_alias=True), spec.model_dump(by_alias=True)
    return [
        InvalidError(f"spec.{field}", f"is immutable: make another {kind.name}")
        for field in _IMMUTABLE[kind.spec]
        if was[field] != now[field]
    ]


def _from_pydantic(error: Any) -> InvalidError:
    field = "spec"
    for part in error["loc"]:
        field = f"{field}[{part}]" if isinstance(part, int) else below(field, part)
    if error["type"] == "missing":
        return InvalidError(field, "is required")
    if error["type"] == "extra_forbidden":
        return InvalidError(field, "is no field of this kind")
    message = str(error["msg"]).removeprefix("Value error, ")
    return InvalidError(field, message[:1].lower() + message[1:])


def _check_agent(spec: AgentSpec) -> list[InvalidError]:
    found = _positive(spec.timeout, "spec.timeout")
    try:
        signature = Signature.parse(spec.signature)
        signature.with_strategy(spec.strategy)
    except InvalidError as error:
        return [error, *found]
    for at, demo in enumerate(spec.demos):
        # A demo may show the reasoning that the strategy adds, and need not.
        shown = {
            name: value
            for name, value in demo.items()
            if name != "reasoning" or spec.strategy != "ChainOfThought"
        }
        found += signature.demo_problems(shown, f"spec.demos[{at}]")
    return found


def _check_workflow(spec: WorkflowSpec) -> list[InvalidError]:
    found = _check_steps(spec)
    try:
        if not spec.template:
            check_params(spec.param_types, spec.params)
    except InvalidError as error:
        found.append(error)
    check_retry(spec.retry, "spec.retry", lambda *problem: found.append(InvalidError(*problem)))
    found += _positive(spec.deadline, "spec.deadline")
    found += _positive(spec.checkpoint.interval, "spec.checkpoint.interval")
    found += _positive(spec.checkpoint.retention, "spec.checkpoint.retention")
    for at, step in enumerate(spec.steps):
        found += _positive(step.timeout, f"spec.steps[{at}].timeout")
    return found


def _check_steps(spec: WorkflowSpec) -> list[InvalidError]:
    """The graph, where the object holds it; else where it is said to stand."""
    source = spec.steps_from
    if bool(spec.steps) == (source is not None):
        return [InvalidError("spec.steps", "a Workflow has exactly one of steps and stepsFrom")]
    if source is None:
        return graph_problems(spec)
    if spec.template and source.config_map is not None:
        expected = "the steps of a template stand in the spec or in an artifact"
        return [InvalidError("spec.stepsFrom.configMap", expected)]
    if (source.config_map is None) == (source.artifact is None):
        expected = "stepsFrom has exactly one of configMap and artifact"
        return [InvalidError("spec.stepsFrom", expected)]
    if source.artifact is not None and (source.artifact.sha256 is None) != (
        source.artifact.url.startswith(PUSHED)
    ):
        expected = (
            "an artifact needs its sha256, unless its URL is seedbed://sha256/... and tells it"
        )
        return [InvalidError("spec.stepsFrom.artifact", expected)]
    if spec.result is not None:
        try:
            Expression.parse(spec.result, "spec.result")
        except InvalidError as error:
            return [error]
    return []


def _positive(duration: str | None, field: str) -> list[InvalidError]:
    if duration is not None and seconds(duration) <= 0:
        return [InvalidError(field, "must be longer than 0s")]
    return []


def _check_flag(spec: FeatureFlagSpec) -> list[InvalidError]:
    blocked = set(spec.block)
    return [
        InvalidError(f"spec.allow[{at}]", f"`{subject}` is in spec.block too")
        for at, subject in enumerate(spec.allow)
        if subject in blocked
    ]


_CHECKS: dict[type[Model], Callable[[Any], list[InvalidError]]] = {
    AgentSpec: _check_agent,
    WorkflowSpec: _check_workflow,
    FeatureFlagSpec: _check_flag,
    SeedLayerSpec: check_seed_layer,
}
_IMMUTABLE: dict[type[Model], tuple[str, ...]] = {
    PoolSpec: ("class",),
    SeedLayerSpec: SEED_IMMUTABLE,
}
