"""Agents answer through the real local model, and fail in typed ways against a fake one."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web

from seedbed.crds.errors import InvalidError, NotFoundError, RetryableError, UnavailableError
from seedbed.runtime.agents.errors import (
    AnswerMalformedError,
    AnswerTimeoutError,
    UnknownModuleError,
)
from seedbed.runtime.agents.host import AgentHost
from seedbed.runtime.agents.lm import ModelRefusedError
from seedbed.runtime.llm.models import built_in
from seedbed.runtime.llm.service import serving
from tests.answers import Answer, Json, answering, program, said
from tests.conftest import run_async

LIMIT = 90.0
KIND = "Literal['permissive', 'copyleft', 'public domain']"
READER = program(f"document: str -> kind: {KIND}, demands: str", model={"maxTokens": 64})
LICENCE = (
    "MIT License. Permission is hereby granted, free of charge, to any person obtaining a copy of "
    "this software, to deal in the Software without restriction."
)


@asynccontextmanager
async def real_host() -> AsyncIterator[AgentHost]:
    async with (
        serving(built_in(), "127.0.0.1", 0) as port,
        AgentHost(f"http://127.0.0.1:{port}") as host,
    ):
        yield host


@asynccontextmanager
async def fake_host(answer: Answer) -> AsyncIterator[AgentHost]:
    async with answering(answer) as url, AgentHost(url) as host:
        yield host


async def ask(host: AgentHost, agent: Json, within: float = 60.0, **inputs: Any) -> Json:
    return await host.answer(
        agent, inputs, timeout=within, traceparent="00-ab-cd-01", idempotency_key="run/step"
    )


@pytest.mark.req("DSX-06")
@pytest.mark.parametrize(
    ("strategy", "fields"),
    [
        ("Predict", ["kind", "demands"]),
        ("ChainOfThought", ["reasoning", "kind", "demands"]),
    ],
)
def test_the_real_model_answers_with_the_declared_fields_and_types(
    strategy: str, fields: list[str]
) -> None:
    async def body() -> None:
        async with real_host() as host:
            agent = READER | {"strategy": strategy, "model": {"maxTokens": 160}}
            found = await ask(host, agent, document=LICENCE)
            assert list(found) == fields
            assert found["kind"] in ("permissive", "copyleft", "public domain")
            assert all(isinstance(value, str) for value in found.values())

    run_async(body(), LIMIT)


def test_the_real_model_keeps_to_numbers_lists_and_truth_values() -> None:
    async def body() -> None:
        agent = program(
            "animal: str -> legs: int, weight: float, tame: bool, names: list[str]",
            model={"maxTokens": 220},
        )
        async with real_host() as host:
            found = await ask(host, agent, animal="dog")
            assert type(found["legs"]) is int
            assert type(found["tame"]) is bool
            assert isinstance(found["weight"], int | float)
            assert all(isinstance(each, str) for each in found["names"])

    run_async(body(), LIMIT)


def test_at_temperature_0_an_agent_gives_the_same_answer_again() -> None:
    async def body() -> None:
        agent = READER | {"model": {"maxTokens": 64, "temperature": 0, "seed": 1}}
        async with real_host() as host:
            first = await ask(host, agent, document=LICENCE)
            other = await ask(host, agent, document="Anyone may do anything with it.")
            again = await ask(host, agent, document=LICENCE)
            assert first == again
            assert list(other) == list(first)

    run_async(body(), LIMIT)


def test_several_calls_at_once_keep_their_own_answers() -> None:
    async def answer(body: Json, _: web.Request) -> Json:
        await asyncio.sleep(0)
        heard = body["messages"][-1]["content"].removeprefix("word: ")
        return said(f'{{"said":"{heard}"}}')

    async def body() -> None:
        agents = [program("word -> said", instructions=f"Number {n}.") for n in range(8)]
        async with fake_host(answer) as host:
            found = await asyncio.gather(
                *(ask(host, agents[n % 8], word=f"w{n}") for n in range(64))
            )
            assert [each["said"] for each in found] == [f"w{n}" for n in range(64)]

    run_async(body())


def test_what_is_asked_carries_the_schema_the_trace_and_the_key() -> None:
    seen: list[tuple[Json, Any]] = []

    def answer(body: Json, request: web.Request) -> Json:
        seen.append((body, request.headers))
        return said('{"kind": "copyleft", "demands": "much"}')

    async def body() -> None:
        async with fake_host(answer) as host:
            agent = READER | {"model": {"name": "big", "temperature": 0.5, "maxTokens": 64}}
            await ask(host, agent, document=LICENCE)
        sent, headers = seen[0]
        assert sent["model"] == "big"
        assert (sent["temperature"], sent["max_tokens"]) == (0.5, 64)
        properties = sent["response_format"]["json_schema"]["schema"]["properties"]
        assert properties["kind"]["enum"] == ["permissive", "copyleft", "public domain"]
        assert headers["traceparent"] == "00-ab-cd-01"
        assert headers["Idempotency-Key"] == "run/step"

    run_async(body())


@pytest.mark.req("COG-5.1.2")
def test_an_agent_says_how_far_its_answers_may_be_cached() -> None:
    seen: list[str] = []

    def answer(_: Json, request: web.Request) -> Json:
        seen.append(request.headers.get("X-Seedbed-Cache", ""))
        return said('{"kind": "copyleft", "demands": "much"}')

    async def body() -> None:
        async with fake_host(answer) as host:
            for cache in ("Allowed", "ExactOnly", "Off"):
                await ask(host, READER | {"model": {"cache": cache}}, document=LICENCE)
        assert seen == ["", "exact", "bypass"]

    run_async(body())


@pytest.mark.req("DSX-07")
@pytest.mark.parametrize(
    "value",
    [
        {"deep": [{"er": {"π": [1.5, -2, 1e-9, None, True]}}]},
        {"text": 'naïve — 你好 🌱 \u2028 " \\ \n\t'},
        {"numbers": [0.1, 1.7976931348623157e308, 5e-324, 2**53]},
        {},
    ],
)
def test_values_go_there_and_back_unchanged(value: Json) -> None:
    def answer(body: Json, _: web.Request) -> Json:
        heard = body["messages"][-1]["content"].removeprefix("value: ")
        return said(f'{{"echo": {heard}}}')

    async def body() -> None:
        async with fake_host(answer) as host:
            found = await ask(host, program("value: dict -> echo: dict"), value=value)
            assert found == {"echo": value}
            assert orjson.dumps(found["echo"]) == orjson.dumps(value)

    run_async(body())


@pytest.mark.req("DSX-07")
def test_an_unknown_module_is_a_typed_error_with_its_name() -> None:
    async def body() -> None:
        async with AgentHost("http://127.0.0.1:1") as host:
            with pytest.raises(UnknownModuleError, match="Divine") as refused:
                await ask(host, READER | {"strategy": "Divine"}, document="x")
            assert refused.value.code == "module_not_found"

    run_async(body())


@pytest.mark.parametrize(
    ("inputs", "field"),
    [
        ({}, "inputs.document"),
        ({"document": 3}, "inputs.document"),
        ({"document": None}, "inputs.document"),
        ({"document": "x", "more": "y"}, "inputs.more"),
    ],
)
def test_wrong_inputs_are_refused_before_the_model_is_asked(inputs: Json, field: str) -> None:
    async def body() -> None:
        async with AgentHost("http://127.0.0.1:1") as host:
            with pytest.raises(InvalidError) as refused:
                await ask(host, READER, **inputs)
            assert refused.value.field == field

    run_async(body())


@pytest.mark.parametrize("strategy", ["Predict", "ChainOfThought"])
@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"reasoning": "r", "kind": "royal", "demands": "x"}', "kind"),
        ('{"reasoning": "r", "kind": "copyleft"}', "demands"),
        ("It is a permissive licence.", "answer"),
        ("", "answer"),
    ],
)
def test_an_answer_that_does_not_fit_may_be_tried_again(
    strategy: str, text: str, field: str
) -> None:
    async def body() -> None:
        own = text if strategy == "ChainOfThought" else text.replace('"reasoning": "r", ', "")
        async with fake_host(lambda *_: said(own)) as host:
            with pytest.raises(AnswerMalformedError) as refused:
                await ask(host, READER | {"strategy": strategy}, document="x")
            assert refused.value.field == field
            assert isinstance(refused.value, RetryableError)

    run_async(body())


@pytest.mark.parametrize(
    ("status", "code", "form"),
    [
        (404, "model_not_found", NotFoundError),
        (400, "invalid", ModelRefusedError),
        (502, "provider_refused", ModelRefusedError),
        (429, "queue_full", UnavailableError),
        (503, "unavailable", UnavailableError),
    ],
)
def test_what_the_service_refuses_is_typed(status: int, code: str, form: type[Exception]) -> None:
    def answer(*_: Any) -> web.Response:
        error = {"message": "no", "type": "t", "param": None, "code": code}
        return web.json_response({"error": error}, status=status, headers={"Retry-After": "4"})

    async def body() -> None:
        async with fake_host(answer) as host:
            with pytest.raises(form) as refused:
                await ask(host, READER, document="x")
            if isinstance(refused.value, UnavailableError):
                assert refused.value.retry_after == 4

    run_async(body())


def test_a_proxy_that_finds_nobody_behind_it_may_be_asked_again() -> None:
    def answer(*_: Any) -> web.Response:
        return web.Response(status=502, text="<html>Bad Gateway</html>")

    async def body() -> None:
        async with fake_host(answer) as host:
            with pytest.raises(UnavailableError, match="502"):
                await ask(host, READER, document="x")

    run_async(body())


HOSTILE = ("signature", "demos", "config", "lm", "self", "new_signature", "prediction")
HOSTILE_TO_CLASSES = ("fields", "instructions", "copy", "input_fields", "model_config")


@pytest.mark.parametrize("strategy", ["Predict", "ChainOfThought"])
@pytest.mark.parametrize("name", [*HOSTILE, *HOSTILE_TO_CLASSES])
def test_a_field_may_have_any_name_and_is_never_an_order_to_the_framework(
    name: str, strategy: str
) -> None:
    heard: list[str] = []

    def answer(body: Json, _: web.Request) -> Json:
        heard.extend(each["content"] for each in body["messages"])
        answers = body["response_format"]["json_schema"]["schema"]["required"]
        return said(orjson.dumps(dict.fromkeys(answers, "out")).decode())

    async def body() -> None:
        async with fake_host(answer) as host:
            agent = program(f"{name}: str, n: int -> out", strategy=strategy)
            values = {name: "in", "n": 1}
            assert (await host.answer(agent, values, timeout=10.0))["out"] == "out"
            assert heard[-1] == f"{name}: in\n\nn: 1"
            heard.clear()
            found = await ask(host, program(f"q -> {name}", strategy=strategy), q="what")
            assert found[name] == "out"
            assert heard[0].startswith(f"Given the fields `q`, produce the fields `{name}`.")

    run_async(body())


def test_who_learns_from_answers_cannot_hold_one_up() -> None:
    told = {"route": "cheap", "task": "t", "model": "small", "hardness": 1}
    asked: list[Json] = []

    async def outcome(body: Json, _: web.Request) -> Json:
        asked.append(body)
        await asyncio.Event().wait()
        return {}

    async def body() -> None:
        answer = {**said('{"kind": "copyleft", "demands": "much"}'), "seedbed": told}
        async with answering(lambda *_: answer, outcome) as url, AgentHost(url) as host:
            found = await ask(host, READER, within=1.0, document="x")
            assert found["kind"] == "copyleft"
        assert [each["good"] for each in asked] == [1.0]

    run_async(body())


def test_a_service_that_is_not_there_is_unavailable() -> None:
    async def body() -> None:
        async with AgentHost("http://127.0.0.1:1") as host:
            with pytest.raises(UnavailableError, match="cannot be reached"):
                await ask(host, READER, document="x")

    run_async(body())


def test_no_answer_in_time_is_a_typed_error() -> None:
    async def body() -> None:
        async def answer(*_: Any) -> Json:
            await asyncio.Event().wait()
            return {}

        async with fake_host(answer) as host:
            with pytest.raises(AnswerTimeoutError) as refused:
                await ask(host, READER, within=0.1, document="x")
            assert refused.value.code == "timeout"
            assert isinstance(refused.value, RetryableError)

    run_async(body())


def test_hosting_agents_does_not_bring_litellm_into_the_worker() -> None:
    async def body() -> int:
        code = (
            "import sys; from seedbed.runtime.agents.host import AgentHost;"
            "sys.exit('litellm' in sys.modules)"
        )
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", code)
        return await process.wait()

    assert run_async(body()) == 0
