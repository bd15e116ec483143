"""The longest path through a plan, what each step could be late by, and what would help most.

All times are seconds. `spans` gives how long each step takes, by position; a step starts when all that it
needs has ended, and nothing else holds it back (the critical path method, Kelley and Walker 1959).
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from seedbed.runtime.workflow.planning.plan import Plan

SHOWN = 10
"""Bottlenecks and slowest paths that are told."""


@dataclass(frozen=True)
class CriticalPath:
    """The times of a plan without any limit on what runs at the same time.

    Attributes:
        seconds: from the first start to the last end.
        starts: the earliest start of each step.
        tails: from each step's start to the end of the longest path behind it, the step included.
        path: the steps of one longest path, in order.
    """

    plan: Plan
    spans: Sequence[float]
    seconds: float
    starts: Sequence[float]
    tails: Sequence[float]
    path: tuple[int, ...]

    @cached_property
    def slack(self) -> tuple[float, ...]:
        """How much later than its earliest start each step may start without delaying the end."""
        tolerance = 1e-9 * self.seconds
        found = (
            self.seconds - start - tail for start, tail in zip(self.starts, self.tails, strict=True)
        )
        return tuple(0.0 if one <= tolerance else one for one in found)


def critical_path(plan: Plan, spans: Sequence[float]) -> CriticalPath:
    """Analyse a plan, in time linear in steps plus edges."""
    starts = [0.0] * len(spans)
    ends = [0.0] * len(spans)
    needs, dependents = plan.needs, plan.dependents
    for step in plan.order:
        start = 0.0
        for need in needs[step]:
            if ends[need] > start:  # noqa: PLR1730  # a call of max() would double the time
                start = ends[need]
        starts[step] = start
        ends[step] = start + spans[step]
    tails = [0.0] * len(spans)
    for step in reversed(plan.order):
        behind = 0.0
        for dependent in dependents[step]:
            if tails[dependent] > behind:  # noqa: PLR1730  # as above
                behind = tails[dependent]
        tails[step] = spans[step] + behind
    path = _walk(plan, tails)
    seconds = tails[path[0]] if path else 0.0
    return CriticalPath(plan, spans, seconds, starts, tails, path)


def _walk(plan: Plan, tails: Sequence[float]) -> tuple[int, ...]:
    """From the root with the longest tail, always on to the dependent with the longest."""
    following: Sequence[int] = [step for step, needs in enumerate(plan.needs) if not needs]
    path: list[int] = []
    while following:
        step = max(following, key=tails.__getitem__)
        path.append(step)
        following = plan.dependents[step]
    return tuple(path)


@dataclass(frozen=True, slots=True)
class SlowPath:
    """One path from a step that needs nothing to one that nothing needs."""

    seconds: float
    steps: tuple[int, ...]


def slowest_paths(found: CriticalPath, count: int = SHOWN) -> list[SlowPath]:
    """The longest paths, longest first.

    A path is the longest one plus detours; each detour costs what the best way on would have been longer
    by (Eppstein 1998). Paths are followed in order of their cost, and going on along the best way costs
    nothing, so each path is found in time linear in its length and the steps' dependents.
    """
    plan, tails = found.plan, found.tails
    roots = [step for step, needs in enumerate(plan.needs) if not needs]
    made = 0
    # (cost, newest first, step, the way to it)
    heap: list[tuple[float, int, int, _Way | None]] = []

    def push(cost: float, steps: Sequence[int], way: _Way | None) -> None:
        nonlocal made
        best = max(tails[step] for step in steps)
        for step in steps:
            made += 1
            heapq.heappush(heap, (cost + best - tails[step], -made, step, way))

    if roots:
        push(0.0, roots, None)
    paths: list[SlowPath] = []
    while heap and len(paths) < count:
        cost, _, step, before = heapq.heappop(heap)
        way = _Way(step, before)
        if plan.dependents[step]:
            push(cost, plan.dependents[step], way)
        else:
            paths.append(SlowPath(found.seconds - cost, way.steps()))
    return paths


@dataclass(frozen=True, slots=True)
class _Way:
    """A path by its last step and the way before it: paths share their beginnings."""

    step: int
    before: _Way | None

    def steps(self) -> tuple[int, ...]:
        found: list[int] = []
        at: _Way | None = self
        while at is not None:
            found.append(at.step)
            at = at.before
        return tuple(reversed(found))


@dataclass(frozen=True, slots=True)
class Bottleneck:
    """A step that the end waits for.

    Attributes:
        gain: seconds by which the end would come sooner if the step took no time.
        share: its part of the critical path's length, 0 to 1.
    """

    step: int
    seconds: float
    gain: float
    share: float


def bottlenecks(found: CriticalPath, count: int = SHOWN) -> list[Bottleneck]:
    """The steps whose disappearance would help most; those of the critical path, by their gain.

    Where another path is nearly as long the gain is small however long the step takes.
    """
    position = {step: place for place, step in enumerate(found.plan.order)}
    around = _longest_around(found, position)
    told = [
        Bottleneck(
            step,
            found.spans[step],
            min(found.spans[step], max(0.0, found.seconds - around[position[step]])),
            found.spans[step] / found.seconds if found.seconds else 0.0,
        )
        for step in found.path
    ]
    return sorted(told, key=lambda one: (-one.gain, -one.seconds, one.step))[:count]


def _longest_around(found: CriticalPath, position: dict[int, int]) -> list[float]:
    """For each place in the order, the longest path that does not go through the step there.

    Such a path passes the place on an edge from before to behind it, or it ends before, or begins behind.
    The crossings are swept from the left with the longest one on top.
    """
    plan, starts, tails, spans = found.plan, found.starts, found.tails, found.spans
    count = len(spans)
    # (first place crossed, minus the length of the path, last place crossed)
    crossings: list[tuple[int, float, int]] = []
    for step, needs in enumerate(plan.needs):
        place = position[step]
        if not needs:
            crossings.append((0, -tails[step], place - 1))
        if not plan.dependents[step]:
            crossings.append((place + 1, -starts[step] - spans[step], count - 1))
        for need in needs:
            length = starts[need] + spans[need] + tails[step]
            crossings.append((position[need] + 1, -length, place - 1))
    crossings.sort()
    longest: list[float] = []
    open_now: list[tuple[float, int]] = []
    following = 0
    for place in range(count):
        while following < len(crossings) and crossings[following][0] <= place:
            heapq.heappush(open_now, crossings[following][1:])
            following += 1
        while open_now and open_now[0][1] < place:
            heapq.heappop(open_now)
        longest.append(-open_now[0][0] if open_now else 0.0)
    return longest
