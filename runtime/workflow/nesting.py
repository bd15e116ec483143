"""Runs that do the work of a step of another run. Pure.

A `workflow` step is scheduled like any other; its work is a run of its own with a journal of its own,
whose id follows from the step's key and attempt.
"""

from __future__ import annotations

from typing import Any

from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import Parent, RunRequest, StepError, StepResult
from seedbed.crds.run_ids import child_id
from seedbed.crds.sub_workflow import MAX_DEPTH
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.units import Unit

_HOPELESS = ("Cancelled", "ResultInvalid", "InternalError")
"""Reasons of a failed run after which another one would fail too."""


def check_depth(state: RunState, field: str) -> None:
    """Pass where one more level may be opened.

    Raises:
        InvalidError: naming the Workflows around.
    """
    chain = _chain(state)
    if len(chain) >= MAX_DEPTH:
        told = " → ".join(chain)
        raise InvalidError(field, f"Workflows are nested at most {MAX_DEPTH} deep: {told}")


def child_request(state: RunState, unit: Unit) -> RunRequest:
    """The run that does the work of a scheduled unit."""
    task = unit.task
    assert task is not None
    assert task.program is not None
    request = state.request
    spec = {
        name: value
        for name, value in task.program["spec"].items()
        if name not in ("template", "suspend")
    }
    spec["params"] = {**(spec.get("params") or {}), **(task.inputs or {})}
    if state.suspended:
        spec["suspend"] = True
    ends = [task.at + task.timeout] if task.timeout else []
    if state.ends is not None:
        ends.append(state.ends)
    return RunRequest(
        child_id(request.run, unit.key, unit.attempt),
        request.namespace,
        task.program["workflow"] or f"{request.workflow}/{unit.key.step}",
        spec,
        request.traceparent,
        parent=Parent(request.run, unit.key, unit.attempt, _chain(state), min(ends, default=None)),
    )


def result_of(
    child: RunRequest,
    phase: str,
    reason: str,
    message: str,
    output: Any,
    times: tuple[float, float],
) -> StepResult:
    """What the end of a child means for the step that it did the work of."""
    parent = child.parent
    assert parent is not None
    error = None
    if phase != "Succeeded":
        error = StepError(
            "workflow_failed",
            f"{child.workflow} ended as {reason}: {message}",
            retryable=reason not in _HOPELESS,
        )
    worker = f"run {child.run}"
    of = (parent.run, parent.key, parent.attempt, worker)
    return StepResult(*of, output if error is None else None, error, *times)


def refusal_of(child: RunRequest, refused: InvalidError, now: float) -> StepResult:
    """The result of a step whose run cannot begin."""
    parent = child.parent
    assert parent is not None
    error = StepError(refused.code, f"{child.workflow}: {refused.message}", retryable=False)
    return StepResult(parent.run, parent.key, parent.attempt, "engine", None, error, now, now)


def _chain(state: RunState) -> tuple[str, ...]:
    parent = state.request.parent
    return (*(parent.chain if parent is not None else ()), state.request.workflow)
