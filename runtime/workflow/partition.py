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
from dataclasses import dataclass

import orjson

from seedbed.crds.errors import ConflictError, NotFoundError, SeedbedError, UnavailableError
from seedbed.crds.messages import (
    Adjust,
    Approve,
    Cancel,
    EngineRequest,
    ListActive,
    Report,
    Reported,
    ReportMany,
    Signal,
    StepResult,
    Submit,
    Summarise,
    TakeCheckpoint,
    encode,
    summaries_topic,
)
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.coordination.port import Ownership
from seedbed.runtime.store.port import RunRow, Store
from seedbed.runtime.workflow import metrics
from seedbed.runtime.workflow.checkpoint.content import capture
from seedbed.runtime.workflow.checkpoint.metrics import PAUSE
from seedbed.runtime.workflow.checkpoint.taking import Capture, Note
from seedbed.runtime.workflow.children import Children
from seedbed.runtime.workflow.decide import accept, advance, asked
from seedbed.runtime.workflow.dispatch import Dispatch
from seedbed.runtime.workflow.ending import fail
from seedbed.runtime.workflow.journal import Journal, LiveRun, until_answered
from seedbed.runtime.workflow.opening import arrived
from seedbed.runtime.workflow.overflow import CODES
from seedbed.runtime.workflow.plan import Start, started
from seedbed.runtime.workflow.records import (
    Record,
    StepFailed,
    StepSucceeded,
)
from seedbed.runtime.workflow.reminders import Reminders
from seedbed.runtime.workflow.replan_metrics import count_replans
from seedbed.runtime.workflow.replay import resume
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.streams import Arrived, Streams
from seedbed.runtime.workflow.summary import summarise
from seedbed.runtime.workflow.telling import tell_end, tell_entries
from seedbed.runtime.workflow.world import World

log = logging.getLogger(__name__)

LOOK_EVERY = 5.0
"""Seconds after which steps without a result are looked at, and the longest rest."""
CLOCK_STEP = 0.001

# A defect that one plan meets must not stop the others. What was decided before the defect, in the
# same step, is not written and has no effect.
_DEFECT = "run %s met a defect and ends"

Known = bytes | SeedbedError
"""An answer that needs no commit."""
Asked = EngineRequest | Start | Capture | Note | Arrived
"""What a partition may be asked, by others and by the engine itself."""


@dataclass(slots=True)
class _Ask:
    request: Asked
    answer: asyncio.Future[bytes]
    known: Known | None = None

    def settle(self, value: Known) -> None:
        if self.answer.done():
            return
        if isinstance(value, SeedbedError):
            self.answer.set_exception(value)
        else:
            self.answer.set_result(value)


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
        self._asked: list[_Ask] = []
        self._answering: list[_Ask] = []
        self._dirty: set[str] = set()
        self._unseen: set[str] = set()
        self._reminders = Reminders()
        self._stored_runs: Mapping[str, RunRow] | SeedbedError = {}
        self._left: set[str] = set()
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
            raise _moving()
        waiting = _Ask(request, asyncio.get_running_loop().create_future())
        self._asked.append(waiting)
        self._wake.set()
        return waiting.answer

    async def run(self) -> None:
        """Own the partition until cancelled.

        Raises:
            FencedError: a newer owner exists; nothing more is written here.
        """
        self._world.shedding.wake[self.number] = self._look_at
        try:
            for row in await self._journal.claim():
                await self._resume(row)
            log.info("partition %d: owned, %d runs", self.number, len(self._runs))
            async with asyncio.TaskGroup() as tasks, self._children, self._streams:
                tasks.create_task(self._dispatch.run())
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
        self._silence()
        for waiting in (*self._answering, *self._asked):
            waiting.settle(_moving())
        for name, run in self._runs.items():
            run.state.release()
            self._world.shares.leave(name)
            self._world.shedding.leave(name)
        self._count.set(0)

    async def _resume(self, row: RunRow) -> None:
        try:
            state, seq = await until_answered(lambda: resume(self._store, row, self._world.hands))
        except SeedbedError:
            log.exception("run %s cannot be resumed and is left alone", row.run)
            self._left.add(row.run)
            return
        self._runs[row.run] = LiveRun(state, seq)
        self._count.set(len(self._runs))
        self._world.shedding.resumed(state)
        self._look_at(row.run)

    def _look_at(self, name: str) -> None:
        self._dirty.add(name)
        self._unseen.add(name)
        self._wake.set()

    async def _rest(self) -> None:
        if self._asked or self._dirty:
            return
        loop = asyncio.get_running_loop()
        # A loop's clock may go by milliseconds, and an alarm that rings early rings in vain.
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
        self._answering, self._asked = self._asked, []
        now = time.time()
        new = self._new_runs()
        self._stored_runs = await self._look_up(new) if new else {}
        for each in self._answering:
            each.known = await self._take(each.request, now)
        touched = self._advance(now)
        changed = {name: run for name, run in touched.items() if run.changed}
        told = self._reminders.to_tell(touched, now)
        summaries = {name: summarise(run.state) for name, run in told.items()}
        written = await self._journal.append(touched, summaries)
        self._act(changed, now)
        await self._dispatch.put_on_local()
        for each in self._answering:
            each.settle(self._answer(each))
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
        self._world.shares.leave(name)
        self._world.shedding.leave(name)
        self._reminders.forget(name)

    def _advance(self, now: float) -> dict[str, LiveRun]:
        """Let every run decide that has a reason to; gives those runs."""
        names, self._dirty = self._dirty, set()
        names |= self._reminders.take(now)
        touched = {name: self._runs[name] for name in names if name in self._runs}
        for name, run in touched.items():
            try:
                run.records += advance(run.state, now, self._world)
            except Exception as error:
                log.exception(_DEFECT, name)
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

    async def _take(self, request: Asked, now: float) -> Known | None:
        """Apply a request to its run; returns an answer that is known already, or None."""
        if isinstance(request, ListActive):
            return orjson.dumps({"runs": list(self._runs)})
        if isinstance(request, ReportMany):
            return await self._results(request.results, now)
        if isinstance(request, Start | Submit):
            return self._submit(request)
        name = request.result.run if isinstance(request, Report) else request.run
        run = self._runs.get(name)
        if run is None:
            if isinstance(request, Report):
                return await self._late(name)
            return await self._stored(request)
        match request:
            case Report(result):
                if run.state.behind(result.key, result.attempt):
                    return _moving()
                _accept(run, result, now)
            case Adjust() | Approve() | Signal() | Cancel():
                refusal = _ask(run, request, now)
                if refusal is not None:
                    return refusal
            case Arrived(_, step, attempt, first, items):
                run.records += arrived(run.state, step, attempt, first, items, now)
            case Note(_, record) if not run.state.finished:
                run.state.apply(record)
                run.records.append(record)
        self._dirty.add(name)
        return None

    async def _results(self, results: Sequence[StepResult], now: float) -> Known:
        """Take many results in; those that a newer owner must not miss are asked for again."""
        again = []
        late: dict[str, Known] = {}
        for position, result in enumerate(results):
            run = self._runs.get(result.run)
            if run is None:
                if result.run not in late:
                    late[result.run] = await self._late(result.run)
                if isinstance(late[result.run], SeedbedError):
                    again.append(position)
            elif run.state.behind(result.key, result.attempt):
                again.append(position)
            else:
                _accept(run, result, now)
                self._dirty.add(result.run)
        ended = tuple(name for name, answer in late.items() if answer == _ended(name))
        return encode(Reported(tuple(again), ended))

    def _new_runs(self) -> set[str]:
        """Runs that shall begin and are not here."""
        asked = (each.request for each in self._answering)
        starts = [one.request.run for one in asked if isinstance(one, Start | Submit)]
        return set(starts) - self._runs.keys()

    async def _look_up(self, new: set[str]) -> Mapping[str, RunRow] | SeedbedError:
        """Those of the runs that shall begin which the store knows: they began before."""
        try:
            return {row.run: row for row in await self._store.named(sorted(new))}
        except SeedbedError as error:
            return error

    def _submit(self, asked: Start | Submit) -> Known | None:
        request = asked.request
        if request.run in self._runs:
            return None
        if isinstance(self._stored_runs, SeedbedError):
            return self._stored_runs
        known = self._stored_runs.get(request.run)
        if known is not None:
            return known.summary
        try:
            start = asked if isinstance(asked, Start) else started(request)
            state = RunState(start.request, self._world.hands, start.plan)
            for record in start.first:
                state.apply(record)
            first = list(start.first)
            self._runs[request.run] = LiveRun(
                state, stored=False, values=start.values, records=first, taken_over=len(first)
            )
        except SeedbedError as error:
            return error
        self._count.set(len(self._runs))
        self._dirty.add(request.run)
        return None

    async def _late(self, name: str) -> Known:
        """Answer the result of a run that is not here.

        Where the run has ended it is of no use to anybody. Where it goes on, a newer owner has it, who
        must not miss the result.
        """
        try:
            known = None if name in self._left else await self._store.run(name)
        except SeedbedError as error:
            return error
        if known is None:
            return b"{}"
        return _ended(name) if known.finished else _moving()

    async def _stored(
        self,
        request: Summarise
        | Adjust
        | Approve
        | Signal
        | Cancel
        | TakeCheckpoint
        | Capture
        | Note
        | Arrived,
    ) -> Known:
        if isinstance(request, TakeCheckpoint | Capture | Note | Arrived):
            return NotFoundError("run under way", request.run)
        try:
            known = await self._store.run(request.run)
        except SeedbedError as error:
            return error
        if known is not None and isinstance(request, Approve | Signal):
            return ConflictError(f"run {request.run} has ended")
        if known is not None:
            return known.summary
        return b"{}" if isinstance(request, Cancel) else NotFoundError("run", request.run)

    def _answer(self, asked: _Ask) -> Known:
        request = asked.request
        if asked.known is not None:
            return asked.known
        if isinstance(request, Report | ReportMany | ListActive | Note | Arrived):
            return b"{}"
        if isinstance(request, Capture):
            with PAUSE.time():
                request.captured = capture(self._runs[request.run].state)
            return b"{}"
        name = request.request.run if isinstance(request, Start | Submit) else request.run
        return encode(summarise(self._runs[name].state))


def _accept(run: LiveRun, result: StepResult, now: float) -> None:
    try:
        run.records += accept(run.state, result, now)
    except Exception as error:
        log.exception(_DEFECT, result.run)
        run.records += fail(run.state, type(error).__name__, now)


def _ask(
    run: LiveRun, request: Adjust | Approve | Signal | Cancel, now: float
) -> SeedbedError | None:
    try:
        run.records += asked(run.state, request, now)
    except SeedbedError as error:
        return error
    except Exception as error:
        log.exception(_DEFECT, request.run)
        run.records += fail(run.state, type(error).__name__, now)
    return None


def _ended(name: str) -> bytes:
    return encode(Reported(ended=(name,)))


def _moving() -> UnavailableError:
    return UnavailableError("the partition moves", 0.1)


def _count(records: Sequence[Record]) -> None:
    succeeded = 0
    for record in records:
        if isinstance(record, StepSucceeded):
            succeeded += 1
        elif isinstance(record, StepFailed):
            metrics.STEPS.labels("failed" if record.retry_at is None else "retried").inc()
            if record.error.code in CODES:
                metrics.REJECTED.labels(record.error.code).inc()
    if succeeded:
        metrics.SUCCEEDED.inc(succeeded)
