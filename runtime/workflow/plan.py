"""What a run executes: its spec with every step, and the graph of it.

The steps of a small plan stand in its RunRequest. Those of a large one, and those that came from a
ConfigMap or a file, are kept as one value of the store under their content hash, written in the commit
that starts the run: resuming reads nothing from outside, and lists of runs stay small.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
from pydantic import ValidationError

from seedbed.crds.errors import InvalidError
from seedbed.crds.graph import Graph
from seedbed.crds.graph_builder import build_graph, refuse_containers
from seedbed.crds.invalid import invalid
from seedbed.crds.messages import INLINE_LIMIT, RunRequest
from seedbed.crds.step import Step
from seedbed.crds.steps_document import steps_from_json, steps_to_json
from seedbed.crds.sub_workflow import check_params
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.record_form import digest_of
from seedbed.runtime.workflow.records import Record

THREAD_FROM = 200
"""Steps from which on a graph is compiled beside the event loop."""


@dataclass(frozen=True, slots=True)
class RunPlan:
    """A plan that can run."""

    spec: WorkflowSpec
    graph: Graph


@dataclass(frozen=True, slots=True)
class Start:
    """A run that may begin.

    Attributes:
        request: as it is kept: without steps where `values` hold them.
        values: what the store must keep for it, by content hash.
        first: records that it begins with, where it takes over results of an earlier run.
    """

    request: RunRequest
    plan: RunPlan
    values: Mapping[str, bytes] = field(default_factory=dict)
    first: tuple[Record, ...] = ()


def plan_of(request: RunRequest, steps: tuple[Step, ...] | None = None) -> RunPlan:
    """Compile a plan.

    Args:
        request: the run.
        steps: its steps, where its spec does not hold them.

    Raises:
        InvalidError: the plan cannot run.
    """
    spec = _spec(request)
    if steps is not None:
        spec = spec.model_copy(update={"steps": steps, "steps_from": None})
    check_params(spec.param_types, spec.params)
    if request.parent is not None:
        refuse_containers(spec)
    if not spec.steps:
        raise InvalidError("spec.steps", "a run needs steps")
    with uncollected():
        return RunPlan(spec, build_graph(spec))


def started(request: RunRequest, steps: tuple[Step, ...] | None = None) -> Start:
    """A run as it begins, its steps put aside where they are many or came from elsewhere.

    Raises:
        InvalidError: the plan cannot run.
    """
    plan = plan_of(request, steps)
    if plan.spec.optimise == "Apply":
        request, plan, steps = _shorter(request, plan, steps)
    if steps is None:
        held = request.spec.get("steps") or ()
        if len(held) < THREAD_FROM and len(orjson.dumps(held)) <= INLINE_LIMIT:
            return Start(request, plan)
    return aside(request, plan)


def aside(request: RunRequest, plan: RunPlan) -> Start:
    """A run whose steps are kept as one value beside its request."""
    data = steps_to_json(plan.spec.steps)
    digest = digest_of(data)
    rest = {
        name: value for name, value in request.spec.items() if name not in ("steps", "stepsFrom")
    }
    return Start(replace(request, spec=rest, steps=digest), plan, {digest: data})


def _shorter(
    request: RunRequest, plan: RunPlan, steps: tuple[Step, ...] | None
) -> tuple[RunRequest, RunPlan, tuple[Step, ...] | None]:
    """The run with the shorter plan that means the same, where there is one."""
    from seedbed.runtime.workflow.planning.optimise import advice_of, optimise  # noqa: PLC0415 - few need it

    found = optimise(plan.spec)
    request = replace(request, advice=advice_of(found, applied=True))
    if found.spec is plan.spec:
        return request, plan, steps
    spec = {**request.spec, "result": found.spec.result}
    shorter = RunPlan(found.spec, build_graph(found.spec))
    return replace(request, spec=spec), shorter, found.spec.steps


def program_of(step: Step, spec: WorkflowSpec) -> dict[str, Any]:
    """What a step runs whose steps stand in it: like the steps around it, but for what it says."""
    assert step.workflow is not None
    around = spec.model_dump(
        mode="json",
        by_alias=True,
        exclude_defaults=True,
        include={"pool", "retry", "on_error", "parallelism", "priority"},
    )
    pool = {"pool": {"name": step.pool.name}} if step.pool is not None else {}
    call = step.workflow
    result = {"result": call.result} if call.result is not None else {}
    return {"workflow": "", "spec": {**around, **pool, "steps": list(call.steps), **result}}


async def reopened(request: RunRequest, data: bytes | None) -> RunPlan:
    """The plan of a run that the store has: `data` is the value of `request.steps`.

    Raises:
        InvalidError: the value is missing, or this code cannot read it.
    """
    if not request.steps:
        return plan_of(request)
    if data is None:
        raise InvalidError("steps", f"value {request.steps} is missing")
    return await asyncio.to_thread(_reopened, request, data)


@contextmanager
def uncollected() -> Iterator[None]:
    """Rest the garbage collector: a plan in the making has none, and looking costs half of the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def _reopened(request: RunRequest, data: bytes) -> RunPlan:
    with uncollected():
        return plan_of(request, steps_from_json(data))


def _spec(request: RunRequest) -> WorkflowSpec:
    try:
        return WorkflowSpec.model_validate(request.spec)
    except ValidationError as error:
        raise invalid(error, "spec") from error
