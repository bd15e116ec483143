"""One partition in the hands of its owner: decides, journals, then acts.

One task works in turns. A turn takes every request that has come in, lets each run that changed decide,
writes all records in one commit, and only then answers, hands out steps and tells of the runs. While a
commit is under way requests collect: the busier the partition, the larger the groups.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import orjson

from seedbed.crds.errors import (
    ConflictError,
    NotFoundError,
    QueueFullError,
    SeedbedError,
    UnavailableError,
)
from seedbed.crds.messages import (
    Adjust,
    Cancel,
    EngineRequest,
    ListActive,
    Report,
    RunRequest,
    RunSummary,
    StepKey,
    Submit,
    Summarise,
    encode,
    summaries_topic,
    work_queue,
)
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.coordination.port import Ownership
from seedbed.runtime.store.port import Commit, Entry, RunRow, Store
from seedbed.runtime.workflow import metrics
from seedbed.runtime.workflow.records import Record, StepFailed, StepSucceeded, encode_records
from seedbed.runtime.workflow.replay import resume
from seedbed.runtime.workflow.state import RunState, Unit
from seedbed.runtime.workflow.summary import summarise
from seedbed.runtime.workflow.world import World

log = logging.getLogger(__name__)

COMMIT_RETRY = 0.1
LONGEST_RETRY = 5.0
RESEND_GRACE = 60.0
"""Seconds beyond a step's time limit after which it is handed out again without being asked."""
IDLE = 5.0


T = TypeVar("T")


async def until_answered(call: Callable[[], Awaitable[T]]) -> T:
    """Ask the store again and again while it does not answer."""
    wait = COMMIT_RETRY
    while True:
        try:
            return await call()
        except UnavailableError as error:
            log.warning("the store does not answer: %s", error)
            await asyncio.sleep(wait)
            wait = min(LONGEST_RETRY, wait * 2)


@dataclass(slots=True)
class _Run:
    state: RunState
    seq: int = 0
    stored: bool = True
    records: list[Record] = field(default_factory=list)
    handed: dict[StepKey, tuple[int, float]] = field(default_factory=dict)


@dataclass(slots=True)
class _Ask:
    request: EngineRequest
    answer: asyncio.Future[bytes]


class Partition:
    """The runs of one partition, under one ownership."""

    def __init__(
        self, number: int, ownership: Ownership, store: Store, bus: Bus, world: World
    ) -> None:
        self.number = number
        self.ownership = ownership
        self._store = store
        self._bus = bus
        self._world = world
        self._runs: dict[str, _Run] = {}
        self._asked: list[_Ask] = []
        self._dirty: set[str] = set()
        self._wake = asyncio.Event()

    def look_again(self, *, resend: bool = False) -> None:
        """The world has changed; with `resend`, what was handed out may be lost."""
        for name, run in self._runs.items():
            self._dirty.add(name)
            if resend:
                run.handed.clear()
        self._wake.set()

    async def ask(self, request: EngineRequest) -> bytes:
        """Have a request done; the answer comes when its effect is durable."""
        waiting = _Ask(request, asyncio.get_running_loop().create_future())
        self._asked.append(waiting)
        self._wake.set()
        return await waiting.answer

    async def run(self) -> None:
        """Own the partition until cancelled.

        Raises:
            FencedError: a newer owner has written; nothing more is written here.
        """
        await until_answered(lambda: self._store.claim(self.number, self.ownership.token))
        for row in await until_answered(lambda: self._store.unfinished(self.number)):
            await self._resume(row)
        log.info("partition %d: owned, %d runs", self.number, len(self._runs))
        try:
            while True:
                await self._wait()
                await self._turn()
        finally:
            for waiting in self._asked:
                if not waiting.answer.done():
                    waiting.answer.set_exception(UnavailableError("the partition moves", 0.1))
            metrics.RUNS.labels(str(self.number)).set(0)

    async def _resume(self, row: RunRow) -> None:
        try:
            state, seq = await until_answered(lambda: resume(self._store, row, self._world.hands))
        except SeedbedError:
            log.exception("run %s cannot be resumed and is left alone", row.run)
            return
        self._runs[row.run] = _Run(state, seq)
        self._dirty.add(row.run)

    async def _wait(self) -> None:
        if self._asked or self._dirty:
            return
        due = min((d for d in (run.state.due() for run in self._runs.values()) if d), default=None)
        wait = IDLE if due is None else max(0.0, min(IDLE, due - time.time()))
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await self._wake.wait()

    async def _turn(self) -> None:
        self._wake.clear()
        idle = not self._asked and not self._dirty
        asked, self._asked = self._asked, []
        now = time.time()
        answers = [(each, await self._take(each.request, now)) for each in asked]
        for name, run in self._runs.items():
            due = run.state.due()
            if name in self._dirty or (due is not None and due <= now):
                run.records += run.state.advance(now, self._world)
        changed = {n: r for n, r in self._runs.items() if r.records or not r.stored}
        summaries = {name: summarise(run.state) for name, run in changed.items()}
        await self._commit(changed, summaries)
        touched, self._dirty = self._dirty, set()
        for each, answer in answers:
            if each.answer.done():
                continue
            if isinstance(answer, SeedbedError):
                each.answer.set_exception(answer)
            else:
                each.answer.set_result(self._answer(each.request, answer))
        await self._hand_out(list(self._runs) if idle else {*touched, *changed}, now)
        for summary in summaries.values():
            with suppress(UnavailableError):
                await self._bus.publish(summaries_topic(self.number), encode(summary))
        for name in [name for name, run in self._runs.items() if run.state.finished]:
            del self._runs[name]
        metrics.RUNS.labels(str(self.number)).set(len(self._runs))

    async def _take(self, request: EngineRequest, now: float) -> bytes | SeedbedError | None:
        """Apply a request to its run; returns an answer that is known already, or None."""
        match request:
            case ListActive():
                return orjson.dumps({"runs": list(self._runs)})
            case Submit(submitted):
                return await self._submit(submitted)
            case Report(result):
                run = self._runs.get(result.run)
                if run is None:
                    return b"{}"
                records = run.state.accept(result, now)
                self._changed(result.run, run, records)
                return None
            case Adjust(name, suspend, parallelism):
                if name in self._runs:
                    adjusted = self._runs[name]
                    self._changed(name, adjusted, adjusted.state.adjust(suspend, parallelism, now))
            case Cancel(name, reason):
                if name in self._runs:
                    cancelled = self._runs[name]
                    self._changed(name, cancelled, cancelled.state.cancel(reason, now))
        name = request.run
        return None if name in self._runs else await self._stored_summary(request)

    def _changed(self, name: str, run: _Run, records: list[Record]) -> None:
        run.records += records
        self._dirty.add(name)
        for record in records:
            if isinstance(record, StepSucceeded):
                metrics.STEPS.labels("succeeded").inc()
            elif isinstance(record, StepFailed):
                metrics.STEPS.labels("failed" if record.retry_at is None else "retried").inc()

    async def _submit(self, request: RunRequest) -> bytes | SeedbedError | None:
        if request.run in self._runs:
            return None
        try:
            known = await self._store.run(request.run)
            if known is not None:
                return known.summary
            self._runs[request.run] = _Run(RunState(request, self._world.hands), stored=False)
        except SeedbedError as error:
            return error
        self._dirty.add(request.run)
        return None

    async def _stored_summary(self, request: Summarise | Adjust | Cancel) -> bytes | SeedbedError:
        try:
            known = await self._store.run(request.run)
        except SeedbedError as error:
            return error
        if known is not None:
            return known.summary
        if isinstance(request, Cancel):
            return b"{}"
        return NotFoundError("run", request.run)

    def _answer(self, request: EngineRequest, known: bytes | None) -> bytes:
        if known is not None:
            return known
        if isinstance(request, Report | ListActive):
            return b"{}"
        name = request.request.run if isinstance(request, Submit) else request.run
        return encode(summarise(self._runs[name].state))

    async def _commit(self, changed: dict[str, _Run], summaries: dict[str, RunSummary]) -> None:
        if not changed:
            return
        rows, entries = [], []
        values: dict[str, bytes] = {}
        told: dict[str, tuple[bytes, bool]] = {}
        for name, run in changed.items():
            summary = encode(summaries[name])
            told[name] = (summary, run.state.finished is not None)
            if not run.stored:
                rows.append(self._row(run, summary))
            if run.records:
                encoded = encode_records(run.records)
                values.update(encoded.values)
                entries.append(Entry(name, run.seq + 1, encoded.data))
        metrics.GROUP_SIZE.observe(sum(len(run.records) for run in changed.values()))
        began = time.perf_counter()
        await self._write(Commit(rows, entries, told, values))
        metrics.COMMIT_SECONDS.observe(time.perf_counter() - began)
        for run in changed.values():
            run.seq += 1 if run.records else 0
            run.stored, run.records = True, []

    def _row(self, run: _Run, summary: bytes) -> RunRow:
        request = run.state.request
        return RunRow(
            request.run,
            self.number,
            request.namespace,
            request.workflow,
            encode(request),
            summary,
            finished=False,
        )

    async def _write(self, commit: Commit) -> None:
        """Write until it is written: a commit whose fate is unknown may be there already."""
        tried = 0

        async def write() -> None:
            nonlocal tried
            tried += 1
            try:
                await self._store.commit(self.number, self.ownership.token, commit)
            except ConflictError:
                if tried == 1:
                    raise

        await until_answered(write)

    async def _hand_out(self, names: Iterable[str], now: float) -> None:
        """Put every scheduled step that no worker can know of into its queue."""
        puts = []
        for name in names:
            run = self._runs.get(name)
            if run is None:
                continue
            gone = run.handed.keys() - run.state.scheduled.keys()
            for key in gone:
                del run.handed[key]
            for key, unit in run.state.scheduled.items():
                if _wants_handing(unit, run.handed.get(key), now):
                    run.handed[key] = (unit.attempt, now)
                    puts.append(self._put(name, run, unit))
        if puts:
            await asyncio.gather(*puts)

    async def _put(self, name: str, run: _Run, unit: Unit) -> None:
        assert unit.task is not None
        task = run.state.task(unit)
        queue = work_queue(task.namespace, unit.task.pool)
        item = f"{task.idempotency_key}/{unit.attempt}"
        try:
            await self._bus.put_work(queue, item, encode(task))
        except (UnavailableError, QueueFullError) as error:
            log.info("%s of %s waits: %s", unit.key, name, error)
            run.handed.pop(unit.key, None)
            asyncio.get_running_loop().call_later(0.5, self._again, name)

    def _again(self, name: str) -> None:
        if name in self._runs:
            self._dirty.add(name)
            self._wake.set()


def _wants_handing(unit: Unit, handed: tuple[int, float] | None, now: float) -> bool:
    if unit.task is None or unit.task.kind == "container":
        return False
    if handed is None or handed[0] != unit.attempt:
        return True
    return now > handed[1] + unit.task.timeout + RESEND_GRACE
