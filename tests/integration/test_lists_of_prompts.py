"""Several prompts in one request of the older form, over real HTTP, with the cache and a budget before them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.conftest import run_async
from tests.integration.test_budgets import AGENT, bank, entry
from tests.integration.test_cache import asking, counted
from tests.integration.test_cache import entry as priced
from tests.providers import Json, provider
from tests.unit.test_gateway_targets import one

ANIMALS = {"prompt": ["the cow", "the goat", "the hen"]}


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/store.db"


def say(body: Json) -> str:
    return f"about {body['messages'][0]['content']}"


async def ask(session: aiohttp.ClientSession, given: Json, **headers: str) -> tuple[int, Json, Any]:
    path = "/v1/completions"
    async with session.post(path, json={"model": "default", **given}, headers=headers) as answer:
        return answer.status, await answer.json(), answer.headers


async def events(session: aiohttp.ClientSession, given: Json, **headers: str) -> list[Json]:
    body = {"model": "default", "stream": True, **given}
    async with session.post("/v1/completions", json=body, headers=headers) as answer:
        lines = (await answer.text()).split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""], lines
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


def texts(chunks: list[Json]) -> dict[int, str]:
    found: dict[int, str] = {}
    for chunk in chunks:
        for choice in chunk.get("choices", ()):
            found[choice["index"]] = found.get(choice["index"], "") + choice["text"]
    return dict(sorted(found.items()))


@pytest.mark.req("DSX-15")
def test_each_prompt_has_its_choices_and_the_usage_is_of_all() -> None:
    async def body() -> None:
        async with one(say=say) as (session, fake):
            status, found, headers = await ask(session, {**ANIMALS, "n": 2})
            assert status == 200
            assert [each["index"] for each in found["choices"]] == [*range(6)]
            told = [each["text"] for each in found["choices"]]
            assert told == [f"about {each}" for each in ANIMALS["prompt"] for _ in range(2)]
            assert found["usage"]["total_tokens"] == sum(p + a for p, a in fake.billed)
            assert found["seedbed"]["cost_dollars"] == headers["X-Seedbed-Cost"] == "0.000042"
            assert headers["X-Seedbed-Model"] == "first"

    run_async(body())


@pytest.mark.req("DSX-15")
@pytest.mark.parametrize("how", [{}, {"X-Seedbed-Stream": "whole"}], ids=["", "whole"])
def test_streams_run_side_by_side(how: dict[str, str]) -> None:
    async def body() -> None:
        async with one(say=say, slow=0.001) as (session, fake):
            options = {"stream_options": {"include_usage": True}}
            chunks = await events(session, {**ANIMALS, **options}, **how)
            assert texts(chunks) == {
                at: f"about {each}" for at, each in enumerate(ANIMALS["prompt"])
            }
            assert len({chunk["id"] for chunk in chunks}) == 1
            last = chunks[-1]
            assert last["usage"]["total_tokens"] == sum(p + a for p, a in fake.billed)
            assert last["seedbed"]["cost_dollars"] == "0.000024"
            assert not last["choices"]
            assert not any("usage" in each for each in await events(session, ANIMALS, **how))

    run_async(body())


@pytest.mark.req("DSX-15")
def test_a_stream_that_breaks_off_ends_the_others() -> None:
    async def body() -> None:
        async with one(say=say, breaks="stream") as (session, _):
            found = await events(session, ANIMALS)
            assert found[-1]["error"]["type"] == "server_error"

    run_async(body())


@pytest.mark.req("DSX-15")
@pytest.mark.parametrize("prompt", [[1, 2], [[1, 2], [3]], ["a", 1], [], ["a"] * 129, None, {}])
def test_other_lists_are_one_clear_error(prompt: Any) -> None:
    async def body() -> None:
        async with one() as (session, fake):
            status, found, _ = await ask(session, {"prompt": prompt})
            assert (status, found["error"]["param"]) == (400, "prompt")
            assert not fake.seen

    run_async(body())


@pytest.mark.req("DSX-15")
def test_more_than_go_side_by_side() -> None:
    async def body() -> None:
        async with one(say=say) as (session, fake):
            prompts = [f"number {at}" for at in range(100)]
            for streams in (False, True):
                if streams:
                    found = texts(await events(session, {"prompt": prompts}))
                    assert found == {at: f"about {each}" for at, each in enumerate(prompts)}
                else:
                    _, whole, _ = await ask(session, {"prompt": prompts})
                    told = [each["text"] for each in whole["choices"]]
                    assert told == [f"about {each}" for each in prompts]
            assert len(fake.seen) == 200

    run_async(body())


@pytest.mark.req("COG-5.1.2")
def test_each_prompt_has_its_own_place_in_the_cache() -> None:
    async def body() -> None:
        async with provider(say=counted()) as fake, asking(priced(fake)) as kept:
            _, first, _ = await ask(kept.session, {"prompt": "the goat", "temperature": 0})
            _, found, headers = await ask(kept.session, {**ANIMALS, "temperature": 0})
            assert headers["X-Seedbed-Cache"] == "miss,exact,miss"
            assert found["seedbed"]["cache"] == "miss,exact,miss"
            assert found["choices"][1]["text"] == first["choices"][0]["text"]
            assert len(fake.seen) == 3
            chunks = await events(kept.session, {**ANIMALS, "temperature": 0})
            assert texts(chunks) == {each["index"]: each["text"] for each in found["choices"]}
            assert len(fake.seen) == 3

    run_async(body())


@pytest.mark.req("COG-3.4.1")
@pytest.mark.req("COG-3.4.2")
def test_money_for_all_prompts_is_there_before_the_first_is_asked(url: str) -> None:
    """An answer of 10 words costs 10 cents; a prompt of 36 bytes at most 36."""

    async def body() -> None:
        async with provider(say=say) as fake, bank(url, entry(fake, "10000")) as bank_:
            given = {**ANIMALS, "max_tokens": 10}
            await bank_.set_budget("1.30")
            status, found, _ = await ask(bank_.session, given, **AGENT)
            assert (status, found["error"]["code"]) == (402, "budget_exceeded")
            assert not fake.seen, "two of three could have been paid"
            assert await bank_.spent() == 0
            await bank_.set_budget("10")
            status, found, _ = await ask(bank_.session, given, **AGENT)
            assert status == 200
            billed = sum(p + a for p, a in fake.billed) * 10_000_000
            assert await bank_.spent() == billed
            assert {each.calls for each in await bank_.ledger.costs("agent")} == {3}
            status, *_ = await ask(bank_.session, {**given, "prompt": ["x"] * 40}, **AGENT)
            assert status == 402
            assert await bank_.spent() == billed

    run_async(body())
