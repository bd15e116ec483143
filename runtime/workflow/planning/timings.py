"""How long the steps of a run took, take and will take: from its journal and those of earlier runs.

An estimate is the median of what is most alike, in this order: the step's own units in this run, the step
in earlier runs, the `estimate` the user declares, steps with the same body, all steps, and one second
where nothing is known. A median, because one slow attempt must not move it.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from seedbed.crds.base import seconds
from seedbed.crds.graph import Graph
from seedbed.crds.step import Step
from seedbed.runtime.workflow.planning.schedule import Job
from seedbed.runtime.workflow.records import (
    Record,
    StepExpanded,
    StepFailed,
    StepRepeated,
    StepScheduled,
    StepSkipped,
    StepSucceeded,
    StepWaiting,
)

State = Literal["Waiting", "Running", "Succeeded", "Failed", "Skipped"]
Source = Literal["measured", "history", "declared", "similar", "default"]
UNKNOWN_SECONDS = 1.0
"""The estimate of a step of which nothing at all is known."""


@dataclass(slots=True)
class StepTimes:
    """What a journal tells of one step.

    Attributes:
        units: items of its forEach, or 1; None while that is not known.
        running: Unix time since when each unit, by index, has been with a worker.
        durations: seconds of each attempt that ended the unit; of one that repeats, of all iterations.
        spent: seconds of all attempts and iterations, also of those that failed.
        begun: start of the first iteration of each unit that repeats.
        first: Unix time of the first start.
        last: Unix time of the last end.
    """

    units: int | None = None
    running: dict[int, float] = field(default_factory=dict)
    durations: list[float] = field(default_factory=list)
    spent: float = 0.0
    begun: dict[int, float] = field(default_factory=dict)
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0
    first: float | None = None
    last: float | None = None

    @property
    def ended(self) -> int:
        """Units that have ended."""
        return self.succeeded + self.failed + self.skipped


Times = Mapping[str, StepTimes]


def observe(records: Iterable[Record]) -> dict[str, StepTimes]:
    """The times of all steps that a journal speaks of."""
    found: dict[str, StepTimes] = defaultdict(StepTimes)
    expanded: set[str] = set()
    for record in records:
        match record:
            case StepExpanded(step, at, items):
                found[step].units = len(items) + (
                    (found[step].units or 0) if step in expanded else 0
                )
                expanded.add(step)
                if not found[step].units:
                    found[step].first = found[step].last = at
            case StepScheduled(key, _, at) | StepWaiting(key, at):
                found[key.step].running[key.index] = at
            case StepSucceeded(key, _, _, _, started, finished):
                times = found[key.step]
                times.succeeded += 1
                times.spent += max(0.0, finished - started)
                started = times.begun.pop(key.index, started)
                _end(times, key.index, started, finished)
                times.durations.append(max(0.0, finished - started))
            case StepRepeated(key, _, _, _, started, finished):
                times = found[key.step]
                times.spent += max(0.0, finished - started)
                times.begun.setdefault(key.index, started)
            case StepFailed(key, _, _, _, started, finished, _, retry_at):
                times = found[key.step]
                times.spent += max(0.0, finished - started)
                if retry_at is None:
                    times.failed += 1
                    _end(times, key.index, started, finished)
                else:
                    times.running.pop(key.index, None)
            case StepSkipped(key, at):
                times = found[key.step]
                times.skipped += 1
                _end(times, key.index, at, at)
    return dict(found)


def _end(times: StepTimes, index: int, started: float, finished: float) -> None:
    times.running.pop(index, None)
    times.first = started if times.first is None else min(times.first, started)
    times.last = finished if times.last is None else max(times.last, finished)


@dataclass(frozen=True, slots=True)
class Work:
    """A step with its times.

    Attributes:
        seconds: time of one unit, measured or estimated; `source` says which.
        units: units in all, known or expected.
        ended: units that have ended.
        running: Unix time since when each running unit has run.
        first: Unix time of its first start, once it has begun.
        last: Unix time of its last end so far.
    """

    seconds: float
    source: Source
    units: int
    ended: int
    running: tuple[float, ...]
    state: State
    first: float | None = None
    last: float | None = None

    def span(self, now: float, parallelism: int) -> float:
        """Seconds from its start to its end where nothing but its own size holds it back."""
        if self.state not in ("Waiting", "Running"):
            return max(0.0, (self.last or 0.0) - (self.first or 0.0))
        expected = self.seconds * math.ceil(self.units / max(1, parallelism))
        if self.state == "Waiting":
            return expected
        began = min((*self.running, *([self.first] if self.first is not None else [])))
        rest = max((self._left(since, now) for since in self.running), default=0.0)
        return max(expected, now - began + rest)

    def job(self, now: float) -> Job:
        """What is left of it."""
        running = tuple(self._left(since, now) for since in self.running)
        return Job(self.seconds, max(0, self.units - self.ended - len(running)), running)

    def _left(self, since: float, now: float) -> float:
        """Of a unit that runs: nothing is left where it has taken longer than expected already."""
        return max(0.0, self.seconds - (now - since))


def works(
    graph: Graph,
    current: Times,
    earlier: Sequence[Times] = (),
    unknown: float = UNKNOWN_SECONDS,
) -> list[Work]:
    """Every step of the graph with its times, in the graph's order.

    Args:
        graph: the Workflow's steps.
        current: what the run's own journal tells; empty before it begins.
        earlier: the same of earlier runs of the Workflow.
        unknown: seconds of a unit of which nothing is known.
    """
    estimates = _Estimates(graph, current, earlier, unknown)
    return [_work(node.step, current.get(name), estimates) for name, node in graph.nodes.items()]


def _work(step: Step, times: StepTimes | None, estimates: _Estimates) -> Work:
    length, source = estimates.of(step)
    units = estimates.units(step)
    if times is None:
        return Work(length, source, units, 0, (), "Waiting")
    units = max(units, times.ended + len(times.running))
    since = tuple(sorted(times.running.values()))
    state: State
    if times.ended >= units:
        state = "Failed" if times.failed else "Succeeded" if times.succeeded else "Skipped"
        state = "Succeeded" if units == 0 else state
    else:
        state = "Running" if since or times.ended else "Waiting"
    return Work(length, source, units, times.ended, since, state, times.first, times.last)


class _Estimates:
    """Medians of what was measured, each computed once."""

    def __init__(
        self, graph: Graph, current: Times, earlier: Sequence[Times], unknown: float
    ) -> None:
        self._unknown = unknown
        self._current = current
        self._earlier = earlier
        self._history: dict[str, list[float]] = defaultdict(list)
        for run in earlier:
            for name, times in run.items():
                self._history[name] += times.durations
        alike: dict[str, list[float]] = defaultdict(list)
        for name, node in graph.nodes.items():
            measured = current[name].durations if name in current else []
            alike[body_of(node.step)] += measured or self._history.get(name, [])
        self._alike = {body: median(found) for body, found in alike.items() if found}
        everything = [one for found in alike.values() for one in found]
        self._overall = median(everything) if everything else None

    def of(self, step: Step) -> tuple[float, Source]:
        """Seconds of one unit, and where that comes from."""
        times = self._current.get(step.name)
        if times is not None and times.durations:
            return median(times.durations), "measured"
        if self._history.get(step.name):
            return median(self._history[step.name]), "history"
        if step.estimate is not None:
            return seconds(step.estimate), "declared"
        alike = self._alike.get(body_of(step), self._overall)
        return (self._unknown, "default") if alike is None else (alike, "similar")

    def units(self, step: Step) -> int:
        """Units of a step: known, or as many as in earlier runs, or 1."""
        if step.for_each is None:
            return 1
        times = self._current.get(step.name)
        if times is not None and times.units is not None:
            return times.units
        before = [
            run[step.name].units or 0
            for run in self._earlier
            if step.name in run and run[step.name].units is not None
        ]
        return round(median(before)) if before else 1


def body_of(step: Step) -> str:
    """What a step does, in one word: steps that share it take about the same time."""
    if step.agent is not None:
        return f"agent {step.agent.name}"
    if step.call is not None:
        return f"call {step.call.entry}"
    if step.container is not None:
        return f"container {step.container.image}"
    if step.goal is not None:
        return f"goal {step.goal.model or ''}"
    return "another"
