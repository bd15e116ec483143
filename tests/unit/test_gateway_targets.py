"""The model service in front of providers that fail: what is tried, in which order, what is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import pytest

from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.models import ModelEntry, Models
from seedbed.runtime.llm.resilience.targets import Clock
from seedbed.runtime.llm.service import serving
from tests.conftest import run_async
from tests.providers import FakeProvider, Json, provider

PRICE = {"prompt": "1", "completion": "2"}


class Time:
    """A clock that stands still until somebody sleeps."""

    def __init__(self) -> None:
        self.at = 1000.0
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += seconds
        await asyncio.sleep(0)

    def clock(self) -> Clock:
        return Clock(lambda: self.at, self.sleep, lambda: 0.5)


@asynccontextmanager
async def gateway(
    time: Time | None = None, **providers: tuple[FakeProvider, Json]
) -> AsyncIterator[aiohttp.ClientSession]:
    """The service over these providers, in this order, with further fields of their entries."""
    entries = []
    for name, (fake, fields) in providers.items():
        common = {"provider": "openai", "model": "m", "api_base": fake.url, "price": PRICE}
        entries.append(ModelEntry.model_validate({"name": name, **common, **fields}))
    models = Models(models=tuple(entries), default=entries[0].name)
    made = Gateway(models, clock=time.clock() if time else None)
    async with (
        serving(models, "127.0.0.1", 0, gateway=made) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


@asynccontextmanager
async def one(
    time: Time | None = None, entry: Json | None = None, **settings: Any
) -> AsyncIterator[tuple[aiohttp.ClientSession, FakeProvider]]:
    """The service over one provider with these settings."""
    async with provider(**settings) as fake, gateway(time, first=(fake, entry or {})) as session:
        yield session, fake


@asynccontextmanager
async def two(
    time: Time | None = None, entry: Json | None = None, **settings: Any
) -> AsyncIterator[tuple[aiohttp.ClientSession, FakeProvider, FakeProvider]]:
    """The service over one provider with these settings, and a second that is well."""
    async with (
        provider(**settings) as first,
        provider(say=lambda _: "the second") as second,
        gateway(time, first=(first, entry or {}), second=(second, {})) as session,
    ):
        yield session, first, second


def asked(text: str = "hello", **fields: Any) -> Json:
    return {"model": "default", "messages": [{"role": "user", "content": text}]} | fields


async def chat(session: aiohttp.ClientSession, **fields: Any) -> tuple[int, Json, Any]:
    async with session.post("/v1/chat/completions", json=asked(**fields)) as answer:
        return answer.status, await answer.json(), answer.headers


async def attempts(session: aiohttp.ClientSession, **fields: Any) -> str:
    """What was tried for a request that was answered."""
    status, _, headers = await chat(session, **fields)
    assert status == 200
    return str(headers["X-Seedbed-Attempts"])


async def streamed(session: aiohttp.ClientSession, **fields: Any) -> str:
    body = asked(stream=True, stream_options={"include_usage": True}, **fields)
    async with session.post("/v1/chat/completions", json=body) as answer:
        assert answer.status == 200
        return await answer.text()


async def metric(session: aiohttp.ClientSession, line: str) -> float:
    async with session.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return next((float(each.split()[-1]) for each in lines if each.startswith(line)), 0.0)


@pytest.mark.req("DSX-17")
@pytest.mark.req("COG-3.4.1")
def test_every_answer_tells_its_usage_its_cost_and_who_gave_it() -> None:
    async def body() -> None:
        async with one() as (session, fake):
            status, answer, headers = await chat(session, text="one two three")
            assert status == 200
            assert answer["model"] == "first"
            assert answer["usage"]["prompt_tokens"] == 3
            assert answer["seedbed"]["cost_dollars"] == "0.000007", "three in at 1, two out at 2"
            assert headers["X-Seedbed-Cost"] == "0.000007"
            assert headers["X-Seedbed-Model"] == "first"
            assert headers["X-Seedbed-Attempts"] == "first=ok"
            assert fake.seen[0]["model"] == "m"
            assert await metric(session, "seedbed_model_cost_dollars_total") == pytest.approx(7e-6)

    run_async(body())


@pytest.mark.req("COG-7.1.2")
@pytest.mark.req("DSX-31")
def test_what_passes_is_tried_again_and_then_the_next_model_answers() -> None:
    async def body() -> None:
        time = Time()
        async with two(time, fail=[500, 503, 500]) as (session, first, _):
            down = "first=unavailable"
            assert await attempts(session) == f"{down},{down},{down},second=ok"
            assert time.slept == [0.5, 1.0]
            assert len(first.seen) == 3
            assert await metric(session, "seedbed_model_failovers_total{") == 1

    run_async(body())


@pytest.mark.req("DSX-15")
def test_a_provider_that_refuses_for_good_is_not_tried_again() -> None:
    async def body() -> None:
        async with two(Time(), fail=[401]) as (session, *_):
            assert await attempts(session) == "first=provider_refused,second=ok"

    run_async(body())


def test_a_wrong_request_is_nobody_elses_business() -> None:
    async def body() -> None:
        async with two(Time(), fail=[400]) as (session, _, second):
            status, answer, _ = await chat(session)
            assert (status, answer["error"]["code"]) == (400, "invalid")
            assert not second.seen

    run_async(body())


@pytest.mark.req("COG-S8.1")
def test_a_rate_limit_is_waited_for_then_another_model_answers() -> None:
    async def body() -> None:
        time = Time()
        limits = {"Retry-After": "4"}
        async with two(time, fail=[429, 200, 429], headers=limits) as (session, first, _):
            assert await attempts(session) == "first=rate_limited,first=ok"
            assert time.slept == [4.0]
            first.headers["Retry-After"] = "600"
            assert await attempts(session) == "first=rate_limited,second=ok"
            assert await attempts(session) == "first=quota_used,second=ok"

    run_async(body())


@pytest.mark.req("COG-S8.1")
def test_the_alert_on_a_quota_comes_at_80_percent() -> None:
    async def body() -> None:
        alert = 'seedbed_model_quota_alert{model="first",unit="requests"}'
        async with one(Time(), {"quota": {"requestsPerMinute": 5}}) as (session, _):
            for _ in range(3):
                await chat(session)
            assert await metric(session, alert) == 0
            await chat(session)
            assert await metric(session, alert) == 1

    run_async(body())


@pytest.mark.req("COG-7.1.1")
@pytest.mark.req("DSX-30")
def test_a_broken_target_is_left_alone_until_it_has_rested() -> None:
    async def body() -> None:
        time = Time()
        state = 'seedbed_model_breaker_state{model="first"}'
        async with two(time, {"retries": 0}, fail=[500] * 6) as (session, first, _):
            for _ in range(5):
                await chat(session)
            assert await metric(session, state) == 2
            assert await attempts(session) == "first=breaker_open,second=ok"
            assert len(first.seen) == 5, "an open breaker lets nothing through"
            time.at += 30
            assert await attempts(session) == "first=unavailable,second=ok"
            time.at += 30
            assert await attempts(session) == "first=ok"
            assert await metric(session, state) == 0
            opened = 'seedbed_model_breaker_transitions_total{model="first",state="open"}'
            assert await metric(session, opened) == 2

    run_async(body())


@pytest.mark.req("COG-7.1.2")
def test_retries_never_go_through_an_open_breaker() -> None:
    async def body() -> None:
        entry = {"retries": 5, "breaker": {"minimumCalls": 3, "restSeconds": 60}}
        async with one(Time(), entry, fail=[500] * 9) as (session, fake):
            status, answer, _ = await chat(session)
            assert (status, answer["error"]["code"]) == (503, "breaker_open")
            assert len(fake.seen) == 3

    run_async(body())


@pytest.mark.req("COG-7.1.2")
def test_all_attempts_together_end_before_the_deadline() -> None:
    async def body() -> None:
        time = Time()
        async with one(time, fail=[500] * 9) as (session, fake):
            began, headers = time.at, {"X-Seedbed-Timeout": "1.2"}
            async with session.post(
                "/v1/chat/completions", json=asked(), headers=headers
            ) as answer:
                assert answer.status == 503
            assert time.at - began < 1.2
            assert len(fake.seen) == 2

    run_async(body())


@pytest.mark.req("DSX-15")
def test_half_an_answer_is_no_answer() -> None:
    async def body() -> None:
        async with two(Time(), {"retries": 1}, breaks="json") as (session, *_):
            malformed = "first=provider_malformed"
            assert await attempts(session) == f"{malformed},{malformed},second=ok"

    run_async(body())


def test_a_stream_that_breaks_off_says_so_and_counts_against_the_provider() -> None:
    async def body() -> None:
        entry = {"breaker": {"minimumCalls": 1}}
        settings: Json = {"breaks": "stream", "say": lambda _: "one two three four"}
        async with one(None, entry, **settings) as (session, _):
            assert '"code":"provider_malformed"' in await streamed(session)
            assert await metric(session, 'seedbed_model_breaker_state{model="first"}') == 2

    run_async(body())


@pytest.mark.req("DSX-15")
def test_a_stream_that_cannot_begin_begins_elsewhere() -> None:
    async def body() -> None:
        async with two(Time(), {"retries": 0}, fail=[500]) as (session, *_):
            events = await streamed(session)
            assert '"model":"second"' in events
            assert '"cost_dollars":"0.000005"' in events
            assert events.rstrip().endswith("data: [DONE]")

    run_async(body())


def test_a_provider_that_never_answers_is_given_up() -> None:
    async def body() -> None:
        slow = {"timeoutSeconds": 0.05, "retries": 0}
        async with two(None, slow, breaks="hang") as (session, *_):
            assert await attempts(session) == "first=provider_timeout,second=ok"
            worst = await metric(session, 'seedbed_model_cost_dollars_total{model="first"}')
            assert worst > 0, "the provider may want its money"

    run_async(body())


@pytest.mark.req("DSX-15")
def test_a_model_that_cannot_do_it_is_passed_over_with_the_reason() -> None:
    async def body() -> None:
        tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
        plain: Json = {"capabilities": ["streaming"]}
        async with two(Time(), plain) as (session, _, second):
            assert await attempts(session, tools=[tool]) == "first=no_tools,second=ok"
            assert second.seen[0]["tools"] == [tool]
        async with one(Time(), plain) as (session, _):
            status, answer, _ = await chat(session, tools=[tool])
            assert (status, answer["error"]["param"]) == (400, "tools")
        async with two(Time(), {**plain, "failover": False}) as (session, *_):
            status, answer, _ = await chat(session, response_format={"type": "json_object"})
            assert (status, answer["error"]["param"]) == (400, "response_format")

    run_async(body())


@pytest.mark.req("DSX-16")
def test_an_answer_that_misses_its_schema_is_asked_for_again() -> None:
    schema = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}

    async def body() -> None:
        says = iter(["no JSON", '{"n":"x"}', '{"n":4}', "a", "b", "c"])
        async with one(say=lambda _: next(says)) as (session, fake):
            status, answer, headers = await chat(session, response_format=form)
            assert status == 200
            assert answer["choices"][0]["message"]["content"] == '{"n":4}'
            missed = "first=answer_malformed"
            assert headers["X-Seedbed-Attempts"] == f"{missed},{missed},first=ok"
            assert "$.n" in fake.seen[2]["messages"][-1]["content"]
            assert len(fake.seen[2]["messages"]) == 3, "only the last mistake is told"
            status, answer, _ = await chat(session, response_format=form)
            assert (status, answer["error"]["code"]) == (502, "answer_malformed")
            broken = {"type": "json_schema", "json_schema": {"schema": {"type": "poem"}}}
            status, answer, _ = await chat(session, response_format=broken)
            assert answer["error"]["param"] == "response_format.json_schema.schema"

    run_async(body())


def test_completions_and_embeddings_go_the_same_way() -> None:
    async def body() -> None:
        async with one(None, {"capabilities": ["streaming", "embeddings"]}) as (session, _):
            ask: Json = {"model": "first", "prompt": "say hello", "max_tokens": 1}
            async with session.post("/v1/completions", json=ask) as answer:
                found = await answer.json()
            assert found["object"] == "text_completion"
            assert found["choices"][0]["text"] == "hello"
            ask = {"model": "default", "input": ["one", "three"]}
            async with session.post("/v1/embeddings", json=ask) as answer:
                found = await answer.json()
            assert [each["embedding"][0] for each in found["data"]] == [3.0, 5.0]
            assert found["seedbed"]["cost_dollars"] == "0.000002"

    run_async(body())
