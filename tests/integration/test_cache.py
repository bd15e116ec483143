"""The cache of the model service over real HTTP, for the unmodified client that OpenAI publishes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import openai
import orjson
import pytest
from typer.testing import CliRunner

from seedbed.cli.gateway import Replica, flags_of, serving_models
from seedbed.cli.main import app as command_line
from seedbed.runtime.api.access import Action, Caller, ForbiddenError
from seedbed.runtime.api.cache import CachePages
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.llm.cache.cached import cached
from seedbed.runtime.llm.cache.invalidation import invalidate
from seedbed.runtime.llm.funded import funded
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.models import ModelEntry, Models, load
from seedbed.runtime.llm.service import serving
from seedbed.runtime.store.answers import AnswerStore, Selection, SqlAnswers
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.store.sql_ledger import SqlLedger
from tests.api_service import serving_pages
from tests.callers import AllowAll
from tests.conftest import run_async
from tests.providers import FakeProvider, Json, provider
from tests.servers import PostgresServer
from tests.state_folders import filled_folder

ALL = ["streaming", "structured", "tools", "embeddings"]


@dataclass(frozen=True, slots=True)
class Asking:
    """A service with a cache, over HTTP."""

    session: aiohttp.ClientSession
    url: str

    async def chat(
        self, text: str, headers: dict[str, str] | None = None, **fields: Any
    ) -> tuple[int, dict[str, str], Json]:
        ask = {"model": "default", "messages": [{"role": "user", "content": text}]} | fields
        async with self.session.post(
            "/v1/chat/completions", json=ask, headers=headers or {}
        ) as answer:
            found = {k.removeprefix("X-Seedbed-"): v for k, v in answer.headers.items()}
            return answer.status, found, orjson.loads(await answer.read())

    async def tier(self, text: str, headers: dict[str, str] | None = None, **fields: Any) -> str:
        status, found, body = await self.chat(text, headers, **fields)
        assert status == 200, body
        assert body["seedbed"]["cache"] == found["Cache"]
        return found["Cache"]

    @asynccontextmanager
    async def openai(self) -> AsyncIterator[openai.AsyncOpenAI]:
        async with openai.AsyncOpenAI(base_url=f"{self.url}/v1", api_key="any") as client:
            yield client


def entry(fake: FakeProvider, name: str = "m", **fields: Any) -> ModelEntry:
    given = {
        "name": name,
        "provider": "openai",
        "model": "x",
        "apiBase": fake.url,
        "capabilities": ALL,
        "price": {"prompt": "1", "completion": "1"},
        "retries": 0,
    }
    return ModelEntry.model_validate(given | fields)


@asynccontextmanager
async def asking(
    *entries: ModelEntry,
    store: AnswerStore | None = None,
    coordinator: Coordinator | None = None,
    **cache: Any,
) -> AsyncIterator[Asking]:
    models = Models.model_validate(
        {"models": entries, "default": entries[0].name, "cache": {"mode": "on"} | cache}
    )
    gateway = Gateway(models)
    async with (
        cached(gateway, store, coordinator),
        serving(models, "127.0.0.1", 0, gateway=gateway) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield Asking(session, f"http://127.0.0.1:{port}")


def counted() -> Callable[[Json], str]:
    """Says another thing each time, so that a kept answer is known by what it says."""
    said: list[Json] = []

    def say(body: Json) -> str:
        said.append(body)
        return f"answer number {len(said)} to {body['messages'][-1]['content']}"

    return say


@pytest.mark.req("COG-5.1.2")
def test_an_equal_request_is_answered_once_and_costs_nothing_again() -> None:
    async def body() -> None:
        async with provider(say=counted()) as fake, asking(entry(fake)) as ask:
            _, headers, first = await ask.chat("one two")
            assert headers["Cache"] == "miss"
            status, headers, again = await ask.chat("one two", user="me")
            assert status == 200
            assert headers["Cache"] == "exact"
            assert headers["Model"] == "cache"
            assert headers["Cache-Model"] == "m"
            assert headers["Cost"] == "0.00"
            assert headers["Cache-Saved"] == first["seedbed"]["cost_dollars"] != "0.00"
            assert again["choices"] == first["choices"]
            assert again["usage"] == first["usage"]
            assert again["id"] != first["id"]
            assert await ask.tier("one three") == "miss"
            assert len(fake.seen) == 2

    run_async(body())


@pytest.mark.req("COG-5.1.2")
def test_streams_and_whole_answers_are_one_to_it() -> None:
    async def body() -> None:
        async with provider(say=counted()) as fake, asking(entry(fake)) as ask, ask.openai() as ai:
            hello: Any = [{"role": "user", "content": "say something that is long enough for two"}]

            async def streamed() -> tuple[str, int]:
                stream = await ai.chat.completions.create(
                    model="m", messages=hello, stream=True, stream_options={"include_usage": True}
                )
                chunks = [chunk async for chunk in stream]
                assert chunks[-2].choices[0].finish_reason == "stop"
                assert chunks[-1].usage is not None
                text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
                return text, chunks[-1].usage.total_tokens

            first = await streamed()
            assert first[0].startswith("answer number 1")
            assert await streamed() == first
            whole = await ai.chat.completions.create(model="m", messages=hello)
            assert whole.choices[0].message.content == first[0]
            assert whole.usage is not None
            assert whole.usage.total_tokens == first[1]
            assert len(fake.seen) == 1
            for path in ("completions", "embeddings"):
                for _ in range(2):
                    if path == "completions":
                        await ai.completions.create(model="m", prompt="say")
                    else:
                        vectors = await ai.embeddings.create(
                            model="m", input=["a", "bc"], encoding_format="float"
                        )
                        assert [each.embedding[0] for each in vectors.data] == [1.0, 2.0]
            assert len(fake.seen) == 2

    run_async(body())


@pytest.mark.req("COG-3.4.2")
def test_an_outage_is_bridged_by_what_is_kept() -> None:
    async def body() -> None:
        async with provider(say=counted()) as fake, asking(entry(fake)) as ask:
            _, _, first = await ask.chat("one")
            fake.error_share = 1.0
            for _ in range(6):
                status, _, told = await ask.chat("two")
                assert status == 503, told
            seen = len(fake.seen)
            _, headers, again = await ask.chat("one")
            assert headers["Cache"] == "exact"
            assert again["choices"] == first["choices"]
            _, headers, again = await ask.chat("one", {"X-Seedbed-Cache": "exact"}, stream=False)
            assert headers["Cache"] == "exact"
            assert len(fake.seen) == seen

    run_async(body())


LOOSE: Json = {"semantic": "on", "provenFirst": False, "verify": 0, "acceptedWrongHits": 0.5}
QUESTION = "How do I reset the password of my account?"
SAME = "How can I reset my account's password?"
OTHER = "Which countries does the company deliver to?"


@pytest.mark.req("COG-5.1.1")
@pytest.mark.req("COG-5.1.2")
def test_a_similar_request_gets_the_answer_and_one_with_another_fact_does_not() -> None:
    """With the real embedding model. What is sure enough is the user's choice."""

    async def body() -> None:
        async with provider(say=counted()) as fake, asking(entry(fake), **LOOSE) as ask:
            assert await ask.tier(QUESTION) == "miss"
            _, headers, told = await ask.chat(SAME)
            assert headers["Cache"] == "semantic"
            assert float(headers["Cache-Similarity"]) > 0.9
            assert told["choices"][0]["message"]["content"].startswith("answer number 1")
            assert await ask.tier(OTHER) == "miss"
            assert await ask.tier(SAME, {"X-Seedbed-Cache": "exact"}) == "miss"
            assert await ask.tier(SAME) == "exact"
            assert await ask.tier("Show invoice 1041 of customer Miller") == "miss"
            assert await ask.tier("Show invoice 1042 of customer Miller") == "miss"
            system = [
                {"role": "system", "content": "Answer like a pirate."},
                {"role": "user", "content": SAME + "?"},
            ]
            assert await ask.tier("", messages=system) == "miss"
            assert await ask.tier(QUESTION + "!", {"X-Seedbed-Namespace": "other"}) == "miss"

    run_async(body())


@pytest.mark.req("COG-5.1.1")
@pytest.mark.req("COG-5.1.2")
def test_wrong_hits_are_measured_before_any_is_served() -> None:
    """While it is built, every hit that would have been is compared with what the model says."""

    def say(body: Json) -> str:
        text = body["messages"][-1]["content"]
        return "blue" if "wrong" in text else "green"

    async def body() -> None:
        build: Json = {"semantic": "build", "acceptedWrongHits": 0.5}
        async with provider(say=say) as fake, asking(entry(fake), **build) as ask:
            for text in (QUESTION, SAME, QUESTION + " That is wrong!"):
                assert await ask.tier(text) in ("miss", "withheld")
            assert len(fake.seen) == 3

            async def counted(outcome: str) -> float:
                async with ask.session.get("/metrics") as answer:
                    text = await answer.text()
                name = (
                    f'seedbed_model_cache_verified_total{{namespace="default",outcome="{outcome}"}}'
                )
                return next(
                    (float(x.split()[-1]) for x in text.splitlines() if x.startswith(name)), 0.0
                )

            while await counted("right") < 1:
                await asyncio.sleep(0.02)

    run_async(body())


@pytest.mark.req("COG-5.1.2")
def test_a_feature_flag_is_followed_as_it_changes() -> None:
    async def body() -> None:
        coordinator = MemoryCoordinator()
        async with flags_of(coordinator) as flagged:
            assert flagged("team", "cached-answers", "abc") is None
            for percentage in (100, 0):
                spec = orjson.dumps({"rolloutPercentage": percentage})
                await coordinator.put("flags/team/cached-answers", spec)
                while flagged("team", "cached-answers", "abc") is not (percentage == 100):
                    await asyncio.sleep(0.01)
            assert flagged("other", "cached-answers", "abc") is None

    run_async(body())


@pytest.mark.req("COG-5.1.2")
def test_what_is_kept_outlives_the_process_and_is_told_and_forgotten(store_url: str) -> None:
    async def body() -> None:
        store = SqlStore.open(store_url)
        await store.migrate()
        answers = await SqlAnswers.open(store)
        async with provider(say=counted()) as fake:
            async with asking(entry(fake), store=answers, **LOOSE) as ask:
                assert await ask.tier("one", {"X-Seedbed-Cache-Tags": "docs"}) == "miss"
                assert await ask.tier("one") == "exact"
                assert await ask.tier(QUESTION) == "miss"
            rows = await answers.newest("default", 10, float("inf"))
            assert [row.tags for row in rows] == [(), ("docs",)]
            assert rows[1].hits == 1
            assert rows[0].embedding
            async with asking(entry(fake), store=answers, **LOOSE) as ask:
                while await ask.tier("one") != "exact":
                    await asyncio.sleep(0.02)
                while await ask.tier(SAME, {"X-Seedbed-Cache": "no-store"}) != "semantic":
                    await asyncio.sleep(0.02)
            await pages_tell_and_forget(answers)
        await store.close()

    run_async(body())


class Noting(AllowAll):
    """Notes what is to be allowed."""

    def __init__(self) -> None:
        self.asked: list[Action] = []
        self.refuses = False

    async def require(self, caller: Caller, action: Action) -> None:
        if self.refuses:
            raise ForbiddenError(f"{caller.name} may not {action}")
        self.asked.append(action)


async def pages_tell_and_forget(answers: SqlAnswers) -> None:
    access = Noting()
    async with serving_pages(CachePages(answers, MemoryCoordinator()), access) as session:
        async with session.get("cache/stats?namespace=default") as answer:
            assert answer.status == 200
            told = await answer.json()
        assert told["exact_hits"] >= 2
        assert told["semantic_hits"] == 1
        assert told["lookups"] == told["exact_hits"] + told["semantic_hits"] + told["misses"]
        assert told["p95_seconds"]["hits"] < told["p95_seconds"]["misses"] * 100
        assert float(told["saved"]["dollars"]) > 0
        for wrong in ("days=0", "days=x"):
            async with session.get(f"cache/stats?{wrong}") as answer:
                assert answer.status == 400

        async def forget(status: int = 200, **chosen: str) -> Any:
            async with session.post("cache/invalidate", json=chosen) as answer:
                assert answer.status == status
                return await answer.json()

        await forget(400)
        await forget(400, namespace="default", colour="red")
        assert await forget(namespace="default", tag="docs") == {"forgotten": 1}
        assert await forget(namespace="other") == {"forgotten": 0}
        assert (await forget(namespace="default"))["forgotten"] >= 1
        assert set(access.asked) == {
            Action("list", "workflows", "default"),
            Action("list", "workflows", ""),
            Action("create", "workflows", "default"),
            Action("create", "workflows", "other"),
        }
        access.refuses = True
        await forget(403, namespace="default")
        async with session.get("cache/stats") as answer:
            assert answer.status == 403


@pytest.mark.req("COG-5.1.2")
def test_gateways_share_what_they_keep_and_hear_what_to_forget(postgres_url: str) -> None:
    async def body() -> None:
        store = SqlStore.open(postgres_url)
        await store.migrate()
        answers, coordinator = await SqlAnswers.open(store), MemoryCoordinator()
        shared: Json = {"store": answers, "coordinator": coordinator}
        async with (
            provider(say=counted()) as fake,
            asking(entry(fake), **shared, **LOOSE) as one,
            asking(entry(fake), **shared, **LOOSE) as other,
        ):
            no_store = {"X-Seedbed-Cache": "no-store"}
            await other.tier("warm", no_store)
            assert await one.tier("first", {"X-Seedbed-Cache-Tags": "docs"}) == "miss"
            assert await one.tier(QUESTION) == "miss"
            while await other.tier("first", no_store) != "exact":
                await asyncio.sleep(0.05)
            while await other.tier(SAME, no_store) != "semantic":
                await asyncio.sleep(0.05)
            await invalidate(answers, coordinator, Selection("default", tag="docs"))
            for each in (one, other):
                while await each.tier("first", no_store) != "miss":
                    await asyncio.sleep(0.05)
            assert await one.tier(QUESTION, no_store) == "exact"
        await store.close()

    run_async(body())


def test_a_store_that_is_away_makes_no_request_fail(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    async def body() -> None:
        store = SqlStore.open(postgres_url)
        await store.migrate()
        answers = await SqlAnswers.open(store)
        async with provider(say=counted()) as fake, asking(entry(fake), store=answers) as ask:
            assert await ask.tier("one") == "miss"
            postgres_server.kill()
            assert await ask.tier("one") == "exact"
            assert await ask.tier("two") == "miss"
            assert await ask.tier("two") == "exact"
        await store.close()

    run_async(body())


@pytest.mark.req("COG-5.1.2")
def test_the_command_line_tells_and_forgets(tmp_path: Path) -> None:
    async def asked(store: SqlStore) -> None:
        answers = await SqlAnswers.open(store)
        async with (
            provider(say=counted()) as fake,
            asking(entry(fake), store=answers) as ask,
        ):
            for text in ("one", "one", "two"):
                await ask.tier(text)

    here = [*filled_folder(tmp_path / "state", asked), "-n", "default"]
    run = CliRunner().invoke
    told = run(command_line, ["cache", "stats", *here])
    assert told.exit_code == 0, told.output
    assert "33.33%" in told.output
    told = run(command_line, ["cache", "stats", *here, "-o", "json"])
    found = orjson.loads(told.output)
    assert (found["lookups"], found["exact_hits"], found["misses"]) == (3, 1, 2)
    assert run(command_line, ["cache", "invalidate", *here]).exit_code == 2
    told = run(command_line, ["cache", "invalidate", *here, "--model", "none"])
    assert told.output == "0 forgotten\n"
    told = run(command_line, ["cache", "invalidate", *here, "--all"])
    assert told.output == "2 forgotten\n"


@pytest.mark.req("COG-3.4.2")
def test_a_budget_that_has_halted_still_gets_what_is_kept(tmp_path: Path) -> None:
    async def body() -> None:
        store = SqlStore.open(f"sqlite:///{tmp_path}/store.db")
        await store.migrate()
        async with provider(say=counted()) as fake:
            models = Models.model_validate(
                {
                    "models": [entry(fake, price={"prompt": "0", "completion": "10000"})],
                    "default": "m",
                    "cache": {"mode": "on"},
                    "budgets": {"*": {"limit": "0.16"}},
                }
            )
            gateway = Gateway(models)
            async with (
                funded(gateway, SqlLedger(store), MemoryCoordinator(), "one"),
                cached(gateway),
                serving(models, "127.0.0.1", 0, gateway=gateway) as port,
                aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
            ):
                ask = Asking(session, "")
                assert await ask.tier("one", max_tokens=12) == "miss"
                for text in ("two", "three", "four"):
                    status, headers, told = await ask.chat(text, max_tokens=12)
                    if status != 200:
                        break
                assert (status, told["error"]["code"]) == (402, "budget_exceeded")
                seen = len(fake.seen)
                status, headers, told = await ask.chat("one", max_tokens=12)
                assert (status, headers["Cache"], headers["Cost"]) == (200, "exact", "0.00")
                assert len(fake.seen) == seen
        await store.close()

    run_async(body())


def test_a_cascade_judges_and_escalates_what_is_kept_as_what_is_fresh() -> None:
    def say(body: Json) -> str:
        if "Judge the answer" in body["messages"][-1]["content"]:
            return "10"
        return f"{body['model']} says so"

    async def body() -> None:
        async with provider(say=say) as fake:
            small = entry(fake, "small", model="small", quality=0.5)
            big = entry(
                fake, "big", model="big", quality=0.9, price={"prompt": "9", "completion": "9"}
            )
            models = Models.model_validate(
                {
                    "models": [small, big],
                    "default": "big",
                    "cache": {"mode": "on"},
                    "routing": {"floor": 0, "explore": 0, "cascade": True},
                }
            )
            gateway = Gateway(models)
            async with (
                cached(gateway),
                serving(models, "127.0.0.1", 0, gateway=gateway) as port,
                aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
            ):
                ask = Asking(session, "")
                _, headers, first = await ask.chat("hard", model="auto")
                assert first["choices"][0]["message"]["content"] == "big says so"
                assert headers["Cache"] == "miss"
                seen = len(fake.seen)
                _, headers, again = await ask.chat("hard", model="auto")
                assert again["choices"] == first["choices"]
                assert (headers["Cache"], headers["Cache-Model"]) == ("exact", "big")
                assert len(fake.seen) == seen == 3

    run_async(body())


@pytest.mark.req("COG-5.1.2")
def test_the_service_keeps_answers_as_its_models_file_says(tmp_path: Path) -> None:
    async def body() -> None:
        store = SqlStore.open(f"sqlite:///{tmp_path}/store.db")
        await store.migrate()
        async with provider(say=counted()) as fake:
            file = tmp_path / "models.yaml"
            file.write_text(
                "default: m\ncache: {mode: on, semantic: off, ttlSeconds: 60}\n"
                f"models: [{{name: m, provider: openai, apiBase: '{fake.url}'}}]\n"
            )
            async with (
                serving_models(
                    load(file),
                    "127.0.0.1",
                    0,
                    replica=Replica("one", store, MemoryCoordinator()),
                ) as port,
                aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
            ):
                ask = Asking(session, "")
                assert [await ask.tier("one") for _ in range(2)] == ["miss", "exact"]
        (kept,) = await (await SqlAnswers.open(store)).newest("default", 9, float("inf"))
        assert kept.expires_at == kept.created_at + 60
        await store.close()

    run_async(body())
