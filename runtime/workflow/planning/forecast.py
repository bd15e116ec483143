"""When the runs of a partition will end, and how much shorter they could be; looked at beside its turns.

A look reads the run's state between two turns, in time linear in its steps, and plays the rest through in
a thread. It never delays a turn by more than that reading: the next look at the same run comes after
`EVERY` seconds, and after so long that looking takes one part in `SHARE` of the time. The same holds for
all runs of a partition together: of many, those that have waited longest are looked at first.

How long a unit takes that nothing is known of follows from what the run has done so far: with L units
running on average and one ending every 1/r seconds, a unit takes L/r seconds (Little 1961).
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from seedbed.crds.errors import SeedbedError
from seedbed.crds.graph import Graph
from seedbed.crds.messages import Advice
from seedbed.runtime.workflow import metrics
from seedbed.runtime.workflow.planning.earlier_times import EarlierTimes
from seedbed.runtime.workflow.planning.optimise import MOST_STEPS, advice_of, optimise
from seedbed.runtime.workflow.planning.plan import Plan
from seedbed.runtime.workflow.planning.schedule import simulate
from seedbed.runtime.workflow.planning.timings import (
    UNKNOWN_SECONDS,
    StepTimes,
    Times,
    works,
)
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.units import ENDED

log = logging.getLogger(__name__)

EVERY = 5.0
FIRST = 3.0
"""Seconds that a run has to last before anybody looks ahead: most are over by then."""
SHARE = 100
LOOK_EVERY = 1.0
NOTEWORTHY = 0.02
"""Share of the remaining time by which a forecast has to differ from the last one to replace it."""

Live = Callable[[], Mapping[str, RunState]]
Tell = Callable[[str], Awaitable[None]]
"""Has everybody told of a run, by its id, how it stands now."""


@dataclass(slots=True)
class _Known:
    """What is kept of a run between two looks.

    Attributes:
        due: Unix time of the next look.
        area: unit-seconds that ran so far, from samples.
        sampled: Unix time of the last sample.
    """

    due: float
    sampled: float
    area: float = 0.0
    plan: Plan | None = None
    earlier: Sequence[Times] = field(default_factory=list)


class Forecaster:
    """Looks ahead at one partition's runs; writes what it sees into `RunState.eta` and `.advice`."""

    def __init__(self, partition: int, live: Live, earlier: EarlierTimes, tell: Tell) -> None:
        self._partition = str(partition)
        self._live = live
        self._earlier_times = earlier
        self._tell = tell
        self._known: dict[str, _Known] = {}

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Looks by itself while the context is open."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})
            metrics.LONGEST_REMAINING.labels(self._partition).set(0)

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            await self.look(time.time())

    async def look(self, now: float) -> None:
        """Look at every run whose time for that has come."""
        live = self._live()
        for name in self._known.keys() - live.keys():
            del self._known[name]
        due: list[tuple[float, RunState, _Known]] = []
        for name, state in live.items():
            if state.started is None:
                continue
            known = self._known.setdefault(name, _Known(state.started + FIRST, now))
            known.area += state.counts["running"] * max(0.0, now - known.sampled)
            known.sampled = now
            if now >= known.due:
                due.append((known.due, state, known))
        due.sort(key=lambda each: each[0])
        began = time.perf_counter()
        for _, state, known in due:
            if state.finished is None:
                await self._try(state, known, now)
            if time.perf_counter() > began + LOOK_EVERY / SHARE:
                break
        ends = [state.eta for state in live.values() if state.eta is not None]
        metrics.LONGEST_REMAINING.labels(self._partition).set(max(ends, default=now) - now)

    async def _try(self, state: RunState, known: _Known, now: float) -> None:
        began = time.perf_counter()
        before = (state.eta, state.advice)
        try:
            await self._look_ahead(state, known, now)
            if (state.eta, state.advice) != before and state.finished is None:
                await self._tell(state.request.run)
        except SeedbedError as error:
            log.info("no forecast of %s now: %s", state.request.run, error)
        except Exception:
            # A defect that one run's state meets must not end the engine, nor the others' forecasts.
            log.exception("no forecast of %s: unexpected failure", state.request.run)
            known.due = float("inf")
            return
        took = time.perf_counter() - began
        metrics.FORECAST_SECONDS.observe(took)
        known.due = now + max(EVERY, SHARE * took)

    async def _look_ahead(self, state: RunState, known: _Known, now: float) -> None:
        if known.plan is None:
            known.earlier = await self._earlier(state)
            known.plan = await asyncio.to_thread(Plan.of, state.graph)
        if state.suspended or state.ending is not None or state.undoing is not None:
            state.eta = None
        else:
            ended = sum(state.counts[status.lower()] for status in ENDED)
            unit = known.area / ended if ended and known.area else UNKNOWN_SECONDS
            times = times_of(state)
            of_run = (state.graph, known.plan, times, known.earlier, unit, state.parallelism)
            rest = await asyncio.to_thread(remaining, *of_run, now)
            if state.eta is None or abs(now + rest - state.eta) > max(1.0, NOTEWORTHY * rest):
                state.eta = now + rest
        if state.advice is None and state.spec.optimise == "Report":
            state.advice = await asyncio.to_thread(_advised, state, known.earlier)

    async def _earlier(self, state: RunState) -> Sequence[Times]:
        request = state.request
        if request.parent is not None or not request.workflow:
            return ()
        return await self._earlier_times.of(request.namespace, request.workflow)


def remaining(
    graph: Graph,
    plan: Plan,
    current: Times,
    earlier: Sequence[Times],
    unknown: float,
    parallelism: int,
    now: float,
) -> float:
    """Seconds until a run is expected to end."""
    jobs = [work.job(now) for work in works(graph, current, earlier, unknown)]
    return simulate(plan, jobs, parallelism).seconds


def times_of(state: RunState) -> dict[str, StepTimes]:
    """How far each step of a live run is; of what has ended a state does not keep how long it took."""
    found: dict[str, StepTimes] = {}
    for name in state.graph.nodes:
        step = state.steps[name]
        if step.settled:
            found[name] = StepTimes(len(step.units), succeeded=len(step.units))
        elif step.units:
            times = found[name] = StepTimes(len(step.units))
            for unit in step.units:
                if unit.status in ENDED:
                    times.succeeded += 1
                elif unit.task is not None and unit.status == "Scheduled":
                    times.running[unit.key.index] = unit.task.at
    return found


def _advised(state: RunState, earlier: Sequence[Times]) -> Advice:
    if len(state.spec.steps) > MOST_STEPS:
        return Advice(applied=False, before=0.0, after=0.0, message="")
    return advice_of(optimise(state.spec, earlier), applied=False)
