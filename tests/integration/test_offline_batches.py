"""Batches of offline work, with the unmodified client that OpenAI publishes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch
from sqlalchemy import func, select, update

from seedbed.cli.gateway import Replica, serving_models
from seedbed.crds.budget import Budget
from seedbed.crds.spending import agent_account, namespace_account
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.llm.models import Models
from seedbed.runtime.llm.notices import Notice
from seedbed.runtime.store.batch_work import SqlBatchWork
from seedbed.runtime.store.schema import advances, batches
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.store.sql_ledger import SqlLedger
from tests.conftest import run_async
from tests.providers import FakeProvider, Json, provider

PRICE = 100
"""Dollars for a million tokens."""
ALL = ["streaming", "structured", "tools", "embeddings"]
GUIDE = Path(__file__).resolve().parents[2] / "docs/guides/offline-batches.md"
LIVE = ("validating", "in_progress", "finalizing", "cancelling")


@pytest.fixture
def file_url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@dataclass(slots=True)
class Lane:
    """A gateway with batches before a fake provider, and a client of it."""

    fake: FakeProvider
    store: SqlStore
    client: openai.AsyncOpenAI
    coordinator: MemoryCoordinator
    told: list[Notice]

    async def begun(self, lines: list[Json], endpoint: Any = "/v1/chat/completions") -> Batch:
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        file = await self.client.files.create(file=("in.jsonl", data), purpose="batch")
        return await self.client.batches.create(
            input_file_id=file.id, endpoint=endpoint, completion_window="24h"
        )

    async def until(self, name: str, well: Callable[[Batch], bool]) -> Batch:
        while True:
            batch = await self.client.batches.retrieve(name)
            if well(batch):
                return batch
            await asyncio.sleep(0.02)

    async def ended(self, name: str) -> Batch:
        return await self.until(name, lambda batch: batch.status not in LIVE)

    async def notices(self, last: str) -> list[str]:
        """Kinds of what was told of batches, up to the last of a kind."""
        while True:
            kinds = [notice.kind for notice in self.told if notice.kind.startswith("batch")]
            if kinds and kinds[-1] == last:
                return [*kinds]
            await asyncio.sleep(0.01)

    async def results(self, file: str | None) -> dict[str, Json]:
        if file is None:
            return {}
        text = (await self.client.files.content(file)).text
        found = [json.loads(line) for line in text.splitlines()]
        return {line["custom_id"]: line for line in found}

    async def spent(self, namespace: str = "default") -> int:
        """Nano-dollars, where the account and the ledger's entries agree."""
        ledger, name = SqlLedger(self.store), namespace_account(namespace)
        rows = await ledger.costs("namespace", namespace=namespace)
        found = await ledger.accounts([name])
        account = found[name].spent if name in found else 0
        assert account == sum(row.nanos for row in rows)
        return account


def line(name: str, text: str, **fields: Any) -> Json:
    body = {"model": "m", "messages": [{"role": "user", "content": text}], "max_tokens": 50}
    given = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions"}
    return {**given, "body": {**body, **fields}}


@asynccontextmanager
async def lane(
    fake: FakeProvider,
    url: str,
    *,
    entry: Json | None = None,
    offline: Json | None = None,
    coordinator: MemoryCoordinator | None = None,
    **models: Any,
) -> AsyncIterator[Lane]:
    coordinator = coordinator or MemoryCoordinator()
    price = {"prompt": str(PRICE), "completion": str(PRICE)}
    given: Json = {
        "name": "m",
        "provider": "openai",
        "apiBase": fake.url,
        "model": "x",
        "price": price,
    }
    given |= {"capabilities": ALL, "batchApi": True, "retries": 0, **(entry or {})}
    settings = {"pollSeconds": 0.05, **(offline or {})}
    found = Models.model_validate(
        {"models": [given], "default": "m", "offline": settings, **models}
    )
    told: list[Notice] = []
    async with AsyncExitStack() as stack:
        store = SqlStore.open(url)
        stack.push_async_callback(store.close)
        await store.migrate()
        port = await stack.enter_async_context(
            serving_models(
                found,
                "127.0.0.1",
                0,
                replica=Replica("test", store, coordinator),
                tell=told.append,
            )
        )
        base = f"http://127.0.0.1:{port}/v1"
        client = await stack.enter_async_context(
            openai.AsyncOpenAI(base_url=base, api_key="any", max_retries=0)
        )
        yield Lane(fake, store, client, coordinator, told)


def ran(
    url: str,
    body: Callable[[Lane], Awaitable[None]],
    fake: Json | None = None,
    **given: Any,
) -> None:
    async def inner() -> None:
        async with provider(**(fake or {})) as made, lane(made, url, **given) as found:
            await body(found)

    run_async(inner())


def text_of(result: Json) -> str:
    found: str = result["response"]["body"]["choices"][0]["message"]["content"]
    return found


@pytest.mark.req("COG-5.2.1")
def test_lines_go_to_the_providers_batch_at_half_the_price(store_url: str) -> None:
    async def body(found: Lane) -> None:
        lines = [line(f"a{at}", f"number {at}") for at in range(5)]
        begun = await found.begun(lines)
        assert begun.object == "batch"
        batch = await found.ended(begun.id)
        assert batch.status == "completed", batch
        assert batch.request_counts is not None
        counts = batch.request_counts
        assert (counts.total, counts.completed, counts.failed) == (5, 5, 0)
        results = await found.results(batch.output_file_id)
        assert {name: text_of(told) for name, told in results.items()} == {
            f"a{at}": f"batch says number {at}" for at in range(5)
        }
        assert batch.error_file_id is None
        assert not found.fake.seen, "nobody was asked line by line"
        assert len(found.fake.batches.made) == 1
        full = sum(p + c for p, c in found.fake.batches.billed) * PRICE * 1000
        assert await found.spent() == full // 2
        told = batch.to_dict()["seedbed"]
        assert isinstance(told, dict)
        assert told["answered_by"]["provider_batch"] == 5
        assert told["cost_dollars"] == told["saved_dollars"]
        assert not told["full_price"]
        kept = set(found.fake.batches.files) - set(found.fake.batches.forgotten)
        assert not kept, "the provider keeps nothing of it"
        assert batch.usage is not None
        assert batch.usage.total_tokens == sum(p + c for p, c in found.fake.batches.billed)

    ran(store_url, body)


@pytest.mark.req("COG-5.2.1")
def test_where_no_batch_api_is_allowed_the_gateway_asks_and_says_so(store_url: str) -> None:
    async def body(found: Lane) -> None:
        batch = await found.begun([line(f"a{at}", f"number {at}") for at in range(5)])
        batch = await found.ended(batch.id)
        assert batch.status == "completed"
        assert len(found.fake.seen) == 5
        assert not found.fake.batches.made
        assert await found.spent() == found.fake.cost(PRICE, PRICE)
        told = batch.to_dict()["seedbed"]
        assert isinstance(told, dict)
        assert told["answered_by"]["gateway"] == 5
        assert "m" in told["full_price"]
        assert await found.notices("batch.ended") == ["batch.ended"]

    ran(store_url, body, entry={"batchApi": False})


@pytest.mark.req("COG-5.2.1")
def test_kept_answers_and_equal_lines_cost_nothing(file_url: str) -> None:
    async def body(found: Lane) -> None:
        same = [line(f"a{at}", "the same", temperature=0) for at in range(3)]
        first = await found.ended((await found.begun([*same, line("b", "another", seed=1)])).id)
        assert len(found.fake.batches.lines) == 2
        results = await found.results(first.output_file_id)
        assert {text_of(results[f"a{at}"]) for at in range(3)} == {"batch says the same"}
        spent = await found.spent()
        again = await found.ended((await found.begun(same)).id)
        assert len(found.fake.batches.lines) == 2, "the second batch is all in the cache"
        assert await found.spent() == spent
        told = again.to_dict()["seedbed"]
        assert isinstance(told, dict)
        assert told["answered_by"] == {
            "provider_batch": 0,
            "gateway": 0,
            "cache": 1,
            "equal_line": 2,
        }
        assert float(told["saved_dollars"]) > 0
        assert len(await found.results(again.output_file_id)) == 3

    ran(file_url, body, cache={"mode": "on"})


def test_a_file_that_is_wrong_fails_and_names_line_and_field(file_url: str) -> None:
    async def body(found: Lane) -> None:
        wrong = [
            line("a", "fine"),
            line("a", "the same id"),
            line("c", "too hot", temperature=9),
            line("d", "unknown", model="nobody"),
            {**line("e", "elsewhere"), "url": "/v1/embeddings"},
            line("f", "streamed", stream=True),
        ]
        batch = await found.ended((await found.begun(wrong)).id)
        assert batch.status == "failed"
        assert batch.errors is not None
        told = [(each.line, each.param, each.code) for each in batch.errors.data or ()]
        assert told == [
            (2, "custom_id", "duplicate_custom_id"),
            (3, "body.temperature", "invalid_request"),
            (4, "body.model", "model_not_found"),
            (5, "url", "invalid_url"),
            (6, "body.stream", "invalid_request"),
        ]
        assert not found.fake.seen
        assert not found.fake.batches.made
        for fields in ({"purpose": "vision"}, {"file": ("in.jsonl", b"")}):
            given: Json = {"file": ("in.jsonl", b"{}"), "purpose": "batch", **fields}
            with pytest.raises(openai.BadRequestError) as refused:
                await found.client.files.create(**given)
            assert refused.value.param in fields
        with pytest.raises(openai.BadRequestError) as refused:
            await found.client.batches.create(
                input_file_id="file-none",
                endpoint="/v1/chat/completions",
                completion_window="24h",
            )
        assert refused.value.param == "input_file_id"

    ran(file_url, body)


def test_lines_that_fail_are_in_the_error_file(file_url: str) -> None:
    async def body(found: Lane) -> None:
        found.fake.batches.broken = {"2"}
        found.fake.batches.leaves_out = {"3"}
        lines = [line(f"a{at}", f"number {at}") for at in range(1, 5)]
        batch = await found.ended((await found.begun(lines)).id)
        assert batch.status == "completed"
        counts = batch.request_counts
        assert counts is not None
        assert (counts.completed, counts.failed) == (2, 2)
        assert set(await found.results(batch.output_file_id)) == {"a1", "a4"}
        failed = await found.results(batch.error_file_id)
        assert failed["a2"]["response"]["status_code"] == 400
        assert failed["a3"]["response"]["body"]["error"]["code"] == "provider_malformed"

    ran(file_url, body)


@pytest.mark.req("COG-5.2.1")
def test_what_a_provider_will_not_take_is_asked_line_by_line(file_url: str) -> None:
    async def body(found: Lane) -> None:
        found.fake.batches.fail = [500, 404]
        lines = [line(f"a{at}", f"number {at}") for at in range(3)]
        batch = await found.ended((await found.begun(lines)).id)
        assert batch.status == "completed"
        assert len(found.fake.seen) == 3
        told = batch.to_dict()["seedbed"]
        assert isinstance(told, dict)
        assert "told to" in told["full_price"]["m"]

    ran(file_url, body)


def test_where_a_provider_takes_less_at_a_time_it_gets_less(file_url: str) -> None:
    async def body(found: Lane) -> None:
        found.fake.batches.most = 2
        lines = [line(f"a{at}", f"number {at}") for at in range(8)]
        batch = await found.ended((await found.begun(lines)).id)
        assert batch.status == "completed"
        assert not found.fake.seen
        assert len(found.fake.batches.lines) == 8
        assert len(await found.results(batch.output_file_id)) == 8

    ran(file_url, body)


@pytest.mark.parametrize("asked", [True, False])
def test_a_batch_that_is_cancelled_keeps_what_is_done(file_url: str, asked: bool) -> None:
    async def body(found: Lane) -> None:
        found.fake.batches.held = True
        found.fake.held = True
        entry = [line(f"a{at}", f"number {at}") for at in range(3)]
        batch = await found.begun(entry)
        if asked:
            while not (found.fake.batches.made or found.fake.waiting):
                await asyncio.sleep(0.02)
        batch = await found.client.batches.cancel(batch.id)
        assert batch.status == "cancelling"
        found.fake.let_go()
        batch = await found.ended(batch.id)
        assert batch.status == "cancelled"
        assert batch.cancelled_at
        counts = batch.request_counts
        assert counts is not None
        assert counts.completed + counts.failed == counts.total
        for told in (await found.results(batch.error_file_id)).values():
            assert told["response"] is None
            assert told["error"]["code"] == "batch_cancelled"
        assert all(one["status"] != "in_progress" for one in found.fake.batches.made.values())
        with pytest.raises(openai.NotFoundError):
            await found.client.batches.cancel("batch_none")

    ran(file_url, body)


def test_a_batch_that_takes_too_long_expires(file_url: str) -> None:
    async def body(found: Lane) -> None:
        found.fake.batches.held = True
        batch = await found.begun([line("a", "late")])
        while not found.fake.batches.made:
            await asyncio.sleep(0.02)
        async with found.store.transaction() as connection:
            await connection.execute(update(batches).values(expires_at=1.0))
        batch = await found.ended(batch.id)
        assert batch.status == "expired"
        failed = await found.results(batch.error_file_id)
        assert failed["a"]["error"]["code"] == "batch_expired"

    ran(file_url, body)


@pytest.mark.req("COG-3.4.1")
@pytest.mark.req("COG-3.4.2")
@pytest.mark.parametrize("by_batch", [True, False])
def test_a_budget_stops_a_batch_and_raising_it_goes_on(store_url: str, by_batch: bool) -> None:
    async def body(found: Lane) -> None:
        # Enough for one line's worst case, and for what the first lines cost beside it.
        limit = "0.0053" if by_batch else "0.0106"
        await allowed(found, limit)
        found.client = found.client.with_options(default_headers={"X-Seedbed-Agent": "reader"})
        lines = [line(f"a{at}", f"number {at}") for at in range(6)]
        batch = await found.begun(lines)
        batch = await found.until(batch.id, lambda one: bool(told(one)["halted"]))
        assert batch.status == "in_progress"
        assert "agents/default/reader" in told(batch)["halted"]
        ledger, name = SqlLedger(found.store), agent_account("default", "reader")
        account = (await ledger.accounts([name])).get(name)
        assert account is not None
        ceiling = Budget(limit=limit).halt_nanos
        assert account.refused_under == ceiling
        assert 0 < account.spent <= ceiling
        await allowed(found, "10")
        batch = await found.ended(batch.id)
        assert batch.status == "completed"
        assert batch.request_counts is not None
        assert batch.request_counts.completed == 6
        assert told(batch)["halted"] is None
        kinds = await found.notices("batch.ended")
        assert kinds == ["batch.halted", "batch.resumed", "batch.ended"]
        billed = found.fake.batches.billed if by_batch else found.fake.billed
        full = sum(p + c for p, c in billed) * PRICE * 1000
        assert len(billed) >= 1
        assert await found.spent() == (full // 2 if by_batch else full)
        held = await found.store.rows(select(func.sum(advances.c.amount)))
        assert not held[0][0], "nothing is held any more"

    def told(batch: Batch) -> Json:
        found: Any = batch.to_dict()["seedbed"]
        return dict(found)

    async def allowed(found: Lane, limit: str) -> None:
        setting = {"budget": {"limit": limit}}
        await found.coordinator.put("agents/default/reader", json.dumps(setting).encode())

    ran(store_url, body, entry={"batchApi": by_batch}, fake={"say": lambda _: "one two"})


def test_lines_give_way_to_interactive_calls(file_url: str) -> None:
    async def body(found: Lane) -> None:
        found.fake.held = True
        asking = asyncio.create_task(
            found.client.chat.completions.create(
                model="m", messages=[{"role": "user", "content": "interactive"}]
            )
        )
        while not found.fake.waiting:
            await asyncio.sleep(0.01)
        batch = await found.begun([line("a", "offline")])
        batch = await found.until(batch.id, lambda one: one.status == "in_progress")
        for _ in range(20):
            await found.client.batches.retrieve(batch.id)
        assert len(found.fake.seen) == 1, "the line waits"
        found.fake.let_go()
        await asking
        batch = await found.ended(batch.id)
        assert batch.status == "completed"
        assert len(found.fake.seen) == 2

    ran(file_url, body, entry={"batchApi": False}, offline={"patienceSeconds": 3600})


def test_embeddings_and_completions_go_in_batches_too(file_url: str) -> None:
    async def body(found: Lane) -> None:
        texts = {"custom_id": "e", "method": "POST", "url": "/v1/embeddings"}
        batch = await found.begun(
            [{**texts, "body": {"model": "m", "input": ["one", "four"]}}], "/v1/embeddings"
        )
        batch = await found.ended(batch.id)
        results = await found.results(batch.output_file_id)
        data = results["e"]["response"]["body"]["data"]
        assert [each["embedding"][0] for each in data] == [3.0, 4.0]
        older = {"custom_id": "c", "method": "POST", "url": "/v1/completions"}
        batch = await found.begun(
            [{**older, "body": {"model": "m", "prompt": "hello", "max_tokens": 5}}],
            "/v1/completions",
        )
        batch = await found.ended(batch.id)
        results = await found.results(batch.output_file_id)
        whole = results["c"]["response"]["body"]
        assert whole["object"] == "text_completion"
        assert whole["choices"][0]["text"] == "batch says hello"

    ran(file_url, body)


def test_files_and_batches_belong_to_a_namespace(file_url: str) -> None:
    async def body(found: Lane) -> None:
        batch = await found.ended((await found.begun([line("a", "mine")])).id)
        other = found.client.with_options(default_headers={"X-Seedbed-Namespace": "other"})
        with pytest.raises(openai.NotFoundError):
            await other.batches.retrieve(batch.id)
        with pytest.raises(openai.NotFoundError):
            await other.files.content(str(batch.output_file_id))
        assert not (await other.batches.list()).data
        assert not (await other.files.list()).data
        mine = [one.id async for one in found.client.batches.list(limit=1)]
        assert mine == [batch.id]
        second = await found.begun([line("b", "mine too")])
        await found.ended(second.id)
        paged = [one.id async for one in found.client.batches.list(limit=1)]
        assert paged == [second.id, batch.id]
        files = [one.id async for one in found.client.files.list(limit=2)]
        assert len(files) == 4
        assert (await found.client.files.retrieve(batch.input_file_id)).purpose == "batch"
        assert (await found.client.files.delete(batch.input_file_id)).deleted
        with pytest.raises(openai.NotFoundError):
            await found.client.files.retrieve(batch.input_file_id)

    ran(file_url, body)


@pytest.mark.req("COG-5.2.1")
def test_a_batch_that_is_asked_for_twice_with_one_key_is_one(store_url: str) -> None:
    async def body(found: Lane) -> None:
        first = await found.begun([line("a", "once")])
        keyed = found.client.with_options(default_headers={"Idempotency-Key": "k"})

        async def asked(client: openai.AsyncOpenAI, file: str = first.input_file_id) -> str:
            batch = await client.batches.create(
                input_file_id=file, endpoint="/v1/chat/completions", completion_window="24h"
            )
            return batch.id

        names = await asyncio.gather(*(asked(keyed) for _ in range(5)))
        assert len(set(names)) == 1
        assert names[0] != first.id
        assert await asked(keyed) == names[0]
        other = await found.begun([line("b", "else")])
        with pytest.raises(openai.BadRequestError) as refused:
            await asked(keyed, other.input_file_id)
        assert refused.value.param == "Idempotency-Key"
        space = keyed.with_options(
            default_headers={"Idempotency-Key": "k", "X-Seedbed-Namespace": "other"}
        )
        with pytest.raises(openai.BadRequestError) as refused:
            await asked(space)
        assert refused.value.param == "input_file_id", "a key belongs to a namespace"

    ran(store_url, body)


@pytest.mark.req("COG-3.4.1")
def test_what_is_being_written_when_the_gateway_ends_is_written(
    file_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, write = asyncio.Event(), asyncio.Event(), SqlBatchWork.answered

    async def slowly(*given: Any) -> Any:
        begun.set()
        await go_on.wait()
        return await write(*given)

    monkeypatch.setattr(SqlBatchWork, "answered", slowly)

    async def body() -> None:
        async with provider() as fake:
            async with AsyncExitStack() as stack:
                entry: Json = {"batchApi": False}
                found = await stack.enter_async_context(lane(fake, file_url, entry=entry))
                await found.begun([line("a", "one"), line("b", "two")])
                await begun.wait()
                ending = asyncio.create_task(stack.aclose())
                for _ in range(1000):
                    await asyncio.sleep(0)
                go_on.set()
                await ending
            store = SqlStore.open(file_url)
            rows = await SqlLedger(store).costs("namespace", namespace="default")
            await store.close()
            assert sum(row.nanos for row in rows) == fake.cost(PRICE, PRICE) > 0

    run_async(body())


def test_another_replica_takes_over(file_url: str) -> None:
    async def body() -> None:
        coordinator = MemoryCoordinator()
        async with provider() as fake, AsyncExitStack() as first:
            fake.batches.held = True
            one = await first.enter_async_context(lane(fake, file_url, coordinator=coordinator))
            async with lane(fake, file_url, coordinator=coordinator) as two:
                batch = await two.begun([line("a", "carried on")])
                while not fake.batches.made:
                    await asyncio.sleep(0.02)
                assert (await one.client.batches.retrieve(batch.id)).status == "in_progress"
                await first.aclose()
                fake.batches.held = False
                batch = await two.ended(batch.id)
                assert batch.status == "completed"
                assert len(fake.batches.made) == 1
                assert fake.batches.asked_to_make == 1

    run_async(body())


def test_the_example_of_the_guide_works(file_url: str) -> None:
    code = re.findall(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)[0]

    async def body(found: Lane) -> None:
        at = 'base_url="http://seedbed-gateway.seedbed-system:8000/v1"'
        assert at in code
        here = code.replace(at, f'base_url="{found.client.base_url}"')
        given: Json = {"token": "any", "reviews": ["good", "bad"], "pause": 0.05}
        await asyncio.to_thread(exec, compile(here, str(GUIDE), "exec"), given)
        assert given["answers"] == {
            "review-0": "batch says Summarise: good",
            "review-1": "batch says Summarise: bad",
        }

    ran(file_url, body, entry={"name": "careful"}, default="careful")
