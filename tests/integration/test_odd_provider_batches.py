"""Providers' batches that lose answers, change their minds, never end, or say what makes no sense."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from seedbed.runtime.store.schema import advances, batches
from seedbed.runtime.store.sql import SqlStore
from tests.conftest import run_async
from tests.integration.test_offline_batches import PRICE, Lane, lane, line, ran, text_of
from tests.providers import Json, provider


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


async def made(found: Lane) -> None:
    while not found.fake.batches.made:
        await asyncio.sleep(0.01)


async def paid(found: Lane) -> int:
    """What was billed, which is what was written; nothing is held any more."""
    held = await found.store.rows(select(func.sum(advances.c.amount)))
    assert not held[0][0]
    full = sum(p + c for p, c in found.fake.batches.billed) * PRICE * 1000
    assert await found.spent() == full // 2
    return full


@pytest.mark.req("COG-5.2.1")
@pytest.mark.parametrize("refused", [[], [401, 500]])
def test_a_batch_whose_making_was_not_heard_of_is_not_made_twice(
    url: str, refused: list[int]
) -> None:
    async def body(found: Lane) -> None:
        found.fake.batches.cuts = 1
        found.fake.batches.fail_list = refused
        batch = await found.ended((await found.begun([line("a", "once")])).id)
        assert batch.status == "completed"
        assert found.fake.batches.asked_to_make == 1
        assert found.fake.batches.lines == ["once"]
        assert not found.fake.seen
        assert await paid(found)

    ran(url, body)


@pytest.mark.req("COG-5.2.1")
def test_results_count_where_the_batch_ends_before_it_is_cancelled(url: str) -> None:
    async def body(found: Lane) -> None:
        found.fake.batches.held = True
        found.fake.batches.ends_first = True
        batch = await found.begun([line("a", "done")])
        await made(found)
        await found.client.batches.cancel(batch.id)
        batch = await found.ended(batch.id)
        assert batch.status == "cancelled"
        results = await found.results(batch.output_file_id)
        assert text_of(results["a"]) == "batch says done"
        assert await paid(found)

    ran(url, body)


@pytest.mark.req("COG-5.2.1")
def test_what_a_provider_has_is_paid_there_also_where_no_more_may_go(url: str) -> None:
    async def body() -> None:
        async with provider() as fake:
            fake.batches.held = True
            async with lane(fake, url) as found:
                batch = await found.begun([line("a", "once")])
                await made(found)
                await found.until(batch.id, lambda one: one.status == "in_progress")
            fake.batches.held = False
            async with lane(fake, url, entry={"batchApi": False}) as found:
                assert (await found.ended(batch.id)).status == "completed"
                assert not fake.seen
                assert await paid(found)
                later = await found.ended((await found.begun([line("b", "later")])).id)
                assert later.status == "completed"
                assert len(fake.seen) == len(fake.batches.made) == 1

    run_async(body())


@pytest.mark.parametrize("odd", [{"held": True, "status": "thinking"}, {"unreadable": True}])
def test_nobody_waits_for_ever_for_a_provider_that_does_not_end(url: str, odd: Json) -> None:
    async def body() -> None:
        async with provider() as fake:
            for name, value in odd.items():
                setattr(fake.batches, name, value)
            async with lane(fake, url) as found:
                batch = await found.begun([line("a", "late")])
                await made(found)
                assert (await found.client.batches.retrieve(batch.id)).status == "in_progress"
            store, long_ago = SqlStore.open(url), time.time() - 3 * 86_400
            async with store.transaction() as connection:
                await connection.execute(update(batches).values(expires_at=long_ago))
            await store.close()
            async with lane(fake, url) as found:
                batch = await found.ended(batch.id)
                assert batch.status == "expired"
                failed = await found.results(batch.error_file_id)
                assert failed["a"]["error"]["code"] == "batch_expired"

    run_async(body())


def answer(usage: Any, **more: Any) -> Json:
    message = {"role": "assistant", "content": "hi"}
    return {"choices": [{"message": message}], "usage": usage, **more}


def test_results_that_make_no_sense_fail_their_lines_alone(url: str) -> None:
    fine = {"prompt_tokens": 1, "completion_tokens": 1}
    said: list[Any] = [
        "no JSON",
        "[]",
        {"custom_id": str(10**12), "response": {"status_code": 200, "body": answer(fine)}},
        {"custom_id": "-1", "response": {"status_code": 200, "body": answer(fine)}},
        {"custom_id": "1", "response": {"status_code": 200, "body": answer(fine)}},
        {"custom_id": "2", "response": {"status_code": 302, "body": {"error": "moved"}}},
        {"custom_id": "3", "response": {"status_code": 10**12, "body": {}}},
        {"custom_id": "4", "response": {"status_code": 200, "body": "hello"}},
        {"custom_id": "5", "response": {"status_code": 200, "body": {"choices": "x"}}},
        {"custom_id": "6", "response": {"status_code": 200, "body": {"choices": [1]}}},
        {"custom_id": "7", "response": None, "error": "gone"},
        {"custom_id": "8", "response": {"status_code": 200, "body": answer({"prompt_tokens": -9})}},
        {"custom_id": "1", "response": {"status_code": 200, "body": answer(fine)}},
    ]

    async def body(found: Lane) -> None:
        found.fake.batches.says = said
        lines = [
            {
                "custom_id": f"a{at}",
                "method": "POST",
                "url": "/v1/completions",
                "body": {"model": "m", "prompt": f"number {at}", "max_tokens": 5},
            }
            for at in range(1, 9)
        ]
        batch = await found.ended((await found.begun(lines, "/v1/completions")).id)
        assert batch.status == "completed"
        assert set(await found.results(batch.output_file_id)) == {"a1", "a8"}
        failed = await found.results(batch.error_file_id)
        codes = {name: told["response"]["status_code"] for name, told in failed.items()}
        assert codes == {f"a{at}": 502 for at in range(2, 8)}
        assert await found.spent() > 0

    ran(url, body)
