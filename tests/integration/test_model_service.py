"""The model service with the real local model: forms, streams, limits, and the same answer again."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from seedbed.runtime.llm.models import ModelEntry, Models
from seedbed.runtime.llm.service import serving
from tests.conftest import run_async

LIMIT = 90.0
KIND = {
    "type": "object",
    "properties": {"kind": {"enum": ["animal", "plant"]}, "legs": {"type": "integer"}},
    "required": ["kind", "legs"],
    "additionalProperties": False,
}


@asynccontextmanager
async def service(**fields: Any) -> AsyncIterator[aiohttp.ClientSession]:
    models = Models(models=(ModelEntry(name="smollm2", **fields),), default="smollm2")
    async with (
        serving(models, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


def asked(text: str, **fields: Any) -> dict[str, Any]:
    message = {"role": "user", "content": text}
    return {"model": "default", "messages": [message], "max_tokens": 24, "temperature": 0} | fields


async def chat(session: aiohttp.ClientSession, body: dict[str, Any]) -> tuple[int, Any]:
    async with session.post("/v1/chat/completions", json=body) as answer:
        return answer.status, await answer.json()


async def metric(session: aiohttp.ClientSession, line: str) -> float:
    async with session.get("/metrics") as answer:
        text = await answer.text()
    return next(
        (float(each.split()[-1]) for each in text.splitlines() if each.startswith(line)), 0.0
    )


async def until(session: aiohttp.ClientSession, line: str, wanted: float) -> None:
    while await metric(session, line) != wanted:
        await asyncio.sleep(0.02)


def test_it_answers_in_openais_form_and_says_what_it_serves() -> None:
    async def body() -> None:
        async with service() as session:
            status, answer = await chat(session, asked("Say hello."))
            assert status == 200
            assert answer["object"] == "chat.completion"
            assert answer["model"] == "smollm2"
            assert answer["choices"][0]["message"]["content"]
            usage = answer["usage"]
            assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
            async with session.get("/v1/models") as listed:
                names = [each["id"] for each in (await listed.json())["data"]]
            assert names == ["default", "smollm2"]
            for path in ("/healthz", "/readyz"):
                async with session.get(path) as probe:
                    assert probe.status == 200
            done = 'seedbed_model_requests_total{model="smollm2",outcome="ok"}'
            assert await metric(session, done) == 1

    run_async(body(), LIMIT)


def test_temperature_0_and_a_seed_give_the_same_answer_again() -> None:
    async def body() -> None:
        async with service() as session:
            one = asked("Name three rivers and say where they are.", seed=7)
            other = asked("Name two mountains.", seed=7)
            answers = [await chat(session, each) for each in (one, other, one)]
            texts = [answer["choices"][0]["message"]["content"] for _, answer in answers]
            assert texts[0] == texts[2] != texts[1]

    run_async(body(), LIMIT)


def test_an_answer_is_held_to_its_schema() -> None:
    async def body() -> None:
        async with service() as session:
            form = {"type": "json_schema", "json_schema": {"name": "a", "schema": KIND}}
            _, answer = await chat(
                session, asked("What is a cow?", response_format=form, max_tokens=64)
            )
            found = json.loads(answer["choices"][0]["message"]["content"])
            assert found["kind"] in ("animal", "plant")
            assert isinstance(found["legs"], int)

    run_async(body(), LIMIT)


def test_a_stream_says_what_the_whole_answer_says() -> None:
    async def body() -> None:
        async with service() as session:
            ask = asked("Count to five.", seed=1)
            _, whole = await chat(session, ask)
            streamed = ask | {"stream": True, "stream_options": {"include_usage": True}}
            async with session.post("/v1/chat/completions", json=streamed) as answer:
                assert answer.content_type == "text/event-stream"
                lines = [line async for line in answer.content]
            events = [line[6:].strip() for line in lines if line.startswith(b"data: ")]
            assert events[-1] == b"[DONE]"
            chunks = [json.loads(event) for event in events[:-1]]
            text = "".join(
                choice["delta"].get("content") or "" for c in chunks for choice in c["choices"]
            )
            assert text == whole["choices"][0]["message"]["content"]
            assert chunks[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]

    run_async(body(), LIMIT)


def test_what_it_refuses_it_refuses_in_openais_form() -> None:
    async def body() -> None:
        async with service(context_length=256) as session:
            wrong = [
                (asked("x", model="gpt-9"), 404, "model_not_found"),
                (asked("x", temperature=9), 400, "invalid"),
                (asked("word " * 500), 400, "invalid"),
                (asked("word " * 500, stream=True), 400, "invalid"),
                (asked("x", response_format={"type": "poem"}), 400, "invalid"),
            ]
            for ask, status, code in wrong:
                found, answer = await chat(session, ask)
                assert (found, answer["error"]["code"]) == (status, code), answer
                assert answer["error"]["message"]
            _, answer = await chat(session, wrong[0][0])
            assert "default, smollm2" in answer["error"]["message"]
            async with session.get("/v2/nothing") as answer:
                assert answer.status == 404
                assert (await answer.json())["error"]["type"] == "invalid_request_error"

    run_async(body(), LIMIT)


def test_many_at_once_are_all_answered_and_too_many_are_refused() -> None:
    async def body() -> None:
        async with service(queue_limit=3) as session:
            found = await asyncio.gather(
                *(chat(session, asked(f"Say {n}.", max_tokens=12)) for n in range(6))
            )
            assert sorted(status for status, _ in found) == [200] * 3 + [429] * 3
            refused = next(answer for status, answer in found if status == 429)
            assert refused["error"]["code"] == "queue_full"
            assert (await chat(session, asked("Again.")))[0] == 200

    run_async(body(), LIMIT)


def test_who_goes_away_ends_the_work() -> None:
    waiting = 'seedbed_model_waiting{model="smollm2"}'

    async def body() -> None:
        async with service() as session:
            # Not the same one twice: equal calls would share an answer.
            endless = [asked(f"Tell a very long story of {n}.", max_tokens=3000) for n in (1, 2)]
            calls = [asyncio.create_task(chat(session, one)) for one in endless]
            await until(session, waiting, 2)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
            await until(session, waiting, 0)
            # 3,000 tokens take a minute; the model is free at once.
            assert (await chat(session, asked("Hello.", max_tokens=2)))[0] == 200
            gone = 'seedbed_model_requests_total{model="smollm2",outcome="cancelled"}'
            assert await metric(session, gone) == 2

    run_async(body(), 45.0)


def test_the_service_answers_probes_while_the_model_computes() -> None:
    async def body() -> None:
        async with service() as session:
            call = asyncio.create_task(chat(session, asked("Tell a story.", max_tokens=60)))
            await until(session, 'seedbed_model_waiting{model="smollm2"}', 1)
            probes = 0
            while not call.done():
                async with session.get("/healthz") as probe:
                    probes += probe.status == 200
            assert probes > 10
            assert (await call)[0] == 200

    run_async(body(), LIMIT)
