"""Lines that the gateway works through itself: quietly, behind interactive calls, at full price.

Each line is an ordinary call, with the cache before it and failover behind it, whose money is written
with its answer. What fails for now is asked again, until the batch's time is over; what a budget does
not allow stops all of the batch's own work until it does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from seedbed.crds.errors import (
    FencedError,
    RetryableError,
    SeedbedError,
    UnavailableError,
)
from seedbed.crds.money import nanos
from seedbed.runtime.llm.batch.offline.job import MOST_REFUSALS, Job
from seedbed.runtime.llm.batch.offline.money import Held, HeldError, check, entry
from seedbed.runtime.llm.batch.offline.quiet import Quiet
from seedbed.runtime.llm.batch.offline.sorting import EXACT, failure, success
from seedbed.runtime.llm.budget.limits import accounts_of
from seedbed.runtime.llm.budget.stage import UnpricedError
from seedbed.runtime.llm.budget.teller import BudgetExceededError
from seedbed.runtime.llm.cache.stage import CACHE
from seedbed.runtime.llm.call import Afford, Call
from seedbed.runtime.llm.prices import table_version
from seedbed.runtime.llm.providers import MalformedError
from seedbed.runtime.llm.requests import Json
from seedbed.runtime.store.batch_work import LineResult
from seedbed.runtime.store.batches import LineRow
from seedbed.runtime.store.ledger import Turn
from seedbed.runtime.store.port import StoreRefusedError

log = logging.getLogger(__name__)

LONGEST_CALL = 900.0
LEASE = 1000.0
"""Seconds that money is held without another word: longer than a call takes."""
MOST_PAID_FAILURES = 3
"""Failures of a line that may have cost something, before it is given up."""
_LEAST = 16
"""Lines under way at least, where there are as many."""
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
_AGAIN = 1.0
_FAREWELL = 10.0
"""Seconds that what was spent is written for, where the process is about to end."""


class LineRefusedError(StoreRefusedError):
    """The database refuses a line whose answer is paid for: to ask again would be paid for again."""


@dataclass(slots=True)
class _Line:
    """A line that is asked.

    Attributes:
        refusals: by the database, before anybody was asked.
        reserved: nano-dollars held for its call.
        asks: the model whose request is ours, empty where none is.
    """

    row: LineRow
    failures: int = 0
    paid_failures: int = 0
    refusals: int = 0
    reserved: int = 0
    asks: str = ""


@dataclass(slots=True)
class OwnWork:
    """All of a batch that the gateway does itself."""

    job: Job
    quiet: Quiet
    _held: Held = field(init=False)
    _writing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _allowed: asyncio.Event = field(default_factory=asyncio.Event)
    _probing: asyncio.Lock = field(default_factory=asyncio.Lock)
    _refused: tuple[str, int] | None = None
    """The account and the ceiling that the ledger knows to be in the way."""

    def __post_init__(self) -> None:
        self._held = Held(f"offline-{self.job.id}")
        self._allowed.set()

    async def run(self, more: Callable[[], bool]) -> None:
        """Work until there is nothing left, and `more` says that nothing will come."""
        job = self.job
        # What a predecessor held for calls that it never ended is free.
        await job.bench.work.free(self._held.holder)
        under_way: dict[int, asyncio.Task[None]] = {}
        # Some wait for their next try, and must not keep others from theirs.
        most = max(_LEAST, 2 * job.bench.settings.concurrency)
        async with asyncio.TaskGroup() as tasks:
            while not job.over.is_set():
                expected, page = more(), most + len(under_way)
                rows = await job.patiently(partial(job.bench.batches.lines, job.id, "own", 0, page))
                new = [row for row in rows if row.number not in under_way]
                for row in new[: most - len(under_way)]:
                    under_way[row.number] = tasks.create_task(self._work(_Line(row)))
                if not rows and not expected:
                    break
                under_way = await self._fewer(under_way, most)
        await job.bench.work.free(self._held.holder)

    async def _fewer(
        self, under_way: dict[int, asyncio.Task[None]], most: int
    ) -> dict[int, asyncio.Task[None]]:
        """What goes on once there is room for more; lines are read many at a time, not one by one."""
        job = self.job
        if not under_way:
            await job.pause(job.bench.look)
        while under_way and not job.over.is_set():
            first, look = asyncio.FIRST_COMPLETED, job.bench.look
            done, _ = await asyncio.wait(under_way.values(), timeout=look, return_when=first)
            under_way = {n: task for n, task in under_way.items() if not task.done()}
            if not done or len(under_way) <= most // 2:
                break
        return under_way

    async def _work(self, line: _Line) -> None:
        """Ask until there is an answer, an error that stays, or the batch is over."""
        try:
            asked = self.job.endpoint.read(line.row.body).model
            model = self.job.bench.gateway.named(asked, self.job.row.namespace)
        except SeedbedError as error:
            # It was there when the batch was taken in.
            await self.job.answered([failure(line.row.number, error)])
            return
        wait: float | None = 0.0
        while wait is not None and not self.job.over.is_set():
            await self.job.pause(wait)
            if self._allowed.is_set():
                wait = await self._in_turn(line, model)
                continue
            # One at a time tries whether the budget allows it by now.
            async with self._probing:
                wait = await self._in_turn(line, model)

    async def _in_turn(self, line: _Line, model: str) -> float | None:
        async with self.quiet.turn(model, self.job.over):
            return 0.0 if self.job.over.is_set() else await self._asked(line, model)

    async def _asked(self, line: _Line, model: str) -> float | None:
        """Ask once; seconds after which to ask again, or None where the line is done."""
        job, gateway = self.job, self.job.bench.gateway
        request = job.endpoint.read(line.row.body)
        left = min(LONGEST_CALL, max(0.0, job.row.expires_at - job.bench.wall()))
        began = gateway.now()
        call = Call(request, job.identity, began + left, AsyncExitStack(), headers=EXACT)
        call.accounted, call.afford = True, self._afford(call, line)
        outcome = "cancelled"
        result: LineResult | None = None
        wait: float | None = None
        try:
            async with asyncio.timeout(left), call.closing:
                reply = await gateway.answer(call)
            assert reply.whole is not None
            outcome, result = "ok", self._success(line, call, reply.whole)
        except TimeoutError:
            late = UnavailableError(f"no answer within {left:g} s")
            outcome = "timeout"
            result, wait = self._failed(line, call, late)
        except FencedError as error:
            outcome = error.code
            raise
        except StoreRefusedError as error:
            # It may be the database as a whole: other lines' calls are paid for, and go on.
            outcome, wait = error.code, _AGAIN
            job.bench.metrics.fault("database")
            line.refusals += 1
            if line.refusals > MOST_REFUSALS:
                raise
        except SeedbedError as error:
            outcome = error.code
            await self._halts(error)
            result, wait = self._failed(line, call, error)
        finally:
            self._asks(line, "")
            served = call.served_by or model
            gateway.metrics.count(served, outcome, gateway.now() - began, call)
            await _to_its_end(self._settle(line, call, result))
        return wait

    def _afford(self, call: Call, line: _Line) -> Afford:
        async def afford(model: str, worst: int | None) -> None:
            budgets = self.job.budgets
            if budgets and worst is None:
                raise UnpricedError(f"model {model!r} has no price, and a budget pays for the call")
            need = call.cost + (worst or 0) - line.reserved
            if budgets and need > 0:
                async with self._writing:
                    now = self.job.bench.wall()
                    self._held.until = now + LEASE
                    turn = self._held.more(budgets, need, now)
                    check(turn, await self.job.bench.work.reserve(turn))
                    self._held.amount += need
                    line.reserved += need
            self._asks(line, model)
            self._allowed.set()
            self._refused = None
            if self.job.halted:
                await self.job.halt("own", "")

        return afford

    def _asks(self, line: _Line, model: str) -> None:
        """The line's request is with this model now, or with none."""
        for name, more in ((line.asks, -1), (model, 1)):
            if name:
                self.quiet.asked(name, more)
        line.asks = model

    def _success(self, line: _Line, call: Call, whole: Json) -> LineResult:
        way = "cache" if call.served_by == CACHE else "gateway"
        saved = nanos(call.notes.get("Cache_Saved", "0"))
        return success(self.job, line.row.number, way, whole, call, saved=saved)

    def _failed(
        self, line: _Line, call: Call, error: SeedbedError
    ) -> tuple[LineResult | None, float | None]:
        """The line's error, or else how long to wait before it is asked again."""
        if isinstance(error, BudgetExceededError | HeldError):
            return None, self.job.bench.look
        line.failures += 1
        line.paid_failures += bool(call.spent) or isinstance(error, MalformedError)
        if not isinstance(error, RetryableError) or line.paid_failures >= MOST_PAID_FAILURES:
            return failure(line.row.number, error, "gateway", call.cost), None
        grown = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(line.failures - 1, 6))
        return None, max(grown, error.retry_after or 0.0)

    async def _halts(self, error: SeedbedError) -> None:
        """Where a budget said no, say so: to the ledger, to people, and in the batch."""
        job = self.job
        if isinstance(error, HeldError) and not self._held.amount and not job.sent:
            self._allowed.clear()
            await job.halt("own", error.message)
        if not isinstance(error, BudgetExceededError):
            return
        self._allowed.clear()
        # The ledger is told before anybody sees that the batch stands still, and once.
        async with self._writing:
            if self._refused != (error.account, error.ceiling):
                turn = self._held.refusal(job.budgets, error, job.bench.wall())
                await job.bench.work.refused(turn)
                self._refused = error.account, error.ceiling
                job.bench.gateway.spent([error.account])
        await job.halt("own", error.message)

    async def _settle(self, line: _Line, call: Call, result: LineResult | None) -> None:
        """Write the answer and what it cost as one, however long the database takes to answer."""
        job, now = self.job, self.job.bench.wall()
        prices = table_version()
        entries = [entry(job.identity, job.id, each, prices, now) for each in call.spent]
        release, line.reserved = line.reserved, 0
        if result is None and not entries and not release:
            return
        async with self._writing:
            self._held.until = now + LEASE
            turn = self._held.spend(job.budgets, job.identity, entries, release, now)
            refused = 0
            while True:
                try:
                    await self._written(result, call.cost, turn)
                    break
                except RetryableError as error:
                    log.warning("what a line has cost cannot be written yet: %s", error)
                except LineRefusedError:
                    raise
                except StoreRefusedError as error:
                    # It may be the database as a whole: what is paid for is kept until it is well.
                    log.warning("the database refuses what a line has cost: %s", error)
                    job.bench.metrics.fault("database")
                    refused += 1
                    if refused > MOST_REFUSALS:
                        raise LineRefusedError(error.message) from error
                await asyncio.sleep(_AGAIN)
        if entries:
            job.bench.gateway.spent(accounts_of(job.identity))

    async def _written(self, result: LineResult | None, cost: int, turn: Turn) -> None:
        """Write an answer with its cost; where it is refused, the refusal in its place; or the cost alone.

        Raises:
            LineRefusedError: the cost is written, and nothing else of the line can be.
        """
        job, refused = self.job, None
        if result is not None:
            try:
                await job.answered([result], lambda _: turn)
            except StoreRefusedError as error:
                refused = error
            else:
                return
            try:
                instead = failure(result.number, refused, "gateway", cost)
                await job.answered([instead], lambda _: turn)
            except StoreRefusedError as error:
                log.warning("nor that a line's answer is refused can be written: %s", error)
            else:
                job.bench.metrics.fault("database")
                log.warning("the answer to line %d is refused: %s", result.number, refused)
                return
        await job.bench.work.charge(job.id, cost, turn)
        job.bench.metrics.charged(cost)
        if refused is not None:
            raise LineRefusedError(refused.message) from refused


async def _to_its_end(work: Coroutine[Any, Any, None]) -> None:
    """Have it done, also where whoever waits is cancelled meanwhile: what was paid is not forgotten."""
    task = asyncio.create_task(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task}, timeout=_FAREWELL)
        if not task.cancel() and (error := task.exception()) is not None:
            log.warning("what a line has cost is not written: %s", error)
        raise
