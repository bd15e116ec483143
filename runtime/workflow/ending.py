"""How a run ends: its result, compensation of what it did, the steps that follow whatever the outcome.

    running ─► compensating ─► ending (onExit) ─► finished
        └──────────┴──────────────┴──────────────►

A failed step whose policy is `compensate` lets running steps end, then undoes every step that succeeded
and says how, the last one first, one at a time; so does the deadline of a run with that policy. Once the
outcome is known the onExit steps run; they see it and cannot change it. Both have `LIMIT` seconds, and a
run that is cancelled meanwhile goes on with them: what is half undone helps nobody.
"""

from __future__ import annotations

from typing import Any, Literal

from seedbed.crds.errors import InvalidError
from seedbed.crds.expressions import Pending, Scope
from seedbed.crds.messages import StepKey
from seedbed.crds.values import written
from seedbed.runtime.workflow.lanes import queue
from seedbed.runtime.workflow.records import (
    Record,
    RunAdjusted,
    RunCompensating,
    RunEnding,
    RunFinished,
)
from seedbed.runtime.workflow.state import RunState, made
from seedbed.runtime.workflow.units import compensation_of

_TOLD = 3


def cancel(state: RunState, reason: str, now: float) -> list[Record]:
    """End the run as failed.

    One that is suspended goes on with what ends it: nobody may be left who could resume it.
    """
    if state.finished:
        return []
    known = state.ending or state.undoing
    decided = [] if known else finish(state, now, "Failed", "Cancelled", reason)
    if state.suspended and not state.finished:
        decided += made(
            state,
            RunAdjusted(now, suspend=False, parallelism=state.parallelism, priority=state.priority),
        )
    return decided


def fail(state: RunState, defect: str, now: float) -> list[Record]:
    """End the run at once because deciding about it met a defect of this code."""
    if state.finished:
        return []
    message = f"{defect} while deciding what comes next, see the engine's log"
    return made(state, RunFinished(now, "Failed", "InternalError", message, None))


def run_out(state: RunState, now: float) -> list[Record]:
    """The time of the run, or of what follows it, is over."""
    if state.ending is not None:
        return _finished(state, now, "onExit steps took too long")
    if state.undoing is not None:
        return _undone(state, now, "compensation took too long")
    limit = state.spec.deadline or "the time of the run around it"
    message = f"not finished within {limit}"
    policy = state.spec.on_error
    if (
        policy is not None
        and policy.action == "compensate"
        and (state.completed or state.scheduled)
    ):
        return made(state, RunCompensating(now, StepKey(""), message))
    return finish(state, now, "Failed", "DeadlineExceeded", message)


def failing(state: RunState, now: float) -> list[Record]:
    """A step has failed for good, and its policy ends the run."""
    key = state.failed
    assert key is not None
    if state.verdict == "compensate":
        return made(state, RunCompensating(now, key))
    reason = "Aborted" if state.verdict == "abort" else "StepFailed"
    return finish(state, now, "Failed", reason, _cause(state, key))


def undo(state: RunState, now: float) -> list[Record]:
    """Queue the next compensation when the one before has ended; end the run behind the last one."""
    state.startable.clear()
    if state.scheduled or state.lanes:
        return []
    if not state.completed:
        return _undone(state, now, "")
    unit = state.unit(compensation_of(state.completed[-1]))
    if unit.status == "Ready":
        queue(state, unit)
    return []


def complete(state: RunState, scope: Scope, now: float) -> list[Record]:
    """All steps have ended."""
    if state.ending is not None:
        return _finished(state, now, "")
    try:
        result = _result(state, scope)
        written(result, any_keys=True)
    except Pending:
        return []
    except InvalidError as error:
        return finish(state, now, "Failed", "ResultInvalid", error.message)
    except TypeError as error:
        message = f"spec.result: cannot be written: {error}"
        return finish(state, now, "Failed", "ResultInvalid", message)
    total = state.counts["total"]
    message = f"all {total} steps ended" if total > 1 else "its step ended"
    return finish(state, now, "Succeeded", "Succeeded", message, result)


def finish(
    state: RunState,
    now: float,
    phase: Literal["Succeeded", "Failed"],
    reason: str,
    message: str,
    result: Any = None,
) -> list[Record]:
    """The outcome is known: the run is over, or its onExit steps begin."""
    if state.graph.exits and state.started is not None:
        return made(state, RunEnding(now, phase, reason, message, result))
    return made(state, RunFinished(now, phase, reason, message, result))


def _finished(state: RunState, now: float, why: str) -> list[Record]:
    end = state.ending
    assert end is not None
    wrong = [name for name in state.graph.exits if _state(state, name) == "Failed"]
    told = [f"onExit step {name} failed" for name in wrong[:_TOLD]]
    message = "; ".join(filter(None, (end.message, *told, why)))
    return made(state, RunFinished(now, end.phase, end.reason, message, end.result))


def _state(state: RunState, name: str) -> str:
    told = state.told.get(name)
    return str(told["state"]) if told else ""


def _undone(state: RunState, now: float, why: str) -> list[Record]:
    undoing = state.undoing
    assert undoing is not None
    wrong = [f"{key} failed" for key in undoing.failed[:_TOLD]]
    told = f"{undoing.done} compensations ran"
    cause = undoing.why or _cause(state, undoing.cause)
    message = "; ".join(filter(None, (cause, told, *wrong, why)))
    reason = "CompensationFailed" if wrong or why else "Compensated"
    return finish(state, now, "Failed", reason, message)


def _cause(state: RunState, key: StepKey) -> str:
    error = state.unit(key).error
    return f"step {key} failed: {error.message if error else ''}"


def _result(state: RunState, scope: Scope) -> Any:
    if state.graph.result is not None:
        return state.graph.result.evaluate(scope)
    leaves = state.graph.leaves
    if len(leaves) == 1:
        return state.told[leaves[0]]["output"]
    return {name: state.told[name]["output"] for name in leaves}
