"""Remote models through LiteLLM, against a server of ours that speaks OpenAI's form."""

from __future__ import annotations

import json
import logging
import traceback
from typing import Any

import pytest
from aiohttp import web

from seedbed.crds.errors import InvalidError, SeedbedError, UnavailableError
from seedbed.runtime.llm.litellm_provider import LiteLLMModel
from seedbed.runtime.llm.models import ModelEntry
from seedbed.runtime.llm.providers import RefusedError
from seedbed.runtime.llm.requests import ChatMessage, ChatRequest
from tests.answers import Json, answering, said
from tests.conftest import run_async

KEY = "sk-very-secret-0123456789"
ASK = ChatRequest(model="big", messages=(ChatMessage(role="user", content="hello"),), max_tokens=9)


@pytest.fixture(autouse=True)
def _key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEEDBED_TEST_KEY", KEY)


async def model(url: str) -> LiteLLMModel:
    entry = ModelEntry(
        name="big",
        provider="litellm",
        model="openai/gpt-x",
        api_base=f"{url}/v1",
        api_key_env="SEEDBED_TEST_KEY",
    )
    found = LiteLLMModel(entry)
    await found.start()
    return found


def refusal(status: int, message: str, **headers: str) -> web.Response:
    body = {"error": {"message": message, "type": "t", "param": None, "code": None}}
    return web.json_response(body, status=status, headers=headers)


def test_a_remote_model_answers_under_its_own_name() -> None:
    seen: list[tuple[Json, str]] = []

    def answer(body: Json, request: web.Request) -> Json:
        seen.append((body, request.headers["Authorization"]))
        return said("hi there")

    async def body() -> None:
        async with answering(answer) as url:
            big = await model(url)
            form = {
                "type": "json_schema",
                "json_schema": {"name": "a", "schema": {"type": "object"}},
            }
            found = await big.complete(ASK.model_copy(update={"response_format": form}))
            await big.close()
        assert found["model"] == "big"
        assert found["choices"][0]["message"]["content"] == "hi there"
        assert found["usage"]["total_tokens"] == 16
        sent, authorization = seen[0]
        assert sent["model"] == "gpt-x"
        assert sent["response_format"] == form
        assert authorization == f"Bearer {KEY}"

    run_async(body())


def test_a_remote_model_streams() -> None:
    async def answer(body: Json, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for text in ("one ", "two"):
            chunk = {
                "id": "c",
                "object": "chat.completion.chunk",
                "created": 1,
                "model": "gpt-x",
                "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}],
            }
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def body() -> None:
        async with answering(answer) as url:
            big = await model(url)
            chunks = [chunk async for chunk in big.stream(ASK)]
            await big.close()
        text = "".join(c["delta"].get("content") or "" for k in chunks for c in k["choices"])
        assert text == "one two"
        assert {chunk["model"] for chunk in chunks} == {"big"}

    run_async(body())


@pytest.mark.parametrize(
    ("status", "form"),
    [
        (400, InvalidError),
        (401, RefusedError),
        (403, RefusedError),
        (404, RefusedError),
        (429, UnavailableError),
        (500, UnavailableError),
        (503, UnavailableError),
    ],
)
def test_every_refusal_is_typed_and_none_shows_the_key(
    status: int, form: type[SeedbedError], caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level(logging.DEBUG)

    async def body() -> SeedbedError:
        told = f"Incorrect API key provided: {KEY}. Model not happy."
        async with answering(lambda *_: refusal(status, told)) as url:
            big = await model(url)
            assert KEY not in repr(big)
            with pytest.raises(SeedbedError) as refused:
                await big.complete(ASK)
            with pytest.raises(SeedbedError):
                _ = [chunk async for chunk in big.stream(ASK)]
            await big.close()
            assert big.waiting == 0
            return refused.value

    error = run_async(body())
    assert isinstance(error, form)
    shown = "".join(traceback.format_exception(error)) + repr(error) + repr(vars(error))
    ours = "".join(record.getMessage() for record in caplog.records)
    printed = "".join(capfd.readouterr())
    for text in (shown, ours, printed):
        assert KEY not in text
    assert error.__context__ is None


def test_a_provider_that_asks_to_wait_is_waited_for() -> None:
    async def body() -> None:
        async with answering(lambda *_: refusal(429, "slow down", **{"retry-after": "7"})) as url:
            big = await model(url)
            with pytest.raises(UnavailableError) as refused:
                await big.complete(ASK)
            await big.close()
            assert refused.value.retry_after == 7

    run_async(body())


def test_a_provider_that_is_not_there_is_unavailable() -> None:
    async def body() -> None:
        big = await model("http://127.0.0.1:1")
        with pytest.raises(UnavailableError):
            await big.complete(ASK)
        await big.close()

    run_async(body())
