"""The unmodified OpenAI client while calls share work: batches, shared streams, slots, compression, marks."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web

from seedbed.runtime.llm.models import Models
from seedbed.runtime.llm.service import serving
from tests.answers import answering
from tests.conftest import run_async
from tests.providers import Json, provider


@asynccontextmanager
async def client(sections: Json | None = None, **entry: Any) -> AsyncIterator[openai.AsyncOpenAI]:
    """A client of the service with one model."""
    given = {"models": [{"name": "m", **entry}], "default": "m", **(sections or {})}
    async with (
        serving(Models.model_validate(given), "127.0.0.1", 0) as port,
        openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0
        ) as found,
    ):
        yield found


async def joined(ask: openai.AsyncOpenAI, count: int) -> None:
    """Until so many calls have joined others."""
    url = str(ask.base_url).removesuffix("v1/")
    line = f'seedbed_model_collapsed_total{{model="m"}} {count}.0'
    async with aiohttp.ClientSession(url) as session:
        while True:
            async with session.get("metrics") as answer:
                if line in await answer.text():
                    return
            await asyncio.sleep(0.01)


def user(text: str) -> list[openai.types.chat.ChatCompletionMessageParam]:
    return [{"role": "user", "content": text}]


@pytest.mark.req("COG-5.2.1")
def test_a_burst_of_clients_goes_as_a_few_requests() -> None:
    async def body() -> None:
        def say(asked: Json) -> str:
            return f"said {asked['messages'][-1]['content']}"

        async with (
            provider(say=say, latency=0.05) as fake,
            client(provider="openai", apiBase=fake.url, batch="prompts") as ask,
        ):
            answers = await asyncio.gather(
                *(
                    ask.chat.completions.create(model="m", messages=user(f"text {n}"), max_tokens=9)
                    for n in range(100)
                )
            )
            texts = [answer.choices[0].message.content for answer in answers]
            assert texts == [f"said text {n}" for n in range(100)]
            sizes = [len(each["prompt"]) for each in fake.seen]
            assert sum(sizes) == 100
            assert sum(sizes) / len(sizes) > 5

    run_async(body())


@pytest.mark.req("COG-5.2.1")
def test_equal_streams_share_one_and_each_is_whole() -> None:
    async def body() -> None:
        words = " ".join(f"word{n}" for n in range(20))
        async with (
            provider(say=lambda _: words, held_after=5) as fake,
            client(provider="openai", apiBase=fake.url) as ask,
        ):

            async def read() -> str:
                stream = await ask.chat.completions.create(
                    model="m", messages=user("tell"), temperature=0, stream=True
                )
                return "".join([c.choices[0].delta.content or "" async for c in stream])

            async with asyncio.TaskGroup() as group:
                first = group.create_task(read())
                while not fake.waiting:
                    await asyncio.sleep(0.01)
                later = [group.create_task(read()) for _ in range(3)]
                await joined(ask, 3)
                fake.let_go()
            assert len(fake.seen) == 1
            assert first.result() == words
            assert [each.result() for each in later] == [words] * 3

    run_async(body())


def test_the_local_model_computes_several_at_once() -> None:
    async def body() -> None:
        async with client(provider="local", parallel=3) as ask:

            async def tell(number: int) -> str:
                answer = await ask.chat.completions.create(
                    model="m",
                    messages=user(f"Write about the number {number}."),
                    max_tokens=12,
                    temperature=0,
                )
                return answer.choices[0].message.content or ""

            texts = await asyncio.gather(*(tell(number) for number in range(3)))
            assert len(set(texts)) == 3
            assert all(texts)

    run_async(body(), 90)


def test_compression_leaves_out_what_says_least() -> None:
    async def body() -> None:
        filler = [
            "The garden behind the office was quiet in the morning.",
            "Somebody had left a yellow umbrella beside the door.",
            "The coffee machine made its usual noise for a while.",
            "People came and went and greeted each other kindly.",
        ] * 8
        text = " ".join([*filler, "The contract ends on 3 May 2027.", *filler])
        sections = {"prompts": {"compression": {"similarityFloor": 0.8, "fromBytes": 1000}}}
        async with (
            provider() as fake,
            client(sections, provider="openai", apiBase=fake.url) as ask,
        ):
            found = await ask.chat.completions.with_raw_response.create(
                model="m", messages=user(f"{text}\n\nWhen does the contract end?")
            )
            sent = fake.seen[0]["messages"][0]["content"]
            assert "The contract ends on 3 May 2027." in sent
            assert sent.endswith("When does the contract end?")
            assert len(sent) < 0.8 * len(text)
            assert float(found.headers["X-Seedbed-Prompt-Similarity"]) >= 0.8
            assert int(found.headers["X-Seedbed-Prompt-Saved"]) > 500

    run_async(body(), 90)


def test_marks_reach_a_provider_that_wants_them() -> None:
    async def body() -> None:
        seen: list[Json] = []

        def answer(asked: Json, _: web.Request) -> Json:
            seen.append(asked)
            return {
                "id": "m-1",
                "type": "message",
                "role": "assistant",
                "model": "claude-haiku-4-5",
                "content": [{"type": "text", "text": "hi"}],
                "stop_reason": "end_turn",
                "usage": {
                    "input_tokens": 10,
                    "output_tokens": 1,
                    "cache_read_input_tokens": 1000,
                    "cache_creation_input_tokens": 0,
                },
            }

        async with (
            answering(answer) as url,
            client(
                provider="litellm",
                model="anthropic/claude-haiku-4-5",
                apiBase=url,
                apiKeyEnv="SEEDBED_TEST_KEY",
                promptCache="marks",
            ) as ask,
        ):
            found = await ask.chat.completions.with_raw_response.create(
                model="m",
                max_tokens=5,
                messages=[{"role": "system", "content": "be brief"}, *user("hello")],
            )
            assert "cache_control" in str(seen[0]["system"])
            # 10 tokens at 1 dollar a million, 1,000 at a tenth of it, one of the answer at 5.
            assert float(found.headers["X-Seedbed-Cost"]) == pytest.approx(0.000115, abs=2e-6)

    run_async(body(), 90)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEDBED_TEST_KEY", "any")
