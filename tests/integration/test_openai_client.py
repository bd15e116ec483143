"""The unmodified client that OpenAI publishes, against the model service."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import openai
import pytest
from pydantic import BaseModel

from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.models import ModelEntry, Models
from seedbed.runtime.llm.service import serving
from tests.conftest import run_async
from tests.providers import FakeProvider, Json, provider

ALL = ["streaming", "structured", "tools", "embeddings"]


class Animal(BaseModel):
    """What the model is to answer."""

    name: str
    legs: int


@asynccontextmanager
async def client(fake: FakeProvider) -> AsyncIterator[openai.AsyncOpenAI]:
    entry = ModelEntry.model_validate(
        {"name": "m", "provider": "openai", "apiBase": fake.url, "model": "x", "capabilities": ALL}
    )
    models = Models(models=(entry,), default="m")
    async with (
        serving(models, "127.0.0.1", 0, gateway=Gateway(models)) as port,
        openai.AsyncOpenAI(base_url=f"http://127.0.0.1:{port}/v1", api_key="any") as found,
    ):
        yield found


def say(body: Json) -> str:
    return '{"name":"cow","legs":4}' if body.get("response_format") else "one two three"


def test_it_lists_completes_streams_embeds_and_parses() -> None:
    async def body() -> None:
        async with provider(say=say) as fake, client(fake) as ask:
            assert [model.id async for model in ask.models.list()] == ["default", "m"]
            hello: list[openai.types.chat.ChatCompletionMessageParam] = [
                {"role": "user", "content": [{"type": "text", "text": "say"}]}
            ]
            whole = await ask.chat.completions.create(model="m", messages=hello)
            assert whole.choices[0].message.content == "one two three"
            assert whole.usage is not None
            assert whole.usage.total_tokens == 4
            stream = await ask.chat.completions.create(
                model="m", messages=hello, stream=True, stream_options={"include_usage": True}
            )
            chunks = [chunk async for chunk in stream]
            text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
            assert text == "one two three"
            assert chunks[-1].usage is not None
            assert chunks[-1].usage.completion_tokens == 3
            parsed = await ask.chat.completions.parse(
                model="m", messages=hello, response_format=Animal
            )
            assert parsed.choices[0].message.parsed == Animal(name="cow", legs=4)
            older = await ask.completions.create(model="m", prompt="say")
            assert older.choices[0].text == "one two three"
            pieces = await ask.completions.create(model="m", prompt="say", stream=True)
            assert "".join([p.choices[0].text async for p in pieces]) == "one two three"
            vectors = await ask.embeddings.create(
                model="m", input=["a", "bcd"], encoding_format="float"
            )
            assert [each.embedding[0] for each in vectors.data] == [1.0, 3.0]

    run_async(body())


def test_its_errors_are_the_ones_it_knows() -> None:
    async def body() -> None:
        async with provider(fail=[400, 401, 429, 429, 429]) as fake, client(fake) as one:
            ask = one.with_options(max_retries=0)
            hello: list[openai.types.chat.ChatCompletionMessageParam] = [
                {"role": "user", "content": "x"}
            ]
            with pytest.raises(openai.NotFoundError) as missing:
                await ask.chat.completions.create(model="none", messages=hello)
            assert missing.value.code == "model_not_found"
            with pytest.raises(openai.BadRequestError):
                await ask.chat.completions.create(model="m", messages=hello)
            with pytest.raises(openai.InternalServerError):
                await ask.chat.completions.create(model="m", messages=hello)
            with pytest.raises(openai.BadRequestError) as wrong:
                await ask.chat.completions.create(model="m", messages=hello, temperature=9)
            assert wrong.value.param == "temperature"
            with pytest.raises(openai.RateLimitError):
                await ask.chat.completions.create(model="m", messages=hello, timeout=20)

    run_async(body())
