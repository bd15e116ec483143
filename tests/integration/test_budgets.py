"""Budgets over real HTTP and real databases: 64 callers at once, halts, raises, a gateway killed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from seedbed.crds.addresses import agent_setting
from seedbed.crds.budget import Budget
from seedbed.crds.money import NANOS
from seedbed.crds.spending import SPENDING_PREFIX, Spending, agent_account, workflow_setting
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.llm.funded import funded
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.models import ModelEntry, Models
from seedbed.runtime.llm.notices import Notice
from seedbed.runtime.llm.service import serving
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.store.sql_ledger import SqlLedger
from tests.conftest import run_async
from tests.providers import FakeProvider, Json, provider

AGENT = {"X-Seedbed-Namespace": "team", "X-Seedbed-Agent": "reader"}


@dataclass(frozen=True, slots=True)
class Bank:
    """A gateway with budgets, over HTTP."""

    session: aiohttp.ClientSession
    ledger: SqlLedger
    coordinator: MemoryCoordinator
    notices: list[Notice]

    async def chat(self, **fields: Any) -> tuple[int, Json]:
        ask = {"model": "default", "messages": [{"role": "user", "content": "go"}]} | fields
        async with self.session.post("/v1/chat/completions", json=ask, headers=AGENT) as answer:
            return answer.status, await answer.json()

    async def set_budget(self, limit: str, **fields: Any) -> None:
        budget = Budget(limit=limit, **fields).model_dump(mode="json", by_alias=True)
        key = agent_setting("team", "reader")
        await self.coordinator.put(key, orjson.dumps({"budget": budget}))

    async def spent(self) -> int:
        account = agent_account("team", "reader")
        found = (await self.ledger.accounts([account])).get(account)
        return 0 if found is None else found.spent

    async def told(self) -> Spending:
        key = f"{SPENDING_PREFIX}{agent_account('team', 'reader')}"
        return Spending.read((await self.coordinator.settings(key)).get(key))


@asynccontextmanager
async def bank(url: str, *entries: ModelEntry, **models: Any) -> AsyncIterator[Bank]:
    store = SqlStore.open(url)
    await store.migrate()
    ledger, coordinator = SqlLedger(store), MemoryCoordinator()
    given = Models.model_validate({"models": entries, "default": entries[0].name, **models})
    gateway = Gateway(given)
    notices: list[Notice] = []
    gateway.notices.also(notices.append)
    try:
        async with (
            funded(gateway, ledger, coordinator, "one"),
            serving(given, "127.0.0.1", 0, gateway=gateway) as port,
            aiohttp.ClientSession(
                f"http://127.0.0.1:{port}", connector=aiohttp.TCPConnector(limit=0)
            ) as session,
        ):
            yield Bank(session, ledger, coordinator, notices)
    finally:
        await store.close()


def entry(fake: FakeProvider, dollars: str, name: str = "big", **fields: Any) -> ModelEntry:
    """A model whose tokens cost so many dollars a million, in and out."""
    price = {"prompt": dollars, "completion": dollars}
    given = {"name": name, "provider": "openai", "model": "m", "api_base": fake.url}
    return ModelEntry.model_validate({**given, "price": price, **fields})


async def until(condition: Callable[[], Any]) -> None:
    while not await condition():
        await asyncio.sleep(0.02)


@pytest.mark.req("COG-3.4.1")
@pytest.mark.req("COG-3.4.2")
@pytest.mark.parametrize(
    ("limit", "price"), [("1", "500"), ("10", "5000"), ("100", "50000")], ids=["1", "10", "100"]
)
def test_64_callers_never_pass_95_percent_and_agree_with_the_provider(
    postgres_url: str, limit: str, price: str
) -> None:
    """Answers of 1 to 12 words, of which 12 are reserved each time."""

    def say(body: Json) -> str:
        return " ".join(["word"] * (1 + int(body["messages"][0]["content"]) % 12))

    async def body() -> None:
        async with (
            provider(say=say, jitter=0.01) as fake,
            bank(postgres_url, entry(fake, price)) as one,
        ):
            await one.set_budget(limit)
            refused = 0

            async def caller(number: int) -> None:
                nonlocal refused
                for turn in range(1000):
                    text = [{"role": "user", "content": str(number + 64 * turn)}]
                    status, answer = await one.chat(messages=text, max_tokens=12)
                    if status == 402:
                        assert answer["error"]["code"] == "budget_exceeded"
                        refused += 1
                        return
                    assert status == 200, answer

            async with asyncio.TaskGroup() as tasks:
                for number in range(64):
                    tasks.create_task(caller(number))
            ceiling = int(float(limit) * 0.95 * NANOS)
            billed = sum(p + c for p, c in fake.billed) * int(price) * 1000
            worst = (34 + 12) * int(price) * 1000
            assert refused == 64
            assert billed <= ceiling
            assert await one.spent() == billed, "to the last nano-dollar"
            assert billed >= ceiling - worst, "and not refused before"
            told = await one.told()
            assert told.spent == billed
            assert told.exceeds(Budget(limit=limit))
            by_model = await one.ledger.costs("model", namespace="team")
            assert by_model[0].calls == len(fake.billed)

    run_async(body(), 90)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


@pytest.mark.req("COG-3.4.2")
def test_raising_the_budget_goes_on_where_it_halted(url: str) -> None:
    async def body() -> None:
        async with provider() as fake, bank(url, entry(fake, "1000")) as one:
            await one.set_budget("0.10")
            while (await one.chat(max_tokens=4))[0] == 200:
                pass
            status, answer = await one.chat(max_tokens=4)
            assert (status, answer["error"]["type"]) == (402, "insufficient_quota")
            assert "agents/team/reader" in answer["error"]["message"]
            before = len(fake.billed)
            assert (await one.told()).exceeds(Budget(limit="0.10"))
            assert not (await one.told()).exceeds(Budget(limit="0.20"))
            await one.set_budget("0.20")

            async def answered() -> bool:
                return (await one.chat(max_tokens=4))[0] == 200

            await until(answered)
            assert len(fake.billed) > before

    run_async(body())


@pytest.mark.req("COG-3.4.2")
def test_a_budget_tells_once_that_it_runs_out_that_it_halts_and_that_it_goes_on(url: str) -> None:
    account = agent_account("team", "reader")

    async def body() -> None:
        async with provider() as fake, bank(url, entry(fake, "1000")) as one:

            async def stands(state: int) -> bool:
                line = f'seedbed_model_budget_state{{account="{account}"}} {state}.0'
                async with one.session.get("/metrics") as answer:
                    return line in await answer.text()

            def kinds() -> list[str]:
                assert {notice.of for notice in one.notices} <= {account}
                return [notice.kind for notice in one.notices]

            await one.set_budget("0.25")
            while await one.spent() < 0.8 * 0.25 * NANOS:
                assert kinds() == []
                assert (await one.chat(max_tokens=4))[0] == 200
            await until(lambda: stands(1))
            assert kinds() == ["budget.alert"]
            while (await one.chat(max_tokens=4))[0] == 200:
                pass
            await until(lambda: stands(2))
            assert kinds() == ["budget.alert", "budget.exceeded"]
            spent, limit = one.notices[-1].facts.values()
            assert limit == "0.25"
            assert 0.2 < float(spent) <= 0.95 * 0.25
            await one.set_budget("5")

            async def answered() -> bool:
                return (await one.chat(max_tokens=4))[0] == 200

            await until(answered)
            await until(lambda: stands(0))
            assert kinds() == ["budget.alert", "budget.exceeded", "budget.resumed"]

    run_async(body())


@pytest.mark.req("COG-3.4.1")
def test_a_stream_that_its_caller_leaves_is_paid_with_its_worst_case(url: str) -> None:
    async def body() -> None:
        async with (
            provider(say=lambda _: "word " * 300, slow=0.02) as fake,
            bank(url, entry(fake, "1000")) as one,
        ):
            await one.set_budget("100")
            ask = {"model": "big", "messages": [{"role": "user", "content": "x"}], "stream": True}
            async with one.session.post("/v1/chat/completions", json=ask, headers=AGENT) as answer:
                await answer.content.readline()

            async def settled() -> bool:
                return await one.spent() > 0

            await until(settled)
            assert fake.left == 1
            (cost,) = await one.ledger.costs("model", agent="reader")
            assert cost.calls == 1
            assert cost.nanos == await one.spent()

    run_async(body())


def test_as_money_runs_out_the_cheaper_model_answers_and_then_the_free_one(url: str) -> None:
    async def body() -> None:
        async with provider() as fake:
            models = (
                entry(fake, "1000"),
                entry(fake, "100", name="small"),
                entry(fake, "0", name="free"),
                entry(fake, "1", name="apart", failover=False),
            )
            async with bank(url, *models) as one:
                await one.set_budget("0.30", policy="Cheaper")
                served = []
                for _ in range(120):
                    status, answer = await one.chat(max_tokens=4)
                    assert status == 200
                    served.append(answer["model"])
                assert served[0] == "big"
                assert served[-1] == "free"
                assert await one.spent() <= 0.95 * 0.30 * NANOS

                async def told() -> bool:
                    return (await one.told()).spent == await one.spent()

                await until(told)

    run_async(body())


def test_a_model_without_a_price_takes_no_call_that_a_budget_pays(url: str) -> None:
    async def body() -> None:
        async with provider() as fake:
            secret = entry(fake, "1").model_copy(update={"price": None})
            async with bank(url, secret) as one:
                assert (await one.chat())[0] == 200
                await one.set_budget("5")

                async def unpriced() -> bool:
                    status, answer = await one.chat()
                    return bool(status == 402 and answer["error"]["code"] == "unpriced")

                await until(unpriced)

    run_async(body())


def test_a_namespace_has_one_budget_for_all(url: str) -> None:
    async def body() -> None:
        async with provider() as fake:
            limits = {"*": {"limit": "0.05"}, "rich": {"limit": "5000"}}
            async with bank(url, entry(fake, "1000"), budgets=limits) as one:
                while (await one.chat(max_tokens=4))[0] == 200:
                    pass
                ask = {"model": "big", "messages": [{"role": "user", "content": "x"}]}
                for space, status in (("rich", 200), ("team", 402)):
                    headers = {"X-Seedbed-Namespace": space, "X-Seedbed-Workflow": "other"}
                    async with one.session.post(
                        "/v1/chat/completions", json=ask, headers=headers
                    ) as answer:
                        assert answer.status == status

    run_async(body())


def test_a_workflow_pays_too_and_a_stream_is_settled_at_its_end(url: str) -> None:
    async def body() -> None:
        async with (
            provider(say=lambda _: "one two three") as fake,
            bank(url, entry(fake, "1000")) as one,
        ):
            key = workflow_setting("team", "audit")
            await one.coordinator.put(key, orjson.dumps({"budget": {"limit": "50"}}))
            headers = {**AGENT, "X-Seedbed-Workflow": "audit", "X-Seedbed-Run": "r1"}
            ask = {"model": "big", "messages": [{"role": "user", "content": "x"}], "stream": True}
            async with one.session.post(
                "/v1/chat/completions", json=ask, headers=headers
            ) as answer:
                assert "[DONE]" in await answer.text()
            assert await one.spent() == 4 * 1000 * 1000, "one token in, three out"
            costs = await one.ledger.costs("workflow", agent="reader")
            assert [(cost.key, cost.nanos) for cost in costs] == [("audit", 4_000_000)]

    run_async(body())
