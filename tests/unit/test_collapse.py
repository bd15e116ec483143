"""Equal calls under way share one: who pays, who hears what, and what happens when somebody leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from seedbed.runtime.llm.models import Models
from seedbed.runtime.llm.service import serving
from tests.conftest import run_async
from tests.providers import FakeProvider, Json, provider

SAME: Json = {"messages": [{"role": "user", "content": "one two"}], "temperature": 0}


@asynccontextmanager
async def service(
    fake: FakeProvider, sections: Json | None = None, **entry: Any
) -> AsyncIterator[aiohttp.ClientSession]:
    """The service over one provider."""
    model = {"name": "m", "provider": "openai", "model": "x", "apiBase": fake.url, **entry}
    price = {"prompt": "1", "completion": "2"}
    models = Models.model_validate(
        {"models": [{"price": price, **model}], "default": "m", **(sections or {})}
    )
    async with (
        serving(models, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


class Asking:
    """Calls under way; each is told apart by its number."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def whole(self, body: Json, **headers: str) -> tuple[int, Json, Any]:
        sent = {f"X-Seedbed-{name}": value for name, value in headers.items()}
        path = "/v1/embeddings" if "input" in body else "/v1/chat/completions"
        asked = {"model": "m", **body}
        async with self.session.post(path, json=asked, headers=sent) as answer:
            return answer.status, await answer.json(), answer.headers

    async def text(self, body: Json, **headers: str) -> str:
        sent = {f"X-Seedbed-{name}": value for name, value in headers.items()}
        asked = {"model": "m", "stream": True, **body}
        async with self.session.post("/v1/chat/completions", json=asked, headers=sent) as answer:
            return await answer.text()

    async def metric(self, line: str) -> float:
        async with self.session.get("/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return next((float(each.split()[-1]) for each in lines if each.startswith(line)), 0.0)

    async def until(self, line: str, wanted: float) -> None:
        while await self.metric(line) < wanted:
            await asyncio.sleep(0.01)


GONE = 'seedbed_model_requests_total{model="m",outcome="cancelled"}'
JOINED = 'seedbed_model_collapsed_total{model="m"}'


@asynccontextmanager
async def together(
    count: int, body: Json | None = None, **settings: Any
) -> AsyncIterator[tuple[Asking, FakeProvider, list[asyncio.Task[tuple[int, Json, Any]]]]]:
    """So many equal calls under way at a provider that answers once `held` is cleared."""
    async with provider(held=True, **settings) as fake, service(fake) as session:
        ask = Asking(session)
        async with asyncio.TaskGroup() as group:
            calls = [group.create_task(ask.whole(body or SAME))]
            while not fake.seen:
                await asyncio.sleep(0.005)
            for number in range(1, count):
                calls.append(group.create_task(ask.whole(body or SAME)))
                await ask.until(JOINED, number)
            yield ask, fake, calls


@pytest.mark.req("COG-5.2.1")
def test_equal_calls_share_one_and_the_first_one_pays() -> None:
    async def body() -> None:
        async with together(4) as (_, fake, calls):
            fake.let_go()
            answers = [await each for each in calls]
        assert len(fake.seen) == 1
        assert [status for status, _, _ in answers] == [200] * 4
        assert len({each["choices"][0]["message"]["content"] for _, each, _ in answers}) == 1
        told = [(h["X-Seedbed-Batch"], h["X-Seedbed-Batch-Size"]) for _, _, h in answers]
        assert told == [("leader", "4"), *[("joined", "4")] * 3]
        costs = [headers["X-Seedbed-Cost"] for _, _, headers in answers]
        assert costs == ["0.000006", *["0.00"] * 3]
        assert answers[1][2]["X-Seedbed-Attempts"] == "m=joined"

    run_async(body())


@pytest.mark.req("COG-5.2.1")
def test_who_leaves_fails_nobody_else() -> None:
    async def body() -> None:
        async with together(3) as (ask, fake, calls):
            for number, each in enumerate((calls[0], calls[2]), 1):
                each.cancel()
                await ask.until(GONE, number)
            fake.let_go()
            status, _, headers = await calls[1]
            assert status == 200
            assert headers["X-Seedbed-Batch"] == "leader", "it pays now"
            assert headers["X-Seedbed-Cost"] == "0.000006"
        assert len(fake.seen) == 1, "the call under way went on"

    run_async(body())


def test_where_all_leave_the_call_ends() -> None:
    async def body() -> None:
        async with together(2) as (ask, fake, calls):
            for each in calls:
                each.cancel()
            await asyncio.wait(calls)
            while fake.waiting:
                await asyncio.sleep(0.005)
            await ask.until('seedbed_model_attempts_total{model="m",outcome="cancelled"}', 1)

    run_async(body())


def test_calls_that_differ_and_other_tenants_do_not_share() -> None:
    async def body() -> None:
        async with provider() as fake, service(fake) as session:
            ask = Asking(session)
            sampled = {**SAME, "temperature": 0.7}
            async with asyncio.TaskGroup() as group:
                for one in (SAME, {**SAME, "max_tokens": 5}, sampled, sampled):
                    group.create_task(ask.whole(one))
                group.create_task(ask.whole(SAME, Namespace="other"))
                group.create_task(ask.whole(SAME, Collapse="off"))
            assert len(fake.seen) == 6
            status, answer, _ = await ask.whole(SAME, Collapse="maybe")
            assert (status, answer["error"]["param"]) == (400, "X-Seedbed-Collapse")

    run_async(body())


def test_the_caller_may_let_sampled_calls_share() -> None:
    async def body() -> None:
        sampled = {**SAME, "temperature": 0.7}
        async with provider(held=True) as fake, service(fake) as session:
            ask = Asking(session)
            async with asyncio.TaskGroup() as group:
                for _ in range(2):
                    group.create_task(ask.whole(sampled, Collapse="on"))
                await ask.until(JOINED, 1)
                fake.let_go()
            assert len(fake.seen) == 1

    run_async(body())


def test_a_failure_is_told_to_all_once() -> None:
    async def body() -> None:
        async with together(3, fail=[400]) as (_, fake, calls):
            fake.let_go()
            assert [(await each)[0] for each in calls] == [400] * 3
        assert len(fake.seen) == 1

    run_async(body())


def test_streams_share_from_their_beginning() -> None:
    async def body() -> None:
        words = "one two three four"
        async with provider(say=lambda _: words, held_after=2) as fake, service(fake) as session:
            ask = Asking(session)
            async with asyncio.TaskGroup() as group:
                first = group.create_task(ask.text(SAME))
                while not fake.waiting:
                    await asyncio.sleep(0.005)
                others = [group.create_task(ask.text(SAME)) for _ in range(2)]
                await ask.until(JOINED, 2)
                first.cancel()
                await ask.until(GONE, 1)
                fake.let_go()
            for each in others:
                text = each.result()
                assert all(word in text for word in words.split())
                assert text.rstrip().endswith("[DONE]")
            assert len(fake.seen) == 1

    run_async(body())
