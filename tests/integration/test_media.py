"""Pictures and sound in chats: who is asked, what arrives there, what it costs, what is cached."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest

from seedbed.crds.errors import InvalidError
from seedbed.runtime.llm.cache.cached import cached
from seedbed.runtime.llm.cache.key import prompt_hash
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.media import SLOWEST
from seedbed.runtime.llm.models import ModelEntry, Models
from seedbed.runtime.llm.prices import Price, image_tokens, known
from seedbed.runtime.llm.requests import ChatRequest, parse
from seedbed.runtime.llm.service import serving
from tests.conftest import run_async
from tests.integration.test_budgets import bank
from tests.providers import FakeProvider, Json, provider

PNG = base64.b64encode(b"\x89PNG a small picture").decode()
WAV = base64.b64encode(b"RIFF" + bytes(SLOWEST["wav"] * 2)).decode()
IMAGE: Json = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG}"}}
SOUND: Json = {"type": "input_audio", "input_audio": {"data": WAV, "format": "wav"}}
WORDS: Json = {"type": "text", "text": "what is this"}


def asking(*parts: Json, **fields: Any) -> Json:
    return {"model": "words", "messages": [{"role": "user", "content": list(parts)}], **fields}


def request(*parts: Json) -> ChatRequest:
    return ChatRequest.model_validate(asking(*parts))


@asynccontextmanager
async def service(
    fake: FakeProvider, senses: Sequence[str] = (), **sections: Any
) -> AsyncIterator[aiohttp.ClientSession]:
    """A model that reads words alone, and one behind it with senses."""
    far: Json = {"provider": "openai", "model": "x", "apiBase": fake.url}
    able = ["streaming", "structured", "tools"]
    models = Models.model_validate(
        {
            "models": [
                {"name": "words", **far, "capabilities": able},
                {"name": "senses", **far, "capabilities": [*able, *senses]},
            ],
            "default": "words",
            **sections,
        }
    )
    gateway = Gateway(models)
    async with (
        cached(gateway),
        serving(models, "127.0.0.1", 0, gateway=gateway) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


async def chat(session: aiohttp.ClientSession, body: Json) -> tuple[int, Json, Any]:
    async with session.post("/v1/chat/completions", json=body) as answer:
        return answer.status, await answer.json(), answer.headers


@pytest.mark.req("DSX-15")
@pytest.mark.parametrize(("sense", "part"), [("vision", IMAGE), ("audio", SOUND)])
def test_a_model_with_the_sense_is_chosen_and_gets_the_parts_as_they_came(
    sense: str, part: Json
) -> None:
    async def body() -> None:
        marked = {**WORDS, "cache_control": {"type": "ephemeral"}}
        async with provider() as fake, service(fake, [sense]) as session:
            status, _, headers = await chat(session, asking(marked, part))
            assert status == 200
            assert headers["X-Seedbed-Attempts"] == f"words=no_{sense},senses=ok"
            assert fake.seen[0]["messages"] == [{"role": "user", "content": [marked, part]}]
            status, _, headers = await chat(session, asking(WORDS, WORDS))
            assert headers["X-Seedbed-Attempts"] == "words=ok", "words need no sense"
            assert fake.seen[1]["messages"][0]["content"] == "what is thiswhat is this"

    run_async(body())


@pytest.mark.req("DSX-15")
@pytest.mark.parametrize(
    ("parts", "param"),
    [
        ([WORDS, IMAGE], "messages.0.content.1.image_url"),
        ([SOUND, WORDS], "messages.0.content.0.input_audio"),
    ],
)
def test_where_no_model_has_the_sense_the_error_names_the_part(
    parts: list[Json], param: str
) -> None:
    async def body() -> None:
        async with provider() as fake, service(fake) as session:
            status, told, _ = await chat(session, asking(*parts))
            assert (status, told["error"]["param"]) == (400, param)
            assert told["error"]["type"] == "invalid_request_error"
            assert not fake.seen

    run_async(body())


@pytest.mark.parametrize(
    ("part", "field"),
    [
        ({"type": "file", "file": {"file_id": "f"}}, "messages.0.content.0"),
        ({"type": "image_url"}, "messages.0.content.0.image_url.image_url"),
        (
            {"type": "input_audio", "input_audio": {"data": "x", "format": "ogg"}},
            "messages.0.content.0.input_audio.input_audio.format",
        ),
        ("words", "messages.0.content.0"),
    ],
)
def test_a_part_of_another_form_is_refused_by_its_place(part: Any, field: str) -> None:
    with pytest.raises(InvalidError) as refused:
        parse(ChatRequest, orjson.dumps(asking(part)))
    assert refused.value.field == field


def test_what_a_provider_put_beside_the_text_is_never_taken_for_parts() -> None:
    beside = {"role": "assistant", "content": "so", "parts": [{"kind": "thought"}]}
    found = ChatRequest.model_validate({"model": "m", "messages": [beside]})
    assert not found.media()
    assert found.parameters()["messages"] == [beside]


def test_requests_are_equal_where_their_pictures_are() -> None:
    other = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PNG[:-4]}"}}
    same, changed = prompt_hash(request(WORDS, IMAGE)), prompt_hash(request(WORDS, other))
    assert same == prompt_hash(request(WORDS, IMAGE))
    assert (
        len({same, changed, prompt_hash(request(IMAGE, WORDS)), prompt_hash(request(WORDS))}) == 4
    )


@pytest.mark.req("COG-5.1.2")
def test_only_an_equal_picture_is_served_from_the_cache_and_one_elsewhere_never() -> None:
    async def body() -> None:
        there = {"type": "image_url", "image_url": {"url": "https://example.org/today.png"}}
        on = {"mode": "on"}
        async with provider() as fake, service(fake, ["vision"], cache=on) as session:
            told = []
            for parts in ([WORDS, IMAGE], [WORDS, IMAGE], [WORDS, there], [WORDS, there]):
                _, _, headers = await chat(session, asking(*parts, temperature=0))
                told.append(headers["X-Seedbed-Cache"])
            assert told == ["miss", "exact", "bypass", "bypass"]
            assert len(fake.seen) == 3

    run_async(body())


def test_texts_beside_pictures_stay_where_they_are() -> None:
    """A paragraph that stands twice is not replaced where pictures stand between the words."""

    async def body() -> None:
        long = {"type": "text", "text": "The committee met and spoke at length. " * 20}
        asked = asking(long, IMAGE, long)
        prompts = {"duplicatesFromBytes": 100, "prefix": "blocks"}
        async with provider() as fake, service(fake, ["vision"], prompts=prompts) as session:
            assert (await chat(session, asked))[0] == 200
            assert fake.seen[0]["messages"] == asked["messages"]

    run_async(body())


@pytest.mark.req("COG-3.4.1")
def test_what_is_reserved_is_never_less_than_what_pictures_and_sound_cost(tmp_path: Path) -> None:
    """Two seconds of sound at 10 tokens a second and $40 a million; one picture of 500 tokens at most."""

    async def body() -> None:
        async with provider(sound=20) as fake:
            given = {
                "name": "senses",
                "provider": "openai",
                "model": "m",
                "apiBase": fake.url,
                "capabilities": ["vision", "audio"],
                "price": {"prompt": "1", "completion": "2", "audioPrompt": "40"},
                "imageTokens": 500,
                "audioTokensPerSecond": 10,
                "bytesPerToken": 4,
            }
            one = ModelEntry.model_validate(given)
            async with bank(f"sqlite:///{tmp_path}/store.db", one) as money:
                # The worst case is 500 tokens of picture, 21 of sound and few of text: $0.00137.
                await money.set_budget("0.0022", haltAt=100, alertAt=99)
                status, told = await money.chat(
                    messages=asking(WORDS, IMAGE, SOUND)["messages"], max_tokens=10
                )
                assert status == 200
                # 3 words and a picture of 100 tokens, 20 of sound, 2 words answered.
                assert await money.spent() == 103 * 1_000 + 20 * 40_000 + 2 * 2_000
                assert told["seedbed"]["cost_dollars"] == "0.000907"
                status, told = await money.chat(
                    messages=asking(WORDS, IMAGE, SOUND)["messages"], max_tokens=10
                )
                assert (status, told["error"]["code"]) == (402, "budget_exceeded")
                assert len(fake.seen) == 1

    run_async(body())


def test_sound_costs_its_own_price_and_more_where_the_provider_does_not_tell() -> None:
    price = Price.per_million("1", "2", audio="40")
    assert price.of(120, 2, audio=20) == 100 * 1_000 + 20 * 40_000 + 2 * 2_000
    assert price.worst(120, 2, audio=20) == price.of(120, 2, audio=20)
    assert Price.per_million("1", "2").of(120, 2, audio=20) == 120 * 1_000 + 2 * 2_000


def test_the_table_knows_who_sees_and_hears() -> None:
    assert known("gpt-4o").senses == {"vision"}
    heard = known("gpt-4o-audio-preview")
    assert "audio" in heard.senses
    assert heard.price is not None
    assert heard.price.audio is not None
    assert heard.price.audio > heard.price.prompt
    assert image_tokens("openai/gpt-4o-mini-2024-07-18") == 48_169
    assert image_tokens("anything") == 5_000
