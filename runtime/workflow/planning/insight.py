"""What is known of a run at one moment, and how it is told: critical path, bottlenecks, end."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, TypedDict

from seedbed.crds.graph import Graph
from seedbed.crds.graph_builder import build_graph
from seedbed.crds.messages import RunRequest, RunSummary
from seedbed.crds.wire import decode
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.store.port import RunRow, Store
from seedbed.runtime.workflow.planning.critical_path import (
    SHOWN,
    CriticalPath,
    bottlenecks,
    critical_path,
    slowest_paths,
)
from seedbed.runtime.workflow.planning.optimise import optimise
from seedbed.runtime.workflow.planning.plan import Plan
from seedbed.runtime.workflow.planning.schedule import Schedule, simulate
from seedbed.runtime.workflow.planning.timings import (
    StepTimes,
    Times,
    Work,
    body_of,
    observe,
    works,
)
from seedbed.runtime.workflow.replay import records_of, stored_plan

EARLIER_RUNS = 5
"""Runs of the same Workflow, before this one, whose times are looked at."""
STEPS_TOLD = 1000
"""Steps whose times one answer tells, those with the least slack first."""


@dataclass(frozen=True)
class Analysis:
    """A run, or a plan that nobody has run yet, with the times of its steps.

    Attributes:
        times: what its journal tells of each step.
        earlier: times of the runs before it.
        run: id of the run; empty for a plan.
        now: Unix time for which this holds.
        started: Unix time of the run's start.
        finished: Unix time of its end.
    """

    spec: WorkflowSpec
    graph: Graph
    works: Sequence[Work]
    now: float
    earlier: Sequence[Times] = ()
    run: str = ""
    phase: str = "Pending"
    started: float | None = None
    finished: float | None = None
    times: Times = field(default_factory=dict)

    @cached_property
    def plan(self) -> Plan:
        """The graph as numbers."""
        return Plan.of(self.graph)

    @property
    def parallelism(self) -> int:
        """Units that may run at the same time."""
        return self.spec.parallelism

    @cached_property
    def spans(self) -> tuple[float, ...]:
        """Seconds that each step takes in all."""
        return tuple(work.span(self.now, self.parallelism) for work in self.works)

    @cached_property
    def critical(self) -> CriticalPath:
        """The longest path of the whole run, what has ended included."""
        return critical_path(self.plan, self.spans)

    @cached_property
    def rest(self) -> Schedule:
        """How what is left goes on from now."""
        return simulate(self.plan, [work.job(self.now) for work in self.works], self.parallelism)

    @property
    def eta(self) -> float | None:
        """Unix time at which the run is expected to end; None where it has ended or not begun."""
        if self.started is None or self.finished is not None:
            return None
        return self.now + self.rest.seconds


def of_plan(spec: WorkflowSpec, earlier: Sequence[Times] = ()) -> Analysis:
    """The analysis of a Workflow that has not run.

    Raises:
        InvalidError: where it cannot run.
    """
    graph = build_graph(spec)
    return Analysis(spec, graph, works(graph, {}, earlier), 0.0, earlier)


async def of_run(store: Store, row: RunRow, now: float | None = None) -> Analysis:
    """The analysis of a run from the store, with the times of the runs before it.

    Raises:
        InvalidError: where its journal cannot be read.
    """
    request = decode(RunRequest, row.request)
    summary = decode(RunSummary, row.summary)
    plan = await stored_plan(store, request)
    rows = await store.runs(row.namespace, row.workflow)
    older = [each.run for each in rows if each.finished and each.run != row.run]
    current = await _times(store, row.run)
    earlier = [await _times(store, run) for run in older[:EARLIER_RUNS]]
    parallelism = summary.parallelism or plan.spec.parallelism
    return Analysis(
        plan.spec.model_copy(update={"parallelism": parallelism}),
        plan.graph,
        works(plan.graph, current, earlier),
        now if now is not None else (summary.finished or time.time()),
        earlier,
        row.run,
        summary.phase,
        summary.started,
        summary.finished,
        current,
    )


async def _times(store: Store, run: str) -> dict[str, Any]:
    return observe([record async for _, record in records_of(store, run)])


class RunTold(TypedDict):
    """A run, and what is expected of it; `eta` is an instant, `remaining` seconds."""

    run: str
    phase: str
    parallelism: int
    eta: str | None
    remaining: float


class StepTold(TypedDict):
    """A step in the run's schedule; times are seconds."""

    name: str
    state: str
    seconds: float
    slack: float
    start: float
    units: int
    source: str


class CriticalPathTold(RunTold):
    """The longest path; `steps` are those with the least slack, of `total`."""

    seconds: float
    path: list[StepTold]
    steps: list[StepTold]
    total: int


class BottleneckTold(StepTold):
    """A step that the end waits for: what it would gain at most to make it faster, and that as a share."""

    gain: float
    share: float


class PathTold(TypedDict):
    """A path through the graph."""

    seconds: float
    steps: list[str]


class BottlenecksTold(RunTold):
    """What holds a run up."""

    seconds: float
    bottlenecks: list[BottleneckTold]
    slowestPaths: list[PathTold]


class ChangeTold(TypedDict):
    """What the optimiser would change."""

    sort: str
    step: str
    message: str


class OptimisationTold(TypedDict):
    """What it would make of a plan; times are seconds."""

    run: str
    before: float
    after: float
    gain: float
    counts: dict[str, int]
    changes: list[ChangeTold]
    merged: dict[str, str]
    leftOut: list[str]


class ShareTold(TypedDict):
    """What steps of one sort took together."""

    steps: int
    units: int
    seconds: float
    share: float


class ProfileTold(TypedDict):
    """Where the time of workers went."""

    run: str
    phase: str
    workerSeconds: float
    kinds: dict[str, ShareTold]
    bodies: dict[str, ShareTold]
    stages: list[dict[str, ShareTold]]


def critical_path_told(found: Analysis, limit: int = STEPS_TOLD) -> CriticalPathTold:
    """Length, path, slack and expected end, as JSON.

    Args:
        found: the run.
        limit: steps that are told under `steps`, those with the least slack first.
    """
    critical = found.critical
    least = sorted(
        range(len(found.works)), key=lambda at: (critical.slack[at], critical.starts[at])
    )
    return {
        **_head(found),
        "seconds": critical.seconds,
        "path": [_step(found, at) for at in critical.path],
        "steps": [_step(found, at) for at in least[:limit]],
        "total": len(found.works),
    }


def bottlenecks_told(found: Analysis, count: int = SHOWN) -> BottlenecksTold:
    """The steps that the end waits for, and the slowest paths, as JSON."""
    names = found.plan.names
    return {
        **_head(found),
        "seconds": found.critical.seconds,
        "bottlenecks": [
            {**_step(found, one.step), "gain": one.gain, "share": one.share}
            for one in bottlenecks(found.critical, count)
        ],
        "slowestPaths": [
            {"seconds": path.seconds, "steps": [names[at] for at in path.steps]}
            for path in slowest_paths(found.critical, count)
        ],
    }


def optimisation_told(found: Analysis) -> OptimisationTold:
    """What the optimiser would make of the plan, as JSON; nothing is changed by that."""
    best = optimise(found.spec, found.earlier)
    return {
        "run": found.run,
        "before": best.before,
        "after": best.after,
        "gain": best.gain,
        "counts": {str(sort): count for sort, count in best.counts.items()},
        "changes": [
            {"sort": one.sort, "step": one.step, "message": one.message} for one in best.changes
        ],
        "merged": dict(best.merged),
        "leftOut": list(best.left_out),
    }


def profile_told(found: Analysis) -> ProfileTold:
    """Where the time of workers went: by kind of step, by body, and by stage, as JSON.

    A stage holds the steps of one level of the graph.
    """
    by_kind: dict[str, _Share] = defaultdict(_Share)
    by_body: dict[str, _Share] = defaultdict(_Share)
    by_stage: dict[int, dict[str, _Share]] = defaultdict(lambda: defaultdict(_Share))
    for node, level in zip(found.graph.nodes.values(), found.plan.levels(), strict=True):
        times = found.times.get(node.name)
        if times is not None and times.ended + len(times.running):
            body = body_of(node.step)
            kind = body.partition(" ")[0]
            for share in (by_kind[kind], by_body[body], by_stage[level][kind]):
                share.add(times)
    total = sum(share.seconds for share in by_kind.values())
    longest = sorted(by_body.items(), key=lambda item: -item[1].seconds)[:SHOWN]
    return {
        "run": found.run,
        "phase": found.phase,
        "workerSeconds": total,
        "kinds": {kind: share.told(total) for kind, share in by_kind.items()},
        "bodies": {body: share.told(total) for body, share in longest},
        "stages": [
            {kind: share.told(total) for kind, share in by_stage[level].items()}
            for level in sorted(by_stage)
        ],
    }


@dataclass(slots=True)
class _Share:
    """What steps of one sort took together."""

    steps: int = 0
    units: int = 0
    seconds: float = 0.0

    def add(self, times: StepTimes) -> None:
        self.steps += 1
        self.units += times.ended + len(times.running)
        self.seconds += times.spent

    def told(self, total: float) -> ShareTold:
        share = self.seconds / total if total else 0.0
        return {"steps": self.steps, "units": self.units, "seconds": self.seconds, "share": share}


PAGES: Mapping[str, Callable[[Analysis], Mapping[str, Any]]] = {
    "critical-path": critical_path_told,
    "bottlenecks": bottlenecks_told,
    "optimisation": optimisation_told,
    "profile": profile_told,
}
"""What can be told of an analysis, by the last part of the address."""


def _head(found: Analysis) -> RunTold:
    return {
        "run": found.run,
        "phase": found.phase,
        "parallelism": found.parallelism,
        "eta": None if found.eta is None else instant(found.eta),
        "remaining": found.rest.seconds if found.finished is None else 0.0,
    }


def _step(found: Analysis, at: int) -> StepTold:
    work = found.works[at]
    return {
        "name": found.plan.names[at],
        "state": work.state,
        "seconds": found.spans[at],
        "slack": found.critical.slack[at],
        "start": found.critical.starts[at],
        "units": work.units,
        "source": work.source,
    }


def instant(time_of: float) -> str:
    """A Unix time as Kubernetes writes it, in whole seconds."""
    return datetime.fromtimestamp(time_of, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def spoken(seconds: float) -> str:
    """Seconds as people say them: `1h02m`, `3m05s`, `12.3s`, `250ms`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:  # noqa: PLR2004  # a minute
        return f"{seconds:.3g}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:  # noqa: PLR2004  # an hour
        return f"{minutes}m{rest:02d}s" if rest else f"{minutes}m"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m" if minutes else f"{hours}h"
