"""What clients of other gateways send: nulls, token ids, models that are not theirs, bodies that cannot be read."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import aiohttp
import pytest

from seedbed.runtime.llm.batch.prompt_form import as_prompt
from seedbed.runtime.llm.cache.key import digest
from seedbed.runtime.llm.requests import ChatRequest
from tests.conftest import run_async
from tests.providers import Json, provider
from tests.unit.test_gateway_targets import asked, chat, gateway, one

EMBEDS: Json = {"capabilities": ["streaming", "embeddings"]}
SENT = json.dumps(asked()).encode()
GONE: Json = {"api_base": "http://127.0.0.1:9/v1", "retries": 0}


async def embedded(session: aiohttp.ClientSession, given: Any, **fields: Any) -> tuple[int, Json]:
    body = {"model": "first", "input": given, **fields}
    async with session.post("/v1/embeddings", json=body) as answer:
        return answer.status, await answer.json()


@pytest.mark.req("DSX-15")
def test_what_is_null_is_not_set() -> None:
    async def body() -> None:
        async with one() as (session, fake):
            nothing = dict.fromkeys(
                ["n", "stream", "stop", "tools", "user", "stream_options", "response_format"]
            )
            status, _, _ = await chat(session, **nothing)
            assert status == 200
            assert not {"n", "stream"} & {k for k, v in fake.seen[0].items() if v is None}
            more = {"n": None, "best_of": 1, "echo": False, "suffix": None, "logprobs": None}
            ask = {"model": "first", "prompt": "x", **more}
            async with session.post("/v1/completions", json=ask) as answer:
                assert answer.status == 200
            assert not set(more) & set(fake.seen[1])
            async with session.post("/v1/completions", json={**ask, "best_of": 2}) as answer:
                assert (await answer.json())["error"]["param"] == "best_of"

    run_async(body())


@pytest.mark.req("DSX-15")
def test_vectors_of_token_ids() -> None:
    async def body() -> None:
        async with one(None, EMBEDS) as (session, fake):
            status, found = await embedded(session, [[7, 8, 9], [1]])
            assert status == 200
            assert [each["embedding"][0] for each in found["data"]] == [3.0, 1.0]
            assert (await embedded(session, [5, 6]))[0] == 200
            assert [each["input"] for each in fake.embedded] == [[[7, 8, 9], [1]], [[5, 6]]]
            wrong: list[Any] = [[], [[]], ["a", 1], [[1], "a"], [1.5], [True], [-1], [2**31], {}]
            for given in wrong:
                status, found = await embedded(session, given)
                assert (status, found["error"]["param"]) == (400, "input"), given

    run_async(body())


@pytest.mark.req("DSX-17")
def test_no_other_model_gives_vectors_in_place_of_one() -> None:
    async def body() -> None:
        async with (
            provider() as other,
            provider() as same,
            gateway(
                first=(other, {**EMBEDS, **GONE, "model": "vectors"}),
                second=(other, {**EMBEDS, "model": "others"}),
                third=(same, {**EMBEDS, "model": "azure/vectors"}),
            ) as session,
        ):
            status, found = await embedded(session, "x")
            assert (status, found["seedbed"]["model"]) == (200, "third")
            assert not other.embedded

    run_async(body())


@pytest.mark.req("DSX-15")
def test_a_model_is_there_for_the_namespaces_that_it_names() -> None:
    async def body() -> None:
        async with (
            provider(say=lambda _: "for a") as closed,
            gateway(
                first=(closed, GONE),
                second=(closed, {"namespaces": ["team-a"]}),
            ) as session,
        ):

            async def names(headers: Json) -> list[str]:
                async with session.get("/v1/models", headers=headers) as answer:
                    return [each["id"] for each in (await answer.json())["data"]]

            mine, theirs = ({"X-Seedbed-Namespace": name} for name in ("team-a", "team-b"))
            assert await names(mine) == ["auto", "default", "first", "second"]
            assert await names(theirs) == ["default", "first"]
            async with session.get("/v1/models/second", headers=theirs) as answer:
                assert answer.status == 404
            for name, status in (("second", 404), ("auto", 503), ("first", 503)):
                body = asked(f"say {name}", model=name)
                async with session.post(
                    "/v1/chat/completions", json=body, headers=theirs
                ) as answer:
                    assert answer.status == status, await answer.text()
            assert not closed.seen, "it stands in for nobody else's either"
            async with session.post("/v1/chat/completions", json=asked(), headers=mine) as answer:
                assert answer.headers["X-Seedbed-Model"] == "second"

    run_async(body())


@pytest.mark.req("DSX-15")
def test_what_cannot_be_read_as_its_headers_say_is_the_callers_mistake() -> None:
    async def body() -> None:
        async with one() as (session, fake):
            zipped = {"Content-Encoding": "gzip"}
            async with session.post("/v1/chat/completions", data=b"x", headers=zipped) as answer:
                assert answer.status == 400
                assert (await answer.json())["error"]["param"] == "body"
            url = session._build_url("/")
            head = (
                f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {len(SENT)}\r\n"
            )
            run = b"X-Seedbed-Run: a\xffb\r\nConnection: close\r\n\r\n"
            reader, writer = await asyncio.open_connection(url.host, url.port)
            writer.write(head.encode() + run + SENT)
            told = await reader.read()
            writer.close()
            assert told.startswith(b"HTTP/1.1 400 ")
            assert b'"param":"X-Seedbed-Run"' in told
            assert not fake.seen, "nothing is asked that no ledger could keep"

    run_async(body())


@pytest.mark.req("DSX-15")
def test_further_fields_go_to_models_that_say_they_take_them() -> None:
    async def body() -> None:
        more = {"top_k": 3, "chat_template_kwargs": {"thinking": False}}
        passes: Json = {"passes": sorted(more)}
        async with one(None, passes) as (session, fake):
            status, _, _ = await chat(session, **more)
            assert status == 200
            assert {name: fake.seen[0][name] for name in more} == more
            for name, value in (("top_p_k", 1), ("a\r\nb", 1), ("top_k", 10**30)):
                status, answer, _ = await chat(session, **{name: value})
                assert (status, answer["error"]["type"]) == (400, "invalid_request_error")
            assert len(fake.seen) == 1
        async with (
            provider() as plain,
            provider() as able,
            gateway(first=(plain, {}), second=(able, passes)) as session,
        ):
            _, _, headers = await chat(session, **more)
            assert headers["X-Seedbed-Attempts"] == "first=no_such_field,second=ok"
            assert not plain.seen
            status, answer, _ = await chat(session, temprature=1)
            assert (status, answer["error"]["param"]) == (400, "temprature")

    run_async(body())


def test_requests_with_other_further_fields_are_other_requests() -> None:
    first, second = (
        ChatRequest.model_validate({**asked(), "top_k": at}, strict=False) for at in (1, 2)
    )
    assert digest(first) != digest(second)
    assert as_prompt(first, "plain") is None
