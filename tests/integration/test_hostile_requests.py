"""The model service before callers and providers that mean it no good, or know no better."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest

from tests.conftest import run_async
from tests.integration.test_offline_batches import Lane, lane
from tests.providers import Json, provider

HELLO = [{"role": "user", "content": "hello"}]
BOUNDARY = {"Content-Type": "multipart/form-data; boundary=b"}
PURPOSE = '--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
FILE = "--b\r\nContent-Disposition: form-data; name=\"file\"; filename*=UTF-8''a%00b\r\n\r\nx\r\n"


def attacked(
    url: str, body: Callable[[Lane, aiohttp.ClientSession], Awaitable[None]], **settings: Any
) -> None:
    async def whole() -> None:
        async with provider() as fake, lane(fake, url, **settings) as it:
            base = str(it.client.base_url)
            async with aiohttp.ClientSession(base_url=base) as session:
                await body(it, session)

    run_async(whole(), limit=50)


async def asked(session: aiohttp.ClientSession, method: str, path: str, **given: Any) -> Any:
    async with session.request(method, path, **given) as answer:
        return answer.status, await answer.json()


@pytest.mark.req("DSX-15")
def test_what_makes_no_sense_gets_one_error_that_names_the_field(postgres_url: str) -> None:
    schema: Json = {"type": "json_schema", "json_schema": "x"}
    chats: list[tuple[Json, str]] = [
        ({"max_tokens": 10**30}, "max_tokens"),
        ({"max_tokens": 2**31}, "max_tokens"),
        ({"seed": 2**64}, "seed"),
        ({"tools": [{"a": 10**30}]}, "tools.0"),
        ({"logit_bias": {"1": 1e300}}, "logit_bias.1"),
        ({"messages": [{"role": "user", "content": "x", "more": 10**30}]}, "messages.0"),
        ({"messages": [{"role": "user", "content": "x", "content.parts": []}]}, "messages.0"),
        ({"response_format": schema}, "response_format"),
        ({"model": "none"}, "model"),
        ({"x" * 9000: 1}, "x" * 200),
    ]

    async def body(_: Lane, session: aiohttp.ClientSession) -> None:
        for fields, param in chats:
            sent = {"model": "m", "messages": HELLO, **fields}
            status, answer = await asked(session, "POST", "chat/completions", json=sent)
            assert (status // 100, answer["error"]["param"]) == (4, param)
        for value in ("soon", "nan"):
            status, answer = await asked(
                session,
                "POST",
                "chat/completions",
                json={"model": "m", "messages": HELLO},
                headers={"X-Seedbed-Timeout": value},
            )
            assert (status, answer["error"]["param"]) == (400, "X-Seedbed-Timeout")
        outcome = {"task": "\0", "model": "m", "hardness": 1, "good": 1}
        status, answer = await asked(session, "POST", "/api/v3/outcomes", json=outcome)
        assert (status, answer["error"]["param"]) == (400, "task")

    attacked(postgres_url, body)


@pytest.mark.req("DSX-15")
def test_files_and_names_that_make_no_sense(postgres_url: str) -> None:
    async def body(it: Lane, session: aiohttp.ClientSession) -> None:
        for data in ("", "x", "--b\r\nContent-Disposition: ?\r\n\r\nx", PURPOSE, FILE, FILE + FILE):
            status, _ = await asked(session, "POST", "files", data=data, headers=BOUNDARY)
            assert status == 400
        plain = {"Content-Type": "multipart/form-data"}
        status, answer = await asked(session, "POST", "files", data="x", headers=plain)
        assert (status, answer["error"]["param"]) == (400, "file")
        sent = PURPOSE + FILE + "--b--\r\n"
        status, answer = await asked(session, "POST", "files", data=sent, headers=BOUNDARY)
        assert (status, answer["filename"]) == (200, "ab")
        for path in ("files/%00", "files/%00/content", "batches/%00", "files?after=%00"):
            assert (await asked(session, "GET", path))[0] == 404
        for query in ("purpose=%00", "limit=" + "9" * 5000, "limit=0"):
            assert (await asked(session, "GET", f"files?{query}"))[0] == 400
        names: list[Json] = [
            {"custom_id": "\0"},
            {"k" * 9000: 1, "custom_id": "a", "method": "POST"},
        ]
        batch = await it.ended((await it.begun(names)).id)
        assert batch.errors is not None
        assert batch.errors.data is not None
        assert [fault.param for fault in batch.errors.data] == ["custom_id", "url"]

    attacked(postgres_url, body)


@pytest.mark.req("DSX-30")
def test_a_call_whose_worst_case_is_huge_ends_nothing_but_itself(postgres_url: str) -> None:
    async def body(it: Lane, session: aiohttp.ClientSession) -> None:
        it.fake.breaks = "hang"
        picture = {"type": "image_url", "image_url": {"url": "x"}}
        messages = [{"role": "user", "content": [picture] * 12_000}]
        huge = {"model": "m", "messages": messages, "n": 128, "max_tokens": 16_000_000}
        late = {"X-Seedbed-Timeout": "1.5"}
        status, _ = await asked(session, "POST", "chat/completions", json=huge, headers=late)
        assert status == 503
        it.fake.breaks = ""
        sent = {"model": "m", "messages": HELLO}
        status, _ = await asked(session, "POST", "chat/completions", json=sent)
        assert status == 200
        assert await it.spent() > 0

    entry = {"imageTokens": 200_000, "capabilities": ["streaming", "vision"]}
    attacked(postgres_url, body, entry=entry)


@pytest.mark.parametrize(
    "usage",
    [
        {"prompt_tokens": -(10**6), "completion_tokens": 1},
        {"prompt_tokens": 10**18, "completion_tokens": 1},
        {"prompt_tokens": "3", "completion_tokens": 1},
        {"prompt_tokens": 3, "completion_tokens": 1, "prompt_tokens_details": "x"},
        {"prompt_tokens": 3, "prompt_tokens_details": {"cached_tokens": -5}},
    ],
)
def test_usage_that_cannot_be_is_no_usage(usage: Json, tmp_path: Any) -> None:
    """Money is reckoned by the worst case then, never back to the caller."""

    async def body(it: Lane, session: aiohttp.ClientSession) -> None:
        sent = {"model": "m", "messages": HELLO, "max_tokens": 2}
        told: Json = {"choices": [{"message": {"role": "assistant", "content": "hi"}}]}
        it.fake.whole = {**told, "usage": usage}
        _, answer = await asked(session, "POST", "chat/completions", json=sent)
        assert answer["seedbed"]["cost_estimated"] is True
        assert await it.spent() > 0

    attacked(f"sqlite:///{tmp_path}/store.db", body)


@pytest.mark.parametrize(
    "choice",
    [1, {"delta": "x"}, {"delta": {"content": 5}}, {"delta": {"tool_calls": "x"}}]
    + [{"delta": {"tool_calls": [call]}} for call in ("x", {"index": "x"})],
)
def test_a_chunk_that_is_none_ends_the_stream_with_an_error(choice: Any, tmp_path: Any) -> None:
    async def body(it: Lane, session: aiohttp.ClientSession) -> None:
        it.fake.say = lambda _: "one two three four"
        it.fake.chunk = {"choices": [choice]}
        sent = {"model": "m", "messages": HELLO, "stream": True}
        async with session.post("chat/completions", json=sent) as answer:
            events = (await answer.text()).split("\n\n")
        assert events[-2] == "data: [DONE]"
        assert (
            json.loads(events[-3].removeprefix("data: "))["error"]["code"] == "provider_malformed"
        )
        assert await it.spent() > 0

    attacked(f"sqlite:///{tmp_path}/store.db", body, cache={"mode": "on"})


def test_names_of_agents_that_nobody_has_are_not_kept(tmp_path: Any) -> None:
    async def body(_: Lane, session: aiohttp.ClientSession) -> None:
        for name in ("agent/a", "agent/b"):
            sent = {"model": name, "messages": HELLO}
            assert (await asked(session, "POST", "chat/completions", json=sent))[0] == 404
        async with session.get("/metrics") as answer:
            text = await answer.text()
        assert 'model="agent"' in text
        assert "agent/" not in text

    attacked(f"sqlite:///{tmp_path}/store.db", body)
