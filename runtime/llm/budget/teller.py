"""Speaks with the ledger for all calls of one gateway.

One task works in turns: it takes every draw and every settlement that has come in and does them in
one transaction. While that is under way others collect: the busier the gateway, the larger the
turns. A settlement is answered when it is durable.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Any

from seedbed.crds.errors import RetryableError, TerminalError, UnavailableError
from seedbed.crds.money import dollars
from seedbed.runtime.llm.budget.purse import Purse
from seedbed.runtime.store.ledger import Draw, Drawn, Ledger, LedgerEntry, Turn
from seedbed.runtime.store.port import StoreRefusedError

log = logging.getLogger(__name__)

LEASE = 60.0
"""Seconds that an advance lives without being told again."""
IDLE = 2.0
"""Seconds after which an advance that nobody needs is given back."""
LOOK = 0.05
"""Seconds after which somebody who waits for money that others hold looks again."""
AHEAD = 16
SHARE = 200
"""Where there is plenty, so many calls like the one that needs money are drawn for at once, or the
budget's two-hundredth part: so that few calls have to wait for the ledger."""
MANY, GATHER = 4, 0.002
"""Where a turn settled so many calls, the next one is begun so many seconds later, and does more."""
RETRY = 0.2
FAREWELL = 5.0
TURN = 10.0
"""Seconds that a draw is waited for."""


class BudgetExceededError(TerminalError):
    """A budget does not allow the call, until it is raised.

    Attributes:
        account: what pays, such as `agents/team/reader`.
        spent: nano-dollars.
        ceiling: nano-dollars that are never passed.
    """

    code = "budget_exceeded"

    def __init__(self, account: str, spent: int, need: int, ceiling: int) -> None:
        super().__init__(
            f"the budget of {account} is used up: ${dollars(spent)} spent, up to ${dollars(need)} "
            f"needed, ${dollars(ceiling)} is where it halts"
        )
        self.account = account
        self.spent = spent
        self.ceiling = ceiling


@dataclass(slots=True)
class _Settled:
    entries: Sequence[LedgerEntry]
    costs: Mapping[str, int]
    done: asyncio.Future[None]


@dataclass(slots=True)
class _Asked:
    draw: Draw
    answer: asyncio.Future[Drawn]


@dataclass(slots=True)
class _Desk:
    """What waits for the next turn."""

    settled: list[_Settled] = field(default_factory=list)
    asked: list[_Asked] = field(default_factory=list)
    refusals: dict[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.settled or self.asked or self.refusals)


class Teller:
    """Holds the purses of one gateway.

    Attributes:
        changed: accounts whose spending changed since somebody took the set.
    """

    def __init__(self, ledger: Ledger, holder: str, *, lease: float = LEASE) -> None:
        """`holder` is unique among all gateways, also those that died."""
        self.changed: set[str] = set()
        self._ledger = ledger
        self._holder = holder
        self._lease = lease
        self._purses: dict[str, Purse] = {}
        self._drawing: dict[str, asyncio.Lock] = {}
        self._desk = _Desk()
        self._wake = asyncio.Event()
        self._stopping = False
        self._busy = False

    @asynccontextmanager
    async def working(self) -> AsyncIterator[None]:
        """Turns are taken while the context is open; at its end what is held is given back."""
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self._work())
            try:
                yield
            finally:
                self._stopping = True
                self._wake.set()
                await asyncio.wait({task}, timeout=FAREWELL)
                task.cancel()

    def spent(self, account: str) -> int:
        """What an account has spent, as far as was heard; 0 before the first reservation."""
        purse = self._purses.get(account)
        return 0 if purse is None else purse.spent

    def touched(self, accounts: Iterable[str]) -> None:
        """Accounts have spent without this teller's help."""
        self.changed.update(accounts)

    def heard(self, account: str, spent: int) -> None:
        """The ledger's word on what an account has spent, by others too."""
        if account in self._purses:
            self._purses[account].spent = max(self._purses[account].spent, spent)

    async def reserve(self, account: str, ceiling: int, amount: int, until: float) -> None:
        """Reserve for a call, before it is made.

        Args:
            account: pays.
            ceiling: what the account never passes.
            amount: the most that the call can cost.
            until: of the event loop's clock: how long it may be waited for money that others hold.

        Raises:
            BudgetExceededError: where there is not so much.
            UnavailableError: where the ledger does not answer, or the money is held too long.
        """
        loop = asyncio.get_running_loop()
        purse = self._purses.setdefault(account, Purse())
        while not purse.reserve(amount, loop.time()):
            async with self._drawing.setdefault(account, asyncio.Lock()):
                need = amount - purse.free(loop.time())
                if need <= 0:
                    continue
                want = max(need, amount * AHEAD, ceiling // SHARE)
                drawn = await self._draw(Draw(account, need, want, ceiling))
            purse.spent = drawn.spent
            if drawn.granted:
                continue
            if drawn.spent + amount > ceiling:
                await self._refuse(account, ceiling)
                raise BudgetExceededError(account, drawn.spent, amount, ceiling)
            if loop.time() + LOOK >= until:
                raise UnavailableError(f"the budget of {account} is held by calls under way", 1.0)
            await asyncio.sleep(LOOK)

    def release(self, account: str, reserved: int) -> None:
        """A call that was reserved for was not made."""
        self._purses[account].release(reserved, 0)

    def settle(
        self, entries: Sequence[LedgerEntry], costs: Mapping[str, int], reserved: Mapping[str, int]
    ) -> asyncio.Future[None]:
        """Calls are over; what is answered is done when it is durable.

        Args:
            entries: the calls.
            costs: nano-dollars by account, also of those without a budget.
            reserved: what was reserved, by account.
        """
        for account, amount in reserved.items():
            self._purses[account].release(amount, costs.get(account, 0))
        self.changed.update(name for name, cost in costs.items() if cost)
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._desk.settled.append(_Settled(entries, costs, done))
        self._wake.set()
        return done

    async def _draw(self, draw: Draw) -> Drawn:
        answer: asyncio.Future[Drawn] = asyncio.get_running_loop().create_future()
        self._desk.asked.append(_Asked(draw, answer))
        self._wake.set()
        try:
            async with asyncio.timeout(TURN):
                return await answer
        except TimeoutError as error:
            raise UnavailableError("the ledger does not answer in time", 1.0) from error

    async def _refuse(self, account: str, ceiling: int) -> None:
        self._desk.refusals[account] = ceiling
        self.changed.add(account)
        settled = self.settle((), {}, {})
        await settled

    async def _work(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(IDLE / 2):
                    await self._wake.wait()
            self._wake.clear()
            if self._busy and not self._desk.asked:
                await asyncio.sleep(GATHER)
            self._tidy()
            if self._desk or self._due():
                await self._turn()
            elif self._stopping:
                return

    def _tidy(self) -> None:
        """Give up the advances that nobody needs."""
        now = asyncio.get_running_loop().time()
        for purse in self._purses.values():
            if purse.idle(now, 0.0 if self._stopping else IDLE):
                purse.advance = 0

    def _due(self) -> bool:
        """Whether an advance has to be told again, or that it is given up."""
        soon = asyncio.get_running_loop().time() + self._lease * 2 / 3
        return any(
            purse.until and (purse.until < soon or not purse.advance)
            for purse in self._purses.values()
        )

    async def _turn(self) -> None:
        desk, self._desk = self._desk, _Desk()
        self._busy = len(desk.settled) >= MANY
        loop = asyncio.get_running_loop()
        began = loop.time()
        turn = self._told(desk)
        drawn = await self._taken(turn, desk)
        if drawn is None:
            return
        for name, held in turn.holding.items():
            purse = self._purses[name]
            if not held:
                purse.until = 0.0
            elif loop.time() < purse.until:
                purse.until = began + self._lease
        for asked, found in zip(desk.asked, drawn, strict=True):
            if found.granted:
                self._purses[asked.draw.account].drawn(found.granted, began + self._lease)
            if not asked.answer.done():
                asked.answer.set_result(found)
        for settled in desk.settled:
            if not settled.done.done():
                settled.done.set_result(None)

    def _told(self, desk: _Desk) -> Turn:
        """The turn as the ledger is told it, as everything stands at this moment."""
        now = time.time()
        began = asyncio.get_running_loop().time()
        costs: dict[str, int] = {}
        for settled in desk.settled:
            for name, cost in settled.costs.items():
                costs[name] = costs.get(name, 0) + cost
        wanted = {asked.draw.account for asked in desk.asked}
        for purse in self._purses.values():
            purse.free(began)
        holding = {
            name: purse.holding()
            for name, purse in self._purses.items()
            if purse.until or name in wanted
        }
        return Turn(
            self._holder,
            now,
            now + self._lease,
            [entry for settled in desk.settled for entry in settled.entries],
            costs,
            holding,
            [asked.draw for asked in desk.asked],
            desk.refusals,
        )

    async def _taken(self, turn: Turn, desk: _Desk) -> list[Drawn] | None:
        """Have the ledger do a turn. What was spent is told until it is written.

        Draws wait no longer than the first failure: their callers may have somewhere else to ask.
        What may have been granted all the same ends with the lease, or is told anew.
        """
        while True:
            try:
                return await self._ledger.take(replace(turn, now=time.time()))
            except RetryableError as error:
                log.warning("the ledger does not answer: %s", error)
                _fail([asked.answer for asked in desk.asked], error)
                if not turn.entries:
                    _fail([settled.done for settled in desk.settled], error)
                    return None
                await asyncio.sleep(RETRY)
            except StoreRefusedError as error:
                log.warning("the ledger refuses a turn: %s", error)
                _fail([asked.answer for asked in desk.asked], error)
                if waiting := await self._taken_alone(turn, desk.settled):
                    # They come first the next time, as the database takes nothing now.
                    self._desk.settled[:0] = waiting
                    self._wake.set()
                    await asyncio.sleep(RETRY)
                return None

    async def _taken_alone(self, turn: Turn, settled: Sequence[_Settled]) -> list[_Settled]:
        """Settle one by one what was refused together; what has to wait.

        What the ledger refuses while it takes others is given up: it would be in everybody's way.
        """
        refused: dict[int, StoreRefusedError] = {}
        for at, each in enumerate(settled):
            alone = replace(turn, holding={}, draws=(), refusals={}, entries=each.entries)
            try:
                await self._ledger.take(replace(alone, costs=each.costs))
            except StoreRefusedError as error:
                refused[at] = error
            except RetryableError:
                return [*(settled[no] for no in refused), *settled[at:]]
            else:
                if not each.done.done():
                    each.done.set_result(None)
        if len(refused) == len(settled):
            return [*settled]
        for at, reason in refused.items():
            lost = [f"{entry.id} of {entry.nanos} nano-dollars" for entry in settled[at].entries]
            log.error("the ledger will not take %s: %s", ", ".join(lost), reason)
            _fail([settled[at].done], reason)
        return []


def _fail(futures: Iterable[asyncio.Future[Any]], error: Exception) -> None:
    for future in futures:
        if not future.done():
            future.set_exception(error)
