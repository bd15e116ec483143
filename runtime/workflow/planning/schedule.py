"""How long a plan takes where only so many steps run at the same time: list scheduling.

A place that becomes free takes the next ready unit, in the order in which units became ready, as the
engine does (Graham 1966: at most twice the best possible). Steps of equal readiness go in the order of
their positions. Limits of Pools and agents are not looked at.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from seedbed.runtime.workflow.planning.plan import Plan


@dataclass(frozen=True, slots=True)
class Job:
    """What is left of a step.

    Attributes:
        seconds: time of one unit.
        units: units that have not begun; 0 in a step that has ended.
        running: seconds left of each unit that runs now.
    """

    seconds: float
    units: int = 1
    running: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Schedule:
    """When each step begins and ends, in seconds from now, and when all have ended."""

    starts: Sequence[float]
    ends: Sequence[float]
    seconds: float


def simulate(plan: Plan, jobs: Sequence[Job], parallelism: int) -> Schedule:
    """Play the plan through; the time needed grows with units and edges."""
    return _Simulation(plan, jobs, parallelism).play()


class _Simulation:
    def __init__(self, plan: Plan, jobs: Sequence[Job], parallelism: int) -> None:
        self._plan = plan
        self._jobs = jobs
        self._free = max(1, parallelism)
        self._waits = [len(needs) for needs in plan.needs]
        self._open = [job.units + len(job.running) for job in jobs]
        self._unstarted = [job.units for job in jobs]
        self._starts = [-1.0] * len(jobs)
        self._ends = [0.0] * len(jobs)
        self._ready: list[tuple[int, int]] = []  # (turn, step): first come, first served
        self._turn = 0
        self._running: list[tuple[float, int]] = []  # (end, step)

    def play(self) -> Schedule:
        self._begin()
        now = 0.0
        while self._running:
            now, step = heapq.heappop(self._running)
            settled = self._end_unit(step, now)
            while self._running and self._running[0][0] <= now:
                settled += self._end_unit(heapq.heappop(self._running)[1], now)
            for one in sorted(settled):
                self._settle(one, now)
            self._fill(now)
        return Schedule(self._starts, self._ends, max(self._ends, default=0.0))

    def _begin(self) -> None:
        for step, job in enumerate(self._jobs):
            for left in job.running:
                self._starts[step] = 0.0
                self._free -= 1
                heapq.heappush(self._running, (left, step))
        for step, waits in enumerate(self._waits):
            if waits == 0:
                self._make_ready(step, 0.0)
        self._fill(0.0)

    def _end_unit(self, step: int, now: float) -> list[int]:
        self._free += 1
        self._open[step] -= 1
        self._ends[step] = now
        return [step] if self._open[step] == 0 else []

    def _settle(self, step: int, now: float) -> None:
        """Tell the dependents; what has nothing to do settles at once."""
        stack = [step]
        while stack:
            for dependent in self._plan.dependents[stack.pop()]:
                self._waits[dependent] -= 1
                if self._waits[dependent] == 0 and self._queue(dependent, now):
                    stack.append(dependent)

    def _make_ready(self, step: int, now: float) -> None:
        if self._queue(step, now):
            self._settle(step, now)

    def _queue(self, step: int, now: float) -> bool:
        """Put a step in the queue; True where there is nothing left to do for it."""
        if self._open[step] == 0:
            self._starts[step] = self._ends[step] = now
            return True
        if self._unstarted[step]:
            self._turn += 1
            heapq.heappush(self._ready, (self._turn, step))
        return False

    def _fill(self, now: float) -> None:
        while self._free > 0 and self._ready:
            step = self._ready[0][1]
            if self._starts[step] < 0:
                self._starts[step] = now
            count = min(self._free, self._unstarted[step])
            self._free -= count
            self._unstarted[step] -= count
            if self._unstarted[step] == 0:
                heapq.heappop(self._ready)
            end = now + self._jobs[step].seconds
            for _ in range(count):
                heapq.heappush(self._running, (end, step))
