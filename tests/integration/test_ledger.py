"""Money on real databases: never more than there is, whoever asks at once and whoever dies."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from seedbed.crds.errors import UnavailableError
from seedbed.runtime.llm.budget.teller import BudgetExceededError, Teller
from seedbed.runtime.store.ledger import Account, Cost, Draw, Drawn, LedgerEntry, Turn
from seedbed.runtime.store.schema import advances
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.store.sql_ledger import SqlLedger
from tests.conftest import run_async

ACCOUNT = "agents/team/reader"


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlLedger]:
    store = SqlStore.open(url)
    try:
        await store.migrate()
        yield SqlLedger(store)
    finally:
        await store.close()


def entry(name: str, nanos: int = 5, **values: object) -> LedgerEntry:
    fields: dict[str, object] = {
        "id": name,
        "at": 86_400.0,
        "namespace": "team",
        "workflow": "audit",
        "agent": "reader",
        "run": "r",
        "user": "",
        "model": "m",
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "nanos": nanos,
        "estimated": False,
        "prices": "v1",
    }
    return LedgerEntry(**(fields | values))  # type: ignore[arg-type]  # a table of fields


def turn(holder: str, now: float = 0, **values: object) -> Turn:
    return Turn(holder, now, now + 60, **values)  # type: ignore[arg-type]  # likewise


async def draw(ledger: SqlLedger, holder: str, need: int, ceiling: int, now: float = 0) -> int:
    found = await ledger.take(turn(holder, now, draws=[Draw(ACCOUNT, need, need, ceiling)]))
    return found[0].granted


def test_what_others_hold_is_not_granted_until_it_is_given_back_or_ends(store_url: str) -> None:
    async def body() -> None:
        async with opened(store_url) as ledger:
            assert await draw(ledger, "a", 60, 100) == 60
            assert await draw(ledger, "b", 50, 100) == 0
            assert await draw(ledger, "b", 40, 100) == 40
            await ledger.take(turn("b", 10, holding={ACCOUNT: 10}))
            assert await draw(ledger, "c", 31, 100, now=20) == 0
            assert await draw(ledger, "c", 30, 100, now=20) == 30
            assert await draw(ledger, "c", 60, 100, now=61) == 60, "the advance of a has ended"
            await ledger.take(turn("a", 62, holding={ACCOUNT: 60}))
            assert await draw(ledger, "d", 31, 100, now=62) == 0
            assert await draw(ledger, "d", 30, 100, now=62) == 30, "telling it brings none back"
            await ledger.tidy(61)
            rows = await ledger._store.rows(select(advances.c.holder))
            assert {row[0] for row in rows} == {"b", "c", "d"}, "a is long gone"

    run_async(body())


@pytest.mark.req("COG-3.4.1")
def test_costs_are_told_by_every_dimension(store_url: str) -> None:
    async def body() -> None:
        async with opened(store_url) as ledger:
            rows = [
                entry("1", 10),
                entry("2", 20, model="big", at=2 * 86_400.0),
                entry("3", 40, agent="", workflow="other"),
                entry("4", 80, namespace="elsewhere"),
            ]
            await ledger.take(turn("a", entries=rows, costs={ACCOUNT: 70}))
            assert await ledger.accounts([ACCOUNT, "none"]) == {ACCOUNT: Account(70, 0)}
            found = await ledger.costs("namespace")
            assert [(cost.key, cost.nanos) for cost in found] == [("elsewhere", 80), ("team", 70)]
            assert await ledger.costs("model", namespace="team") == [
                Cost("m", 2, 4, 6, 50),
                Cost("big", 1, 2, 3, 20),
            ]
            by_day = await ledger.costs("day", namespace="team", agent="reader")
            assert [(cost.key, cost.nanos) for cost in by_day] == [
                ("1970-01-03", 20),
                ("1970-01-02", 10),
            ]
            assert await ledger.costs("workflow", namespace="team", since=100_000) == [
                Cost("audit", 1, 2, 3, 20)
            ]

    run_async(body())


def test_a_turn_that_is_told_twice_counts_once(store_url: str) -> None:
    async def body() -> None:
        async with opened(store_url) as ledger:
            told = turn("a", entries=[entry("1"), entry("2")], costs={ACCOUNT: 10})
            for _ in range(2):
                await ledger.take(told)
            await ledger.take(turn("a", refusals={ACCOUNT: 95}))
            await ledger.take(turn("a", refusals={ACCOUNT: 50}))
            assert await ledger.accounts([ACCOUNT]) == {ACCOUNT: Account(10, 95)}
            assert sum(cost.calls for cost in await ledger.costs("model")) == 2

    run_async(body())


class Moody:
    """A ledger whose answers are lost now and then: before the turn is written, or after."""

    def __init__(self, ledger: SqlLedger, seed: int) -> None:
        self._ledger = ledger
        self._chance = random.Random(seed)
        self.accounts = ledger.accounts
        self.costs = ledger.costs
        self.tidy = ledger.tidy
        self.fold = ledger.fold

    async def take(self, turn: Turn) -> list[Drawn]:
        mood = self._chance.random()
        if mood < 0.15:
            raise UnavailableError("lost before")
        found = await self._ledger.take(turn)
        if mood > 0.85:
            raise UnavailableError("lost after")
        return found


class World:
    """Callers on several gateways; after every step the books are checked."""

    def __init__(self, account: str, ceiling: int) -> None:
        self.account = account
        self.ceiling = ceiling
        self.really_spent = 0
        self.under_way = 0
        self.served = 0
        self.refused = 0

    async def call(self, teller: Teller, worst: int, cost: int, name: str) -> None:
        deadline = asyncio.get_running_loop().time() + 20
        while True:
            try:
                await teller.reserve(self.account, self.ceiling, worst, deadline)
                break
            except BudgetExceededError:
                self.refused += 1
                return
            except UnavailableError:
                await asyncio.sleep(0.01)
        self.under_way += worst
        assert self.really_spent + self.under_way <= self.ceiling
        await asyncio.sleep(0)
        self.under_way -= worst
        self.really_spent += cost
        self.served += 1
        await teller.settle([entry(name, cost)], {self.account: cost}, {self.account: worst})


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gateways that try again and give back at once, so that examples are short."""
    for name in ("RETRY", "IDLE", "LOOK"):
        monkeypatch.setattr(f"seedbed.runtime.llm.budget.teller.{name}", 0.01)


@pytest.mark.req("COG-3.4.2")
@pytest.mark.usefixtures("_impatient")
@settings(
    max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    calls=st.lists(st.tuples(st.integers(1, 40), st.floats(0, 1)), min_size=5, max_size=60),
    ceiling=st.integers(20, 900),
    gateways=st.integers(1, 3),
    seed=st.integers(0, 1000),
)
def test_whoever_asks_at_once_no_more_is_spent_than_there_is(
    store_url: str, calls: list[tuple[int, float]], ceiling: int, gateways: int, seed: int
) -> None:
    account = f"{ACCOUNT}-{time.monotonic_ns()}"

    async def body() -> None:
        world = World(account, ceiling)
        async with opened(store_url) as ledger:
            tellers = [Teller(Moody(ledger, seed + n), f"{account}-{n}") for n in range(gateways)]
            async with working(tellers), asyncio.TaskGroup() as tasks:
                for number, (worst, share) in enumerate(calls):
                    cost = round(worst * share)
                    name = f"{account}-{number}"
                    teller = tellers[number % gateways]
                    tasks.create_task(world.call(teller, worst, cost, name))
            stand = (await ledger.accounts([account])).get(account, Account(0, 0))
            assert stand.spent == world.really_spent <= ceiling
            assert world.served + world.refused == len(calls)
            most = max(worst for worst, _ in calls)
            if world.refused:
                assert stand.spent > ceiling - most, "refused only where it would not have fitted"
            whole = ceiling - stand.spent
            again = await ledger.take(
                turn("z", time.time(), draws=[Draw(account, whole, whole, ceiling)])
            )
            assert again[0].granted == whole, "all that was held is given back"

    run_async(body(), 60)


@asynccontextmanager
async def working(tellers: Sequence[Teller]) -> AsyncIterator[None]:
    if not tellers:
        yield
        return
    async with tellers[0].working(), working(tellers[1:]):
        yield


KILLED = """
import asyncio, sys
from seedbed.runtime.llm.budget.teller import Teller
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.store.sql_ledger import SqlLedger
from tests.integration.test_ledger import ACCOUNT, entry

async def main() -> None:
    store = SqlStore.open(sys.argv[1])
    teller = Teller(SqlLedger(store), "killed", lease=1.0)
    async def caller(name: str) -> None:
        for number in range(1000):
            await teller.reserve(ACCOUNT, 10_000_000, 100, 1e9)
            await teller.settle([entry(f"{name}-{number}", 60)], {ACCOUNT: 60}, {ACCOUNT: 100})
            print(f"{name}-{number}", flush=True)
    async with teller.working(), asyncio.TaskGroup() as tasks:
        for name in "abcdefgh":
            tasks.create_task(caller(name))

asyncio.run(main())
"""


@pytest.mark.req("COG-3.4.2")
def test_a_killed_gateway_loses_nothing_that_was_answered_and_gives_back_the_rest(
    store_url: str,
) -> None:
    async def prepared() -> None:
        async with opened(store_url):
            pass

    run_async(prepared())
    script = textwrap.dedent(KILLED)
    acknowledged = []
    with subprocess.Popen(
        [sys.executable, "-c", script, store_url],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            acknowledged.append(line.strip())
            if len(acknowledged) == 200:
                os.kill(process.pid, signal.SIGKILL)
                break
        acknowledged += [line.strip() for line in process.stdout if line.endswith("\n")]

    async def body() -> None:
        async with opened(store_url) as ledger:
            stand = (await ledger.accounts([ACCOUNT]))[ACCOUNT]
            written = sum(cost.calls for cost in await ledger.costs("agent"))
            assert written >= len(acknowledged) >= 200
            assert stand.spent == written * 60, "entries and account agree"
            rest = 10_000_000 - stand.spent
            while not await draw(ledger, "next", rest, 10_000_000, now=time.time()):
                await asyncio.sleep(0.05)

    run_async(body(), 20)
