"""One partition in the hands of its owner: decides, journals, then acts.

One task works in turns. A turn takes every request that has come in, lets each run that changed decide,
writes all records in one commit, and only then answers, hands out steps and tells of the runs. While a
commit is under way requests collect: the busier the partition, the larger the groups.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial

from seedbed.crds.addresses import summaries_topic
from seedbed.crds.engine_requests import ReportMany
from seedbed.crds.errors import SeedbedError, UnavailableError
from seedbed.crds.wire import encode
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.coordination.port import Ownership
from seedbed.runtime.store.port import RunRow, Store
from seedbed.runtime.workflow import metrics
from seedbed.runtime.workflow.children import Children
from seedbed.runtime.workflow.decide import advance
from seedbed.runtime.workflow.dispatch import Dispatch
from seedbed.runtime.workflow.ending import fail
from seedbed.runtime.workflow.journal import Journal, LiveRun, until_answered
from seedbed.runtime.workflow.overflow import CODES
from seedbed.runtime.workflow.records import Record, StepFailed, StepSucceeded
from seedbed.runtime.workflow.reminders import Reminders
from seedbed.runtime.workflow.replan_metrics import count_replans
from seedbed.runtime.workflow.replay import resume
from seedbed.runtime.workflow.requests import DEFECT, Ask, Asked, Requests, moving
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.streams import Streams
from seedbed.runtime.workflow.stuck import Stuck, was_stuck
from seedbed.runtime.workflow.summary import summarise
from seedbed.runtime.workflow.telling import tell_end, tell_entries
from seedbed.runtime.workflow.world import World

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0
"""Seconds after which steps without a result are looked at, and the longest rest."""
RESULTS_A_TURN = 500
"""About so many results a turn takes: other partitions and the workers beside them wait for its end."""
CLOCK_STEP = 0.001
"""Seconds by which an alarm may ring early: libuv's clock goes by milliseconds."""


class Partition:
    """The runs of one partition, under one ownership."""

    def __init__(
        self, number: int, ownership: Ownership, store: Store, bus: Bus, world: World
    ) -> None:
        self.number = number
        self._store = store
        self._bus = bus
        self._world = world
        self._journal = Journal(number, ownership, store)
        self._dispatch = Dispatch(bus, self._look_at)
        self._runs: dict[str, LiveRun] = {}
        self._children = Children(bus, store, self._runs, self.ask)
        self._streams = Streams(bus, self.ask)
        self._asked: list[Ask] = []
        self._answering: list[Ask] = []
        self._dirty: set[str] = set()
        self._unseen: set[str] = set()
        self._reminders = Reminders()
        self._stuck = Stuck(number, self._journal, bus)
        self._requests = Requests(self._runs, self._stuck, store, world, self._touch)
        self._looked = 0.0
        self._closed = False
        self._wake = asyncio.Event()
        self._alarm: asyncio.TimerHandle | None = None
        self._rings_at = math.inf
        self._count = metrics.RUNS.labels(str(number))

    def look_again(self, *, resend: bool = False) -> None:
        """The world has changed; with `resend`, what was handed out may be lost."""
        self._dirty.update(self._runs)
        if resend:
            self._children.forget()
            for run in self._runs.values():
                run.handed.clear()
            self._unseen.update(self._runs)
        self._wake.set()

    @property
    def live(self) -> Mapping[str, RunState]:
        """The runs under way, to look at."""
        return {name: run.state for name, run in self._runs.items()}

    def ask(self, request: Asked) -> asyncio.Future[bytes]:
        """Have a request done; the answer comes when its effect is durable.

        Raises:
            UnavailableError: the partition moves to another owner.
        """
        if self._closed:
            raise moving()
        waiting = Ask(request, asyncio.get_running_loop().create_future())
        self._asked.append(waiting)
        self._wake.set()
        return waiting.answer

    async def run(self) -> None:
        """Own the partition until cancelled.

        Raises:
            FencedError: a newer owner exists; nothing more is written here.
        """
        self._world.shedding.wake[self.number] = self._look_at
        self._world.evaluations.wake[self.number] = self._decide_again
        try:
            for row in await self._journal.claim():
                await self._resume(row)
            log.info("partition %d: owned, %d runs", self.number, len(self._runs))
            async with asyncio.TaskGroup() as tasks, self._children, self._streams:
                tasks.create_task(self._dispatch.run())
                tasks.create_task(self._try_stuck())
                while True:
                    await self._rest()
                    await self._turn()
        except* SeedbedError as group:
            raise group.exceptions[0] from None
        finally:
            self._close()

    def _close(self) -> None:
        self._closed = True
        self._world.shedding.wake.pop(self.number, None)
        self._world.evaluations.wake.pop(self.number, None)
        self._silence()
        for waiting in (*self._answering, *self._asked):
            waiting.settle(moving())
        for name, run in self._runs.items():
            run.state.release()
            self._leave(name)
        self._count.set(0)
        self._stuck.close()

    async def _resume(self, row: RunRow) -> None:
        try:
            state, seq = await until_answered(lambda: resume(self._store, row, self._world.hands))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other runs go on
            await self._stuck.leave(row, error)
            return
        if row.run in self._stuck or was_stuck(row):
            self._stuck.forget(row.run)
            self._reminders.tell(row.run)
        state.evaluate_by(self._world.evaluations.of(row.run))
        self._runs[row.run] = LiveRun(state, seq)
        self._count.set(len(self._runs))
        self._world.resumed(state)
        self._look_at(row.run)

    async def _try_stuck(self) -> None:
        """Try again what could not be resumed, for as long as it is here."""
        while True:
            await asyncio.sleep(LOOK_EVERY)
            for name in self._stuck.due(time.time()):
                async with self._stuck.trying(name):
                    row = await until_answered(partial(self._store.run, name))
                    if row is None or row.finished:
                        self._stuck.forget(name)
                    else:
                        await self._resume(row)

    def _look_at(self, name: str) -> None:
        self._dirty.add(name)
        self._unseen.add(name)
        self._wake.set()

    def _touch(self, name: str) -> None:
        self._dirty.add(name)

    def _decide_again(self, name: str) -> None:
        self._dirty.add(name)
        self._wake.set()

    async def _rest(self) -> None:
        if self._asked or self._dirty:
            return
        loop = asyncio.get_running_loop()
        at = loop.time() + self._reminders.wait(time.time(), LOOK_EVERY) + CLOCK_STEP
        # An alarm that stands for an earlier time is left: a turn too many now and then costs less
        # than a new alarm for each turn.
        if at < self._rings_at:
            self._silence()
            self._alarm, self._rings_at = loop.call_at(at, self._ring), at
        await self._wake.wait()

    def _ring(self) -> None:
        self._rings_at = math.inf
        self._wake.set()

    def _silence(self) -> None:
        if self._alarm is not None:
            self._alarm.cancel()

    async def _turn(self) -> None:
        self._wake.clear()
        self._answering, self._asked = a_turn_of(self._asked)
        now = time.time()
        self._world.evaluations.new_turn()
        known = len(self._runs)
        await self._requests.take(self._answering, now)
        if len(self._runs) > known:
            self._count.set(len(self._runs))
        touched = self._advance(now)
        changed = {name: run for name, run in touched.items() if run.changed}
        told = self._reminders.to_tell(touched, now)
        summaries = {name: summarise(run.state) for name, run in told.items()}
        written = await self._journal.append(touched, summaries)
        self._act(changed, now)
        await self._dispatch.put_on_local()
        for each in self._answering:
            each.settle(self._requests.answer(each))
        self._answering = []
        tell_entries(self._bus.events, written)
        for summary in summaries.values():
            if summary.finished is not None:
                tell_end(self._bus.events, summary)
            with suppress(UnavailableError):
                await self._bus.publish(summaries_topic(self.number), encode(summary))
        for name in [name for name, run in changed.items() if run.state.finished]:
            self._forget(name)

    def _forget(self, name: str) -> None:
        del self._runs[name]
        self._count.set(len(self._runs))
        self._leave(name)
        self._reminders.forget(name)

    def _leave(self, name: str) -> None:
        """What all runs share has no run of this name any more."""
        self._world.shares.leave(name)
        self._world.shedding.leave(name)
        self._world.evaluations.forget(name)

    def _advance(self, now: float) -> dict[str, LiveRun]:
        """Let every run decide that has a reason to; gives those runs."""
        names, self._dirty = self._dirty, set()
        names |= self._reminders.take(now)
        touched = {name: self._runs[name] for name in names if name in self._runs}
        for name, run in touched.items():
            try:
                run.records += advance(run.state, now, self._world)
            except Exception as error:
                log.exception(DEFECT, name)
                run.records += fail(run.state, type(error).__name__, now)
            self._reminders.note(name, run)
        return touched

    def _act(self, changed: dict[str, LiveRun], now: float) -> None:
        """Do what is durable now."""
        for run in changed.values():
            records, run.records = run.records, []
            _count(records[run.taken_over :])
            count_replans(run.state, records)
            run.taken_over = 0
            self._dispatch.follow(run, records, now)
            self._children.follow(run, records)
            if run.state.graph.followed:
                self._streams.follow(run, records)
        unseen, self._unseen = self._unseen, set()
        if now > self._looked + LOOK_EVERY:
            self._looked = now
            unseen = set(self._runs)
            # What was to be decided by then, and could not, is tried again.
            self._dirty |= {name for name, run in self._runs.items() if (run.due or now) < now}
        for name in unseen & self._runs.keys():
            self._dispatch.look(self._runs[name], now)
            self._children.look(self._runs[name], now)
            self._streams.look(self._runs[name])


def a_turn_of(asked: list[Ask]) -> tuple[list[Ask], list[Ask]]:
    """Requests that one turn takes, and those that are left for the next ones."""
    results = 0
    for at, each in enumerate(asked):
        request = each.request
        results += len(request.results) if isinstance(request, ReportMany) else 1
        if results >= RESULTS_A_TURN:
            return asked[: at + 1], asked[at + 1 :]
    return asked, []


def _count(records: Sequence[Record]) -> None:
    succeeded = 0
    for record in records:
        if isinstance(record, StepSucceeded):
            succeeded += 1
        elif isinstance(record, StepFailed):
            metrics.STEPS.add("failed" if record.retry_at is None else "retried")
            if record.error.code in CODES:
                metrics.REJECTED.labels(record.error.code).inc()
    if succeeded:
        metrics.STEPS.add("succeeded", succeeded)
