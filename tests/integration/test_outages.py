"""Providers that fail in every way while callers go on asking: who can be served is served."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from seedbed.cli.gateway import EventLogNotices
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.models import ModelEntry, Models
from seedbed.runtime.llm.notices import Notice
from seedbed.runtime.llm.resilience.targets import Clock
from seedbed.runtime.llm.service import serving
from tests.conftest import run_async
from tests.providers import FakeProvider, Json, provider
from tests.unit.test_gateway_targets import Time

ASK = {"model": "first", "messages": [{"role": "user", "content": "hello"}]}


@dataclass(frozen=True, slots=True)
class Service:
    """A gateway over HTTP, and what it told."""

    session: aiohttp.ClientSession
    notices: list[Notice]

    async def chat(self, **fields: Any) -> tuple[int, str, str]:
        """Status, body and attempts of one call."""
        async with self.session.post("/v1/chat/completions", json=ASK | fields) as answer:
            return answer.status, await answer.text(), answer.headers.get("X-Seedbed-Attempts", "")

    async def metric(self, line: str) -> float:
        async with self.session.get("/metrics") as answer:
            lines = (await answer.text()).splitlines()
        return next((float(each.split()[-1]) for each in lines if each.startswith(line)), 0.0)

    def told(self, kind: str) -> list[str | float]:
        """The first fact of each notice of a kind."""
        return [next(iter(n.facts.values())) for n in self.notices if n.kind == kind]


@asynccontextmanager
async def service(
    clock: Clock | None = None, **models: tuple[FakeProvider | None, Json]
) -> AsyncIterator[Service]:
    """Models by name, in this order, each with its provider (or the local one) and fields."""
    entries = []
    for name, (fake, fields) in models.items():
        far: Json = {"provider": "openai", "model": "x", "apiBase": fake.url} if fake else {}
        entries.append(ModelEntry.model_validate({"name": name, **far, **fields}))
    given = Models(models=tuple(entries), default=entries[0].name)
    gateway = Gateway(given, clock=clock)
    notices: list[Notice] = []
    gateway.notices.also(notices.append)
    async with (
        serving(given, "127.0.0.1", 0, gateway=gateway) as port,
        aiohttp.ClientSession(
            f"http://127.0.0.1:{port}", connector=aiohttp.TCPConnector(limit=0)
        ) as session,
    ):
        yield Service(session, notices)


FAULTS: dict[str, Json] = {
    "down": {"breaks": "drop"},
    "errors": {"error_share": 1.0},
    "half the calls fail": {"error_share": 0.5},
    "slow": {"latency": 30.0},
    "too many": {"fail": [429] * 1000, "headers": {"Retry-After": "20"}},
    "half an answer": {"breaks": "json"},
    "no choices": {"breaks": "empty"},
    "wrong key": {"fail": [401] * 1000},
}


@pytest.mark.req("COG-7.1.1")
@pytest.mark.req("DSX-15")
@pytest.mark.parametrize("fault", FAULTS)
def test_no_call_is_lost_that_a_second_provider_can_answer(fault: str) -> None:
    """Forty at once, half of them streamed where a fault shows before a stream's first chunk."""
    streams = fault not in ("half an answer", "no choices")

    async def body() -> None:
        async with (
            provider(**FAULTS[fault]) as first,
            provider(say=lambda _: "the second") as second,
            service(
                first=(first, {"retries": 0, "timeoutSeconds": 0.2}), second=(second, {})
            ) as one,
        ):
            found = await asyncio.gather(
                *(one.chat(stream=streams and number % 2 == 0) for number in range(40))
            )
            assert {status for status, _, _ in found} == {200}
            assert all("the" in text or "hello" in text for _, text, _ in found)
            assert not [text for _, text, _ in found if '"error"' in text]
            moved = await one.metric("seedbed_model_failovers_total{")
            assert moved == len(second.billed)
            assert moved + len(first.billed) >= 40
            if fault not in ("too many", "half the calls fail"):
                assert one.told("model.breaker")[:1] == ["open"]
                status, _, attempts = await one.chat()
                assert (status, attempts) == (200, "first=breaker_open,second=ok")

    run_async(body())


@pytest.mark.req("COG-S8.1")
def test_limits_are_waited_for_then_the_second_provider_then_the_local_model_answers() -> None:
    async def body() -> None:
        time = Time()
        async with (
            provider(fail=[429] * 3) as first,
            provider(fail=[429] * 3) as second,
            service(
                time.clock(),
                first=(first, {"retries": 2}),
                second=(second, {"retries": 2}),
                smollm2=(None, {}),
            ) as one,
        ):
            status, text, attempts = await one.chat(max_tokens=4, temperature=0)
            assert status == 200
            assert json.loads(text)["model"] == "smollm2"
            limited = "first=rate_limited," * 3 + "second=rate_limited," * 3
            assert attempts == f"{limited}smollm2=ok"
            assert time.slept == [0.5, 1.0, 0.5, 1.0], "queued with growing waits"
            assert not one.told("model.breaker"), "a limit is no failure"

    run_async(body(), 90)


@pytest.mark.req("COG-7.1.1")
def test_a_breakers_life_is_told_as_events_and_in_the_event_log() -> None:
    async def body() -> None:
        time, bus = Time(), MemoryBus()
        async with AsyncExitStack() as stack:
            first = await stack.enter_async_context(provider(fail=[500] * 6))
            second = await stack.enter_async_context(provider())
            one = await stack.enter_async_context(
                service(time.clock(), first=(first, {"retries": 0}), second=(second, {}))
            )
            for _ in range(5):
                await one.chat()
            assert one.told("model.breaker") == ["open"]
            time.at += 29.9
            assert (await one.chat())[2] == "first=breaker_open,second=ok"
            time.at += 0.1
            assert (await one.chat())[2] == "first=unavailable,second=ok"
            time.at += 30
            assert (await one.chat())[2] == "first=ok"
            states = ["open", "half-open", "open", "half-open", "closed"]
            assert one.told("model.breaker") == states
            assert len(first.seen) == 7, "five, a probe that failed and one that went well"
            await bus.events.prepare()
            put = EventLogNotices(bus)
            for notice in one.notices:
                put(notice)
            await bus.events.flush()
            found: Counter[str] = Counter()
            for partition in range(16):
                async with bus.events.follow("", partition) as follower:
                    while (batch := await follower.next(0)) is not None:
                        for event in batch.events:
                            assert event.kind == "model.breaker"
                            assert json.loads(event.payload)["of"] == "first"
                            found[f"{event.priority} {json.loads(event.payload)['state']}"] += 1
                        await follower.ack(batch)
            assert found == {
                "critical open": 2,
                "normal half-open": 2,
                "normal closed": 1,
            }

    run_async(body())


@pytest.mark.req("COG-S8.1")
def test_what_a_provider_tells_of_its_quota_is_alerted_at_80_percent_and_kept_to() -> None:
    async def body() -> None:
        time = Time()
        limits = {
            "x-ratelimit-limit-tokens": "10000",
            "x-ratelimit-remaining-tokens": "2100",
            "x-ratelimit-reset-tokens": "30s",
        }
        async with (
            provider(headers=limits) as first,
            provider() as second,
            service(time.clock(), first=(first, {}), second=(second, {})) as one,
        ):
            await one.chat()
            assert not one.told("model.quota")
            first.headers["x-ratelimit-remaining-tokens"] = "1900"
            await one.chat()
            await one.chat()
            assert one.told("model.quota") == ["tokens"], "once"
            used = 'seedbed_model_quota_used_ratio{model="first",unit="tokens"}'
            assert await one.metric(used) >= 0.8
            first.headers["x-ratelimit-remaining-tokens"] = "0"
            await one.chat()
            asked = len(first.seen)
            assert (await one.chat())[2] == "first=quota_used,second=ok"
            assert len(first.seen) == asked, "nobody is sent where there is no room"
            time.at += 30
            assert (await one.chat())[2] == "first=ok"

    run_async(body())


@pytest.mark.parametrize("breaks", ["stream", "event", "noise"])
def test_a_stream_that_breaks_in_the_middle_says_so(breaks: str) -> None:
    async def body() -> None:
        async with (
            provider(breaks=breaks, say=lambda _: "one two three four") as first,
            service(first=(first, {"breaker": {"minimumCalls": 1}})) as one,
        ):
            status, text, _ = await one.chat(stream=True)
            assert status == 200
            events = [line[6:] for line in text.splitlines() if line.startswith("data: ")]
            assert json.loads(events[0])["choices"][0]["delta"]["content"] == "one"
            assert "error" in json.loads([each for each in events if each != "[DONE]"][-1])
            assert one.told("model.breaker") == ["open"]

    run_async(body())


def test_a_stream_that_runs_into_its_deadline_says_so() -> None:
    async def body() -> None:
        async with (
            provider(say=lambda _: "word " * 500, slow=0.02) as first,
            service(first=(first, {})) as one,
            one.session.post(
                "/v1/chat/completions",
                json=ASK | {"stream": True},
                headers={"X-Seedbed-Timeout": "0.4"},
            ) as answer,
        ):
            assert answer.status == 200
            *_, last, done, _ = (await answer.text()).split("\n\n")
            assert json.loads(last.removeprefix("data: "))["error"]["message"].endswith("0.4 s")
            assert done == "data: [DONE]"
            while not first.left:  # The provider's work ends.
                await asyncio.sleep(0.01)
            late = 'seedbed_model_requests_total{model="first",outcome="timeout"}'
            assert await one.metric(late) == 1

    run_async(body())


def test_where_nobody_can_answer_the_caller_is_told_when_to_come_back() -> None:
    async def body() -> None:
        async with (
            provider(fail=[429] * 9, headers={"Retry-After": "17"}) as first,
            service(first=(first, {"retries": 0})) as one,
            one.session.post("/v1/chat/completions", json=ASK) as answer,
        ):
            assert answer.status == 429
            assert answer.headers["Retry-After"] == "17"
            assert (await answer.json())["error"]["code"] == "rate_limited"

    run_async(body())
