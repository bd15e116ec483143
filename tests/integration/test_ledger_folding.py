"""Calls of days gone by become sums, on real databases; what is told of money stays the same."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from itertools import product

import pytest
from sqlalchemy import func, select

from seedbed.crds.errors import UnavailableError
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.llm.budget.folding import DAY, NAME, SOME, Folding
from seedbed.runtime.store.ledger import DIMENSIONS, Cost, LedgerEntry, Turn
from seedbed.runtime.store.schema import ledger as calls
from seedbed.runtime.store.schema import spent_days
from seedbed.runtime.store.sql_ledger import SqlLedger
from tests.conftest import run_async
from tests.integration.test_ledger import entry, opened, turn

TODAY = 20_000
"""Of the days since 1970."""


def on(day: float, name: str, nanos: int = 5, **values: object) -> LedgerEntry:
    return entry(name, nanos, at=day * DAY, **values)


async def told(ledger: SqlLedger, since: float = 0) -> list[list[Cost]]:
    """All that reports can ask for."""
    narrowed: list[dict[str, str]] = [{}, {"namespace": "a"}, {"workflow": "w"}, {"agent": "x"}]
    return [
        await ledger.costs(by, since=since, **given) for by, given in product(DIMENSIONS, narrowed)
    ]


async def counted(ledger: SqlLedger) -> tuple[int, int]:
    """Single calls, and sums."""
    found = [
        (await ledger._store.rows(select(func.count()).select_from(table)))[0][0]
        for table in (calls, spent_days)
    ]
    return found[0], found[1]


def folding(ledger: SqlLedger, folded: Callable[[int], object], days: int = 7) -> Folding:
    return Folding(ledger, days, folded, lambda: (TODAY + 0.5) * DAY)


@pytest.mark.req("COG-3.4.1")
def test_what_is_told_stays_the_same(store_url: str) -> None:
    """More calls than are folded at a time, of ten days, of which seven stay."""
    chance = random.Random(7)
    given = [
        on(
            TODAY - 9 + chance.random() * 10,
            f"e{at}",
            nanos=chance.randrange(2**40),
            namespace=chance.choice("ab"),
            workflow=chance.choice(["", "w"]),
            agent=chance.choice("xy"),
            user=chance.choice(["", "u"]),
            model=chance.choice("mn"),
            estimated=chance.random() < 0.5,
        )
        for at in range(6 * SOME)
    ]

    async def body() -> None:
        async with opened(store_url) as ledger:
            costs = {"namespaces/a": 5}
            await ledger.take(turn("one", entries=given, costs=costs))
            before = await told(ledger)
            later = await told(ledger, (TODAY - 8) * DAY)
            folded: list[int] = []
            work = folding(ledger, folded.append)
            await work.once()
            old = sum(each.at < (TODAY - 7) * DAY for each in given)
            assert sum(folded) == old > SOME
            assert await counted(ledger) == (len(given) - old, 2 * 2**5)
            assert await told(ledger) == before
            assert await told(ledger, (TODAY - 8) * DAY) == later
            # A day whose calls are folded counts as a whole, one before it not at all.
            assert await told(ledger, (TODAY - 7.5) * DAY) == later
            await work.once()
            assert sum(folded) == old
            more = on(TODAY - 9, "late", namespace="a", nanos=11)
            await ledger.take(turn("one", entries=[more], costs=costs))
            now = await told(ledger)
            await work.once()
            assert await told(ledger) == now != before
            assert (await ledger.accounts(["namespaces/a"]))["namespaces/a"].spent == 10

    run_async(body())


@pytest.mark.req("COG-3.4.1")
def test_several_at_once_fold_each_call_once(store_url: str) -> None:
    async def body() -> None:
        async with opened(store_url) as ledger:
            given = [on(TODAY - 30, f"e{at}", user=f"u{at % 7}") for at in range(3 * SOME)]
            await ledger.take(turn("one", entries=given))
            before = await told(ledger)
            folded: list[int] = []
            async with asyncio.TaskGroup() as tasks:
                for _ in range(3):
                    tasks.create_task(folding(ledger, folded.append).once())
            assert sum(folded) == len(given)
            assert await told(ledger) == before
            assert await counted(ledger) == (0, 7)

    run_async(body())


class Ledger(SqlLedger):
    """Away the first time it is asked to fold."""

    def __init__(self, of: SqlLedger) -> None:
        super().__init__(of._store)
        self.asked = 0

    async def fold(self, before: float, most: int) -> int:
        self.asked += 1
        if self.asked == 1:
            raise UnavailableError("the database is away")
        return await super().fold(before, most)


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.01)


@pytest.mark.req("COG-3.4.1")
def test_one_process_does_it_and_an_absent_database_ends_nothing(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("seedbed.runtime.llm.budget.folding._EVERY", 0.01)

    async def body() -> None:
        async with opened(store_url) as first:
            coordinator = MemoryCoordinator()
            await first.take(turn("one", entries=[on(TODAY - 30, "old"), on(TODAY, "new")]))
            mine, other = Ledger(first), Ledger(first)
            async with asyncio.TaskGroup() as tasks:
                working = [
                    tasks.create_task(folding(each, lambda _: None).run(coordinator, name))
                    for each, name in ((mine, "mine"), (other, "other"))
                ]

                async def done() -> bool:
                    return await counted(first) == (1, 1)

                await until(done)
                assert min(mine.asked, other.asked) == 0
                for task in working:
                    task.cancel()

    run_async(body())


@pytest.mark.req("COG-3.4.1")
def test_for_ever_is_for_ever(store_url: str) -> None:
    async def body() -> None:
        async with opened(store_url) as ledger:
            await ledger.take(Turn("one", 0, 60, [on(1, "old")]))
            await folding(ledger, lambda _: None, days=0).run(MemoryCoordinator(), NAME)
            assert await counted(ledger) == (1, 0)

    run_async(body())
