"""What a Workflow's runs have been like: how many, how long, how often well; and the runs inside of them.

Read from the store when somebody asks. Counts are of the newest 1,000 runs, figures of steps of the
newest finished ones, up to a number of records, so that the cost does not grow with the history.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypedDict

from seedbed.crds.errors import NotFoundError
from seedbed.crds.messages import RunSummary
from seedbed.crds.run_ids import child_id
from seedbed.crds.wire import decode
from seedbed.runtime.store.port import Store
from seedbed.runtime.workflow.records import StepFailed, StepScheduled, StepSucceeded
from seedbed.runtime.workflow.replay import records_of

MOST_RECORDS = 200_000
"""Records that are read for figures of steps."""
STEPS_TOLD = 1000
RUNS_TOLD = 20
CHILDREN_TOLD = 1000
_ENDED = ("Succeeded", "Failed")


class Figures(TypedDict):
    """How many, how often well, how long."""

    count: int
    succeeded: int
    failed: int
    successRate: float | None
    p50Seconds: float | None
    p95Seconds: float | None


class RunFigures(Figures):
    """Of runs; `active` are under way."""

    active: int


class StepFigures(Figures):
    """Of the attempts of a step."""

    name: str


class Statistics(TypedDict):
    """Of a Workflow and its steps, these of `runsRead` runs."""

    workflow: str
    runs: RunFigures
    steps: list[StepFigures]
    runsRead: int


class RunListed(TypedDict):
    """A run, and those that do the work of its steps; times are Unix times."""

    run: str
    workflow: str
    step: str
    phase: str
    reason: str
    progress: str
    started: float | None
    finished: float | None
    runs: list[RunListed]


class RunsListed(TypedDict):
    """The newest runs of a Workflow."""

    workflow: str
    runs: list[RunListed]


@dataclass(slots=True)
class _Tally:
    """How attempts of one step, or runs, have ended."""

    succeeded: int = 0
    failed: int = 0
    durations: list[float] = field(default_factory=list)

    def told(self) -> Figures:
        ended = self.succeeded + self.failed
        return {
            "count": ended,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "successRate": self.succeeded / ended if ended else None,
            "p50Seconds": quantile(self.durations, 0.5),
            "p95Seconds": quantile(self.durations, 0.95),
        }


def quantile(values: Sequence[float], share: float) -> float | None:
    """The smallest value that at least this share of the values does not exceed; None of none."""
    if not values:
        return None
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


async def statistics(store: Store, namespace: str, workflow: str) -> Statistics:
    """Figures of a Workflow and its steps; for a template, of the runs that did the work of steps.

    The step that took the most time in all comes first.

    Raises:
        NotFoundError: where it has no run.
    """
    summaries = await _summaries(store, namespace, workflow)
    runs = _Tally()
    for told in summaries:
        _count_run(runs, told)
    active = sum(1 for told in summaries if told.phase not in _ENDED)
    steps, read = await _steps(store, [told.run for told in summaries if told.phase in _ENDED])
    slowest = sorted(steps.items(), key=lambda item: -sum(item[1].durations))
    return {
        "workflow": workflow,
        "runs": {**runs.told(), "count": len(summaries), "active": active},
        "steps": [{"name": name, **tally.told()} for name, tally in slowest[:STEPS_TOLD]],
        "runsRead": read,
    }


async def runs_told(store: Store, namespace: str, workflow: str) -> RunsListed:
    """A Workflow's newest runs, each with the runs that do the work of its steps, under `runs`.

    Raises:
        NotFoundError: where it has no run.
    """
    summaries = await _summaries(store, namespace, workflow)
    left = [CHILDREN_TOLD]
    return {
        "workflow": workflow,
        "runs": [await _told(store, told, left) for told in summaries[:RUNS_TOLD]],
    }


PAGES: Mapping[str, Callable[[Store, str, str], Awaitable[Mapping[str, Any]]]] = {
    "stats": statistics,
    "runs": runs_told,
}
"""What is told of all runs of a Workflow, by the name of its page."""


async def _summaries(store: Store, namespace: str, workflow: str) -> list[RunSummary]:
    rows = await store.runs(namespace, workflow)
    if not rows:
        raise NotFoundError("Run", f"of Workflow {namespace}/{workflow}")
    return [decode(RunSummary, row.summary) for row in rows]


def _count_run(tally: _Tally, told: RunSummary) -> None:
    if told.phase == "Succeeded":
        tally.succeeded += 1
    elif told.phase == "Failed":
        tally.failed += 1
    if told.phase in _ENDED and told.started is not None and told.finished is not None:
        tally.durations.append(told.finished - told.started)


async def _steps(store: Store, runs: Sequence[str]) -> tuple[dict[str, _Tally], int]:
    tallies: dict[str, _Tally] = defaultdict(_Tally)
    records = read = 0
    for run in runs:
        if records >= MOST_RECORDS:
            break
        read += 1
        async for _, record in records_of(store, run):
            records += 1
            if isinstance(record, StepSucceeded | StepFailed) and record.attempt:
                tally = tallies[record.key.step]
                tally.durations.append(max(0.0, record.finished - record.started))
                if isinstance(record, StepSucceeded):
                    tally.succeeded += 1
                else:
                    tally.failed += 1
    return tallies, read


async def _told(store: Store, told: RunSummary, left: list[int]) -> RunListed:
    counts = told.counts
    children = []
    for child in await _children(store, told.run):
        if left[0] <= 0:
            break
        row = await store.run(child)
        if row is not None:
            left[0] -= 1
            children.append(await _told(store, decode(RunSummary, row.summary), left))
    return {
        "run": told.run,
        "workflow": told.workflow,
        "step": told.parent_step,
        "phase": told.phase,
        "reason": told.reason,
        "progress": f"{counts.succeeded + counts.failed + counts.skipped}/{counts.total}",
        "started": told.started,
        "finished": told.finished,
        "runs": children,
    }


async def _children(store: Store, run: str) -> list[str]:
    """Ids of the runs that do, or did, the work of a run's steps, in the order they began."""
    return [
        child_id(run, record.key, record.attempt)
        async for _, record in records_of(store, run)
        if isinstance(record, StepScheduled) and record.kind == "workflow"
    ]
