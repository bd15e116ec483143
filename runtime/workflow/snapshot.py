"""A snapshot is the shortest journal that leads to the same state.

It leaves out what has been overtaken: earlier attempts, and the inputs of steps that have ended. It is
read by the same fold as the journal, so there is one way to resume.
"""

from __future__ import annotations

from collections.abc import Iterator

from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import StepKey
from seedbed.runtime.workflow.records import (
    Record,
    RunAdjusted,
    RunRestored,
    RunStarted,
    StepExpanded,
    StepFailed,
    StepSkipped,
    StepSucceeded,
)
from seedbed.runtime.workflow.state import RunState, StepState, Unit


def shortest(state: RunState) -> list[Record]:
    """Records that lead from nothing to a run's state. Their times are not those of the journal."""
    at = state.started or 0.0
    records: list[Record] = [RunStarted(at)]
    if (state.suspended, state.parallelism) != (state.spec.suspend, state.spec.parallelism):
        records.append(RunAdjusted(at, state.suspended, state.parallelism))
    if state.held is not None:
        records.append(state.held)
    for step in state.steps.values():
        records += _step(step, at, state.dead.get(step.node.name, ""))
    records.append(RunRestored(state.revision, tuple(state.recent)))
    return records


def _step(step: StepState, at: float, dead: str) -> Iterator[Record]:
    if dead:
        yield StepSkipped(StepKey(step.node.name), at, dead)
        return
    if step.items is not None:
        yield StepExpanded(step.node.name, at, step.items)
    for unit in step.units:
        yield from _unit(unit, at)


def _unit(unit: Unit, at: float) -> Iterator[Record]:
    if unit.task is not None:
        yield unit.task
    times = (at, "", at, at)
    match unit.status:
        case "Succeeded":
            yield StepSucceeded(unit.key, unit.attempt, *times, unit.output)
        case "Skipped":
            yield StepSkipped(unit.key, at)
        case "Failed" | "Retrying":
            if unit.error is None:
                raise InvalidError(str(unit.key), "a failed unit has an error")
            retry_at = unit.retry_at if unit.status == "Retrying" else None
            yield StepFailed(unit.key, unit.attempt, *times, unit.error, retry_at)
        case "Ready" | "Scheduled":
            return
