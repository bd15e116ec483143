"""The unmodified client that OpenAI publishes, against the model service."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import openai
import pytest
from aiohttp import web
from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam
from pydantic import BaseModel

from seedbed.runtime.llm.call import Identity
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.identity import Identify, NotAllowedError, NotKnownError, anybody
from seedbed.runtime.llm.models import ModelEntry, Models
from seedbed.runtime.llm.service import serving
from tests.conftest import run_async
from tests.providers import FakeProvider, Json, provider

ALL = ["streaming", "structured", "tools", "embeddings"]
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "say"}]
LOOK_UP: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Looks a licence up.",
        "strict": True,
        "parameters": {"type": "object", "properties": {"name": {"type": "string"}}},
    },
}
CALL = {
    "id": "call-1",
    "type": "function",
    "function": {"name": "look_up", "arguments": '{"name":"MIT"}'},
}


class Animal(BaseModel):
    """What the model is to answer."""

    name: str
    legs: int


@asynccontextmanager
async def client(
    fake: FakeProvider, identify: Identify = anybody, **fields: Any
) -> AsyncIterator[openai.AsyncOpenAI]:
    given = {"name": "m", "provider": "openai", "apiBase": fake.url, "model": "x"}
    entry = ModelEntry.model_validate({**given, "capabilities": ALL, **fields})
    models = Models(models=(entry,), default="m")
    gateway = Gateway(models)
    async with (
        serving(models, "127.0.0.1", 0, gateway=gateway, identify=identify) as port,
        openai.AsyncOpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="any", max_retries=0
        ) as found,
    ):
        yield found


def say(body: Json) -> str:
    return '{"name":"cow","legs":4}' if body.get("response_format") else "one two three"


def ran(body: Callable[[FakeProvider, openai.AsyncOpenAI], Awaitable[None]], **fake: Any) -> None:
    """Run a test's body with the client before a provider with these settings."""

    async def inner() -> None:
        async with provider(**{"say": say, **fake}) as made, client(made) as ask:
            await body(made, ask)

    run_async(inner())


async def metrics(url: str) -> str:
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        return await answer.text()


def paid(told: str) -> float:
    lines = [line for line in told.splitlines() if line.startswith("seedbed_model_cost_dollars_t")]
    return float(lines[0].split()[-1])


def test_models_are_listed_and_told_one_by_one() -> None:
    async def body(_: FakeProvider, ask: openai.AsyncOpenAI) -> None:
        assert [model.id async for model in ask.models.list()] == ["default", "m"]
        assert (await ask.models.retrieve("m")).owned_by == "seedbed"
        with pytest.raises(openai.NotFoundError):
            await ask.models.retrieve("none")

    ran(body)


def test_it_completes_parses_and_embeds() -> None:
    async def body(fake: FakeProvider, ask: openai.AsyncOpenAI) -> None:
        parts: list[ChatCompletionMessageParam] = [
            {"role": "user", "content": [{"type": "text", "text": "say"}]}
        ]
        whole = await ask.chat.completions.create(model="m", messages=parts)
        assert whole.choices[0].message.content == "one two three"
        assert whole.usage is not None
        assert whole.usage.total_tokens == 4
        parsed = await ask.chat.completions.parse(model="m", messages=HELLO, response_format=Animal)
        assert parsed.choices[0].message.parsed == Animal(name="cow", legs=4)
        older = await ask.completions.create(model="m", prompt="say")
        assert older.choices[0].text == "one two three"
        pieces = await ask.completions.create(model="m", prompt="say", stream=True)
        assert "".join([p.choices[0].text async for p in pieces]) == "one two three"
        vectors = await ask.embeddings.create(model="m", input=["a", "bcd"])
        assert [each.embedding[0] for each in vectors.data] == [1.0, 3.0]
        assert fake.seen[0]["messages"] == HELLO, "parts of text are one text"

    ran(body)


def test_a_stream_tells_its_usage_where_that_is_asked_for() -> None:
    async def body(_: FakeProvider, ask: openai.AsyncOpenAI) -> None:
        stream = await ask.chat.completions.create(
            model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
        text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        assert text == "one two three"
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.completion_tokens == 3
        assert not chunks[-1].choices
        bare = await ask.chat.completions.create(model="m", messages=HELLO, stream=True)
        assert all(chunk.choices and chunk.usage is None for chunk in [c async for c in bare])

    ran(body)


def test_the_synchronous_client_works_too() -> None:
    async def body(_: FakeProvider, ask: openai.AsyncOpenAI) -> None:
        def asked() -> str:
            with openai.OpenAI(base_url=ask.base_url, api_key="any") as sync:
                stream = sync.chat.completions.create(model="m", messages=HELLO, stream=True)
                return "".join(chunk.choices[0].delta.content or "" for chunk in stream)

        assert await asyncio.to_thread(asked) == "one two three"

    ran(body)


def test_the_guides_example_works() -> None:
    guide = (Path(__file__).parents[2] / "docs/guides/models.md").read_text()
    code, *_ = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    example: dict[str, Any] = {}
    exec(code, example)

    async def body(_: FakeProvider, ask: openai.AsyncOpenAI) -> None:
        said = await asyncio.to_thread(example["ask"], str(ask.base_url), "any")
        assert said == "one two three"

    ran(body)


def test_a_tool_is_called_and_its_result_told() -> None:
    """The answer goes back to the model as the client got it, with every field that it had."""

    async def body(fake: FakeProvider, ask: openai.AsyncOpenAI) -> None:
        messages = list(HELLO)
        first = await ask.chat.completions.create(
            model="m",
            messages=messages,
            tools=[LOOK_UP],
            tool_choice={"type": "function", "function": {"name": "look_up"}},
            parallel_tool_calls=False,
        )
        choice = first.choices[0]
        assert choice.finish_reason == "tool_calls"
        assert choice.message.tool_calls is not None
        called = choice.message.tool_calls[0]
        assert called.type == "function"
        assert called.function.arguments == '{"name":"MIT"}'
        messages.append(choice.message)  # type: ignore[arg-type]  # as OpenAI's examples do
        messages.append({"role": "tool", "tool_call_id": called.id, "content": "short"})
        last = await ask.chat.completions.create(model="m", messages=messages, tools=[LOOK_UP])
        assert last.choices[0].message.content == "one two three"
        sent = fake.seen[0]
        assert sent["tool_choice"]["function"] == {"name": "look_up"}
        assert sent["parallel_tool_calls"] is False
        assert fake.seen[1]["messages"][1]["tool_calls"] == [CALL]

    def calls(body: Json) -> list[Json]:
        return [] if body["messages"][-1]["role"] == "tool" else [CALL]

    ran(body, calls=calls)


def test_a_tool_call_comes_in_a_stream() -> None:
    async def body(_: FakeProvider, ask: openai.AsyncOpenAI) -> None:
        async with ask.chat.completions.stream(
            model="m", messages=HELLO, tools=[LOOK_UP], tool_choice="required"
        ) as stream:
            whole = await stream.get_final_completion()
        assert whole.choices[0].finish_reason == "tool_calls"
        assert whole.choices[0].message.tool_calls is not None
        assert whole.choices[0].message.tool_calls[0].function.name == "look_up"

    ran(body, calls=lambda _: [CALL])


def test_several_answers_seeds_stops_and_logprobs_reach_the_provider() -> None:
    async def body(fake: FakeProvider, ask: openai.AsyncOpenAI) -> None:
        found = await ask.chat.completions.create(
            model="m",
            messages=HELLO,
            n=3,
            seed=7,
            stop=["two"],
            logprobs=True,
            top_logprobs=2,
            logit_bias={"50256": -100},
            max_completion_tokens=9,
            reasoning_effort="low",
            user="me",
            metadata={"job": "7"},
        )
        assert [choice.index for choice in found.choices] == [0, 1, 2]
        assert {choice.message.content for choice in found.choices} == {"one"}
        assert found.choices[0].logprobs is not None
        assert found.choices[0].logprobs.content is not None
        assert found.choices[0].logprobs.content[0].logprob == -0.5
        assert found.usage is not None
        assert found.usage.completion_tokens == 3
        sent = fake.seen[0]
        told = {"n": 3, "seed": 7, "stop": ["two"], "top_logprobs": 2, "max_tokens": 9}
        assert told.items() <= sent.items()
        assert sent["logit_bias"] == {"50256": -100}
        assert sent["reasoning_effort"] == "low"
        assert "user" not in sent, "nobody else needs to know who asks"
        stream = await ask.chat.completions.create(model="m", messages=HELLO, n=2, stream=True)
        assert {c.index async for chunk in stream for c in chunk.choices} == {0, 1}

    ran(body)


@pytest.mark.req("DSX-15")
def test_its_errors_are_the_ones_it_knows() -> None:
    wrong: list[tuple[Json, type[openai.APIStatusError], str | None]] = [
        ({"model": "none"}, openai.NotFoundError, "model_not_found"),
        ({"temperature": 9}, openai.BadRequestError, "invalid"),
        ({"extra_body": {"best_off": 3}}, openai.BadRequestError, "invalid"),
        ({"messages": []}, openai.BadRequestError, "invalid"),
        ({}, openai.BadRequestError, "invalid"),
        ({}, openai.InternalServerError, "provider_refused"),
        ({}, openai.RateLimitError, "rate_limited"),
    ]

    async def body() -> None:
        async with (
            provider(fail=[400, 401, 429], headers={"Retry-After": "7"}) as fake,
            client(fake, retries=0) as ask,
        ):
            for fields, form, code in wrong:
                with pytest.raises(form) as refused:
                    await ask.chat.completions.create(**{"model": "m", "messages": HELLO, **fields})
                assert refused.value.code == code
                assert refused.value.response.json()["error"]["message"]
            assert refused.value.response.headers["Retry-After"] == "7"
            with pytest.raises(openai.BadRequestError) as named:
                await ask.chat.completions.create(model="m", messages=HELLO, temperature=9)
            assert named.value.param == "temperature"
            with pytest.raises(openai.NotFoundError):
                await ask.files.list()

    run_async(body())


def test_who_is_not_known_or_not_allowed_is_told_so() -> None:
    async def identify(request: web.Request) -> Identity:
        if request.headers["Authorization"] == "Bearer any":
            raise NotKnownError("a bearer token is needed")
        raise NotAllowedError("may not create workflows")

    async def body() -> None:
        async with provider() as fake, client(fake, identify) as ask:
            with pytest.raises(openai.AuthenticationError) as unknown:
                await ask.chat.completions.create(model="m", messages=HELLO)
            assert unknown.value.code == "invalid_api_key"
            with pytest.raises(openai.PermissionDeniedError):
                await ask.with_options(api_key="other").models.list()
            assert not fake.seen

    run_async(body())


def test_who_leaves_in_the_middle_of_a_stream_ends_the_providers_work() -> None:
    async def body() -> None:
        async with (
            provider(say=lambda _: "word " * 500, slow=0.01) as fake,
            client(fake, price={"prompt": "1", "completion": "1"}) as ask,
        ):
            stream = await ask.chat.completions.create(model="m", messages=HELLO, stream=True)
            async for _ in stream:
                break
            await stream.close()
            while not fake.left:
                await asyncio.sleep(0.01)
            cancelled = 'seedbed_model_attempts_total{model="m",outcome="cancelled"} 1.0'
            page = str(ask.base_url).replace("/v1/", "/metrics")
            while cancelled not in (told := await metrics(page)):
                await asyncio.sleep(0.01)
            assert paid(told) > 0, "the provider may want its money"

    run_async(body())


def test_long_prompts_and_many_at_once() -> None:
    async def body(fake: FakeProvider, ask: openai.AsyncOpenAI) -> None:
        async def one(number: int) -> str:
            text: list[ChatCompletionMessageParam] = [
                {"role": "user", "content": f"{number} " + "word " * 4000}
            ]
            found = await ask.chat.completions.create(model="m", messages=text)
            return found.choices[0].message.content or ""

        async with asyncio.TaskGroup() as tasks:
            asked = [tasks.create_task(one(number)) for number in range(64)]
        assert {each.result() for each in asked} == {"one two three"}
        assert len({each["messages"][0]["content"] for each in fake.seen}) == 64
        huge: list[ChatCompletionMessageParam] = [{"role": "user", "content": "x" * 9_000_000}]
        with pytest.raises(openai.APIStatusError) as refused:
            await ask.chat.completions.create(model="m", messages=huge)
        assert refused.value.status_code == 413

    ran(body)
