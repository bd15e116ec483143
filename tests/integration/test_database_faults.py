"""A database that refuses for good: what is at fault fails and says so, the gateway goes on."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest
from openai.types import Batch
from sqlalchemy import select, text

from seedbed.crds.spending import namespace_account
from seedbed.runtime.llm.batch.offline import job, own, worker
from seedbed.runtime.llm.budget.teller import Teller
from seedbed.runtime.store import schema
from seedbed.runtime.store.ledger import LedgerEntry
from seedbed.runtime.store.port import StoreRefusedError
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.store.sql_ledger import SqlLedger
from tests.conftest import run_async
from tests.integration.test_offline_batches import PRICE, Lane, line, ran

COUNTED = 'seedbed_model_offline_faults_total{kind="database"}'
ANSWERS = "NEW.custom_id = 'bad' AND NEW.way <> ''"
ALL = "NEW.custom_id = 'bad' AND NEW.state <> 'own'"


async def poisoned(store: SqlStore, table: str, action: str, when: str) -> None:
    """Have the database refuse some rows with an error that it gives every time."""
    async with store.transaction() as connection:
        if store.dialect == "sqlite":
            refuse = "SELECT abs(-9223372036854775807 - 1)"
            await connection.execute(
                text(
                    f"CREATE TRIGGER poison BEFORE {action} ON {table}"
                    f" WHEN {when} BEGIN {refuse}; END"
                )
            )
            return
        await connection.execute(
            text(
                "CREATE OR REPLACE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql"
                " AS 'BEGIN RAISE EXCEPTION ''no such luck''; END'"
            )
        )
        await connection.execute(
            text(
                f"CREATE TRIGGER poison BEFORE {action} ON {table}"
                f" FOR EACH ROW WHEN ({when}) EXECUTE FUNCTION refuse()"
            )
        )


async def faults(found: Lane) -> float:
    """Faults of the database that were counted."""
    async with httpx.AsyncClient() as client:
        page = await client.get(str(found.client.base_url.copy_with(path="/metrics")))
    counts = [each.split() for each in page.text.splitlines()]
    return sum(float(each[1]) for each in counts if each[0] == COUNTED)


def wanted(billed: list[tuple[int, int]]) -> int:
    """What a provider wants for such tokens, in nano-dollars."""
    return sum(prompt + answer for prompt, answer in billed) * PRICE * 1000


def failed_well(batch: Batch) -> None:
    assert batch.status == "failed", batch
    assert batch.errors is not None
    assert batch.errors.data is not None
    [error] = batch.errors.data
    assert error.code == "database_refused"
    assert "refused for good" in (error.message or "")
    assert batch.failed_at is not None


@pytest.mark.req("COG-5.2.1")
@pytest.mark.parametrize("by_batch", [False, True], ids=["own", "provider"])
@pytest.mark.parametrize("refuses", [ANSWERS, ALL], ids=["answers", "everything"])
def test_a_batch_that_the_database_refuses_fails_alone(
    store_url: str, refuses: str, *, by_batch: bool
) -> None:
    async def body(found: Lane) -> None:
        await poisoned(found.store, "batch_lines", "UPDATE", refuses)
        bad = await found.begun([line("good", "one"), line("bad", "two")])
        other = await found.begun([line("c", "three")])
        failed_well(batch := await found.ended(bad.id))
        ended = await found.ended(other.id)
        assert ended.status == "completed"
        assert await faults(found) >= 1
        assert set(await found.results(batch.output_file_id)) == {"good"}, "what was done is kept"
        told = await found.results(batch.error_file_id)
        if refuses == ANSWERS and not by_batch:
            assert told["bad"]["error"]["code"] == "batch_failed"
        after = await found.ended((await found.begun([line("d", "four")])).id)
        assert after.status == "completed", "the gateway goes on"
        if by_batch:
            assert await found.spent() > 0
        else:
            assert len(found.fake.seen) == 4, "each is asked once"
            assert await found.spent() == wanted(found.fake.billed)

    if refuses == ALL and by_batch:
        refuses = f"{ALL} AND NEW.state <> 'sent' AND NEW.state <> 'ready'"
    if refuses.startswith(ALL) and not by_batch:
        refuses = f"{ALL} AND NEW.state <> 'sent'"
    ran(store_url, body, entry={"batchApi": by_batch}, offline={"concurrency": 1})


@pytest.mark.req("COG-5.2.1")
@pytest.mark.parametrize("by_batch", [False, True], ids=["own", "provider"])
def test_an_answer_that_the_database_refuses_is_paid_once_and_said(
    store_url: str, *, by_batch: bool
) -> None:
    async def body(found: Lane) -> None:
        when = "NEW.custom_id = 'bad' AND NEW.status = 200"
        await poisoned(found.store, "batch_lines", "UPDATE", when)
        begun = await found.begun([line("good", "one"), line("bad", "two")])
        batch = await found.ended(begun.id)
        assert batch.status == "completed"
        assert batch.request_counts is not None
        assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 1)
        told = (await found.results(batch.error_file_id))["bad"]["response"]
        assert told["body"]["error"]["code"] == "database_refused"
        assert set(await found.results(batch.output_file_id)) == {"good"}
        assert await faults(found) == 1
        if by_batch:
            assert await found.spent() == wanted(found.fake.batches.billed) // 2
        else:
            assert len(found.fake.seen) == 2
            assert await found.spent() == wanted(found.fake.billed)

    ran(store_url, body, entry={"batchApi": by_batch}, offline={"concurrency": 1})


def test_a_file_whose_lines_the_database_refuses_fails_before_it_begins(store_url: str) -> None:
    async def body(found: Lane) -> None:
        await poisoned(found.store, "batch_lines", "INSERT", "NEW.custom_id = 'bad'")
        batch = await found.ended((await found.begun([line("a", "1"), line("bad", "2")])).id)
        failed_well(batch)
        assert not found.fake.seen
        rows = await found.store.rows(select(schema.batch_lines.c.number))
        assert not rows, "nothing is left of it"

    ran(store_url, body)


def test_a_database_that_refuses_all_is_waited_for(
    store_url: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worker, "_AFTER_A_FAULT", 0.05)
    monkeypatch.setattr(own, "_AGAIN", 0.02)
    for module in (job, own):
        monkeypatch.setattr(module, "MOST_REFUSALS", 10_000)

    async def body(found: Lane) -> None:
        found.fake.latency = 0.3
        begun = await found.begun([line(f"a{at}", f"number {at}") for at in range(3)])
        while len(found.fake.seen) < 3:
            await asyncio.sleep(0.01)
        await renamed(found.store, "batches", "gone")
        while caplog.text.count("the database refuses what a line has cost") < 3:
            await asyncio.sleep(0.01)
        await renamed(found.store, "gone", "batches")
        batch = await found.ended(begun.id)
        assert batch.status == "completed", batch
        assert set(await found.results(batch.output_file_id)) == {"a0", "a1", "a2"}
        assert len(found.fake.seen) == 3, "what was paid for is kept until it can be written"

    ran(store_url, body, entry={"batchApi": False}, offline={"pollSeconds": 0.02})


async def renamed(store: SqlStore, before: str, after: str) -> None:
    async with store.transaction() as connection:
        await connection.execute(text(f"ALTER TABLE {before} RENAME TO {after}"))


def entry(name: str, nanos: int) -> LedgerEntry:
    whose = {"namespace": "team", "workflow": "", "agent": "", "run": "", "user": name}
    used = {"prompt_tokens": 1, "completion_tokens": 1, "nanos": nanos, "estimated": False}
    given: dict[str, Any] = {**whose, **used}
    return LedgerEntry(id=name, at=time.time(), model="m", prices="1", **given)


def test_what_the_ledger_refuses_holds_up_nobody_else(store_url: str) -> None:
    async def body() -> None:
        store = SqlStore.open(store_url)
        await store.migrate()
        await poisoned(store, "ledger", "INSERT", "NEW.id = 'bad'")
        ledger, account = SqlLedger(store), namespace_account("team")
        teller = Teller(ledger, "gateway")
        async with teller.working():
            done = {
                name: teller.settle([entry(name, 10)], {account: 10}, {})
                for name in ("a", "bad", "b")
            }
            await done["a"]
            await done["b"]
            with pytest.raises(StoreRefusedError):
                await done["bad"]
            await renamed(store, "ledger", "gone")
            waits = teller.settle([entry("c", 10)], {account: 10}, {})
            with pytest.raises(StoreRefusedError):
                await teller.reserve("agents/team/x", 1000, 1, time.monotonic() + 1)
            await renamed(store, "gone", "ledger")
            await waits
            await teller.settle([entry("d", 10)], {account: 10}, {})
        assert (await ledger.accounts([account]))[account].spent == 40
        [cost] = await ledger.costs("namespace", namespace="team")
        assert cost.nanos == 40
        await store.close()

    run_async(body())


def test_an_answer_that_cannot_be_kept_keeps_no_other_from_it(store_url: str) -> None:
    async def body(found: Lane) -> None:
        await poisoned(found.store, "cached_answers", "INSERT", "NEW.cost_nanos > 3000000")

        async def ask(text: str) -> None:
            message: Any = {"role": "user", "content": text}
            await found.client.chat.completions.create(model="m", messages=[message], temperature=0)

        await ask("bad " * 100)
        number = 0
        while not await found.store.rows(select(schema.cached_answers.c.id)):
            number += 1
            await ask(f"good {number}")
            await asyncio.sleep(0.1)

    ran(store_url, body, cache={"mode": "on"})
