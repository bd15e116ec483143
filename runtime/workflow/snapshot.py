"""A snapshot is the shortest journal that leads to the same state.

It leaves out what has been overtaken: earlier attempts, and the inputs of steps that have ended. It is
read by the same fold as the journal, so there is one way to resume.
"""

from __future__ import annotations

from collections.abc import Iterator

from seedbed.crds.errors import InvalidError
from seedbed.crds.graph_checks import COMPENSATE
from seedbed.crds.messages import StepError, StepKey
from seedbed.runtime.workflow.records import (
    Record,
    RunAdjusted,
    RunCompensating,
    RunRestored,
    RunStarted,
    StepExpanded,
    StepFailed,
    StepRepeated,
    StepSkipped,
    StepSucceeded,
)
from seedbed.runtime.workflow.state import LATER, RunState
from seedbed.runtime.workflow.units import Loop, StepState, Unit

# A unit that succeeded in spite of an error did so through its fallback.
_THEN = {
    "Retrying": "retry",
    "Recovering": "fallback",
    "Succeeded": "fallback",
    "Skipped": "skip",
}


def shortest(state: RunState) -> list[Record]:
    """Records that lead from nothing to a run's state. Their times are not those of the journal."""
    at = state.started or 0.0
    records: list[Record] = [RunStarted(at)]
    adjusted = (state.suspended, state.parallelism, state.priority)
    if adjusted != (state.spec.suspend, state.spec.parallelism, state.spec.priority):
        records.append(RunAdjusted(at, *adjusted))
    records += [one for one in (state.held, state.origin, state.checkpoint) if one is not None]
    records += state.inbox.records()
    records += state.replans
    records += _steps(state, at)
    records += [each for each in state.late if state.awaits(each.key, each.attempt)]
    seen, completed = tuple(state.inbox.seen), tuple(state.completed)
    records.append(RunRestored(state.revision, tuple(state.recent), seen, completed))
    return records


def _steps(state: RunState, at: float) -> Iterator[Record]:
    """The steps in the order of what a run does: its own, those that undo, those behind the outcome."""
    undoing, last = [], frozenset(state.graph.exits)
    for name, step in state.steps.items():
        if name.endswith(COMPENSATE):
            undoing.append(step)
        elif name not in last:
            yield from _step(state, step, at)
    if state.undoing is not None:
        yield RunCompensating(state.undoing.at, state.undoing.cause, state.undoing.why)
        for step in undoing:
            yield from _step(state, step, at)
    if state.ending is not None:
        yield state.ending
        for name in state.graph.exits:
            yield from _step(state, state.steps[name], at)


def _step(state: RunState, step: StepState, at: float) -> Iterator[Record]:
    dead = state.dead.get(step.node.name)
    if dead:
        yield StepSkipped(StepKey(step.node.name), at, dead)
        return
    if step.items is not None:
        yield StepExpanded(step.node.name, at, list(step.items), step.more)
    for unit in step.units:
        if unit.status == "Waiting":
            if unit.key in state.inbox.waiting:
                yield state.inbox.waiting[unit.key]
            continue
        if unit.status == "Held":
            yield state.kept[unit.key]
            continue
        yield from _iterations(state, unit, at)
        if unit.key in state.loops:
            yield _loop(state.loops[unit.key], unit, at)
            if unit.status == "Retrying" and unit.error is None:
                continue
        verdict = state.verdict if unit.key == state.failed else "continue"
        yield from _unit(unit, at, verdict)


def _iterations(state: RunState, unit: Unit, at: float) -> Iterator[StepRepeated]:
    """Those that can be undone, but the last one where the unit still repeats."""
    last = state.loops[unit.key].iteration - 1 if unit.key in state.loops else -1
    for iteration, output in state.iterations.get(unit.key, {}).items():
        if iteration != last:
            yield StepRepeated(unit.key, unit.attempt, at, "", at, at, output, iteration, at)


def _loop(loop: Loop, unit: Unit, at: float) -> StepRepeated:
    times = (at, "", at, at)
    before = loop.iteration - 1
    return StepRepeated(unit.key, loop.attempts, *times, loop.previous, before, unit.retry_at)


def _unit(unit: Unit, at: float, verdict: str) -> Iterator[Record]:
    if unit.task is not None:
        yield unit.task
    times = (at, "", at, at)
    if unit.error is not None and unit.status != "Scheduled":
        retry_at = unit.retry_at if unit.status == "Retrying" else None
        # A failed unit has an output where it has that of its fallback, whose items may have failed.
        then = "fallback" if unit.output is not None else _THEN.get(unit.status, verdict)
        yield StepFailed(unit.key, unit.attempt, *times, unit.error, retry_at, then)
        return
    match unit.status:
        case "Succeeded":
            yield StepSucceeded(unit.key, unit.attempt, *times, unit.output)
        case "Skipped":
            yield StepSkipped(unit.key, at)
        case "Failed" | "Retrying" | "Recovering":
            raise InvalidError(str(unit.key), "a failed unit has an error")
        case "Ready" if unit.attempt:
            early = StepError("anticipated", "failed before its turn")
            yield StepFailed(unit.key, unit.attempt, *times, early, None, LATER)
        case "Ready" | "Scheduled" | "Waiting" | "Held":
            return
