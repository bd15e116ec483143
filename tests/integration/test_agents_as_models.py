"""An Agent asked as a model: over the bus to a worker of its Pool, and back as a chat completion."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest

from seedbed.cli.gateway import Replica, serving_models
from seedbed.crds.addresses import agent_setting
from seedbed.crds.agent import AgentSpec
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.llm.models import Models
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.worker.worker import Worker
from tests.conftest import run_async
from tests.providers import FakeProvider, Json, provider


class Place:
    """A model service, workers, and Agents in the namespace `team`."""

    def __init__(self, port: int, bus: MemoryBus, coordinator: MemoryCoordinator) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.bus = bus
        self.coordinator = coordinator
        self.client = openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            api_key="any",
            max_retries=0,
            default_headers={"X-Seedbed-Namespace": "team", "X-Seedbed-Timeout": "20"},
        )

    async def agent(self, name: str, signature: str, **fields: Any) -> None:
        spec = AgentSpec.model_validate(
            {"pool": {"name": "general"}, "signature": signature, **fields}
        )
        value = orjson.dumps(spec.model_dump(mode="json", by_alias=True))
        await self.coordinator.put(agent_setting("team", name), value)

    async def ask(self, model: str, text: str) -> openai.types.chat.ChatCompletion:
        return await self.client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": text}]
        )

    @asynccontextmanager
    async def worker(self, name: str) -> AsyncIterator[Worker]:
        stopping = asyncio.Event()
        found = Worker(
            bus=self.bus,
            coordinator=self.coordinator,
            gateway_url=self.url,
            namespace="team",
            pool="general",
            adapter="python",
            stopping=stopping,
            worker_id=name,
        )
        running = asyncio.create_task(found.run())
        while found.health != "healthy":
            await asyncio.sleep(0.01)
        yield found
        stopping.set()
        await running


@asynccontextmanager
async def place(folder: Path, fake: FakeProvider) -> AsyncIterator[Place]:
    entry = {"name": "m", "provider": "openai", "apiBase": fake.url}
    price = {"prompt": "1", "completion": "1"}
    models = Models.model_validate({"models": [{**entry, "price": price}], "default": "m"})
    bus, coordinator = MemoryBus(), MemoryCoordinator()
    store = SqlStore.open(f"sqlite:///{folder}/store.db")
    await store.migrate()
    try:
        async with serving_models(
            models,
            "127.0.0.1",
            0,
            replica=Replica("one", store, coordinator),
            bus=lambda: bus,
        ) as port:
            yield Place(port, bus, coordinator)
    finally:
        await store.close()
        await bus.close()


def say(asked: Json) -> str:
    """An answer in the form that the Agent's signature asks for."""
    fields = asked["response_format"]["json_schema"]["schema"]["properties"]
    values = {"reasoning": "because", "summary": "short", "length": 7}
    return orjson.dumps({name: values[name] for name in fields}).decode()


@pytest.mark.req("DSX-18")
def test_an_agent_answers_as_a_model(tmp_path: Path) -> None:
    async def body() -> None:
        async with provider(say=say) as fake, place(tmp_path, fake) as here:
            await here.agent("reader", "text -> summary", strategy="ChainOfThought")
            await here.agent("counter", "text, limit: int -> summary, length: int")
            async with here.worker("one"), here.worker("two"):
                answers = await asyncio.gather(
                    *(here.ask("agent/reader", f"text {number}") for number in range(20))
                )
                assert {a.choices[0].message.content for a in answers} == {"short"}
                assert answers[0].model == "agent/reader"
                found = await here.ask("agent/counter", '{"text": "long", "limit": 9}')
                said = orjson.loads(found.choices[0].message.content or "")
                assert said == {"summary": "short", "length": 7}
                pieces = await here.client.chat.completions.create(
                    model="agent/reader", messages=[{"role": "user", "content": "x"}], stream=True
                )
                text = "".join([p.choices[0].delta.content or "" async for p in pieces])
                assert text == "short"

    run_async(body(), 90)


@pytest.mark.req("DSX-18")
def test_a_worker_that_has_gone_is_passed_over_and_errors_are_clear(tmp_path: Path) -> None:
    async def body() -> None:
        async with provider(say=say) as fake, place(tmp_path, fake) as here:
            await here.agent("reader", "text, limit: int -> summary")
            await here.agent("asleep", "text -> summary", suspend=True)
            with pytest.raises(openai.NotFoundError, match="nobody"):
                await here.ask("agent/nobody", "x")
            with pytest.raises(openai.InternalServerError, match="no worker of the Pool"):
                await here.ask("agent/reader", '{"text": "a", "limit": 1}')
            with pytest.raises(openai.InternalServerError, match="suspended"):
                await here.ask("agent/asleep", "x")
            gone = b'{"capabilities": ["answers"], "metadata": {"namespace": "team", "pool": "general"}}'
            await here.coordinator.put("services/worker/gone", gone)
            async with here.worker("one"):
                with pytest.raises(openai.BadRequestError, match="text, limit"):
                    await here.ask("agent/reader", "no object")
                with pytest.raises(openai.BadRequestError, match="limit"):
                    await here.ask("agent/reader", '{"text": "a", "limit": "many"}')
                for _ in range(5):
                    found = await here.ask("agent/reader", '{"text": "a", "limit": 1}')
                    assert found.choices[0].message.content == "short"

    run_async(body(), 90)
