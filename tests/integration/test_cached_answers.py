"""What every store of cached answers promises, on SQLite, on PostgreSQL with pgvector and without."""

from __future__ import annotations

import logging
import math
from array import array
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seedbed.runtime.store.answers import AnswerRow, AnswerStore, Selection, SqlAnswers
from seedbed.runtime.store.sql import SqlStore
from tests.conftest import run_async
from tests.servers import PostgresServer

FOREVER = math.inf


@pytest.fixture(params=["sqlite", "postgresql", "bytes"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/store.db"
    found: str = request.getfixturevalue("postgres_url")
    if request.param == "postgresql":
        return found
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return without_vectors(server, found)


def without_vectors(server: PostgresServer, url: str) -> str:
    """The database for a user who may make tables and no extensions."""
    database = url.rpartition("/")[2].partition("?")[0]
    if server.sql("SELECT 1 FROM pg_roles WHERE rolname = 'plain'") != "1":
        server.sql("CREATE ROLE plain LOGIN")
    server.sql("GRANT ALL ON SCHEMA public TO plain", database)
    return url.replace("postgres@", "plain@")


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlAnswers]:
    store = SqlStore.open(url)
    try:
        await store.migrate()
        yield await SqlAnswers.open(store)
    finally:
        await store.close()


def vector(*first: float) -> bytes:
    return array("f", [*first, *[0.0] * (384 - len(first))]).tobytes()


def row(name: str, **values: Any) -> AnswerRow:
    fields: dict[str, Any] = {
        "id": f"id-{name}",
        "namespace": "team",
        "model": "m",
        "prompt_hash": name.rjust(64, "0"),
        "scope": "s",
        "text": f"what is {name}?",
        "answer": b'{"choices": []}',
        "nanos": 7,
        "prompt_tokens": 2,
        "completion_tokens": 3,
        "created_at": 100.0,
        "expires_at": 200.0,
    }
    return AnswerRow(**(fields | values))


async def there(store: AnswerStore, namespace: str = "team") -> list[str]:
    return [one.id for one in await store.newest(namespace, 100, FOREVER)]


@pytest.mark.req("COG-5.1.1")
def test_what_is_put_is_found_whole(url: str) -> None:
    async def body() -> None:
        async with opened(url) as store:
            whole = row(
                "a",
                tags=("one", "two"),
                embedding=vector(0.5, -0.25),
                packed=b"\x00p",
                learnt=b"[]",
                hits=2,
            )
            await store.put([whole, row("b")])
            assert await store.find([whole.key]) == [whole]
            assert len(whole.prompt_hash) == 64
            assert await store.find([]) == []
            assert await store.find([("other", "m", whole.prompt_hash)]) == []
            assert await store.find([("team", "n", whole.prompt_hash)]) == []
            await store.used({"id-a": 3, "id-none": 1})
            await store.learnt({"id-a": b"[[1.0, 0.0]]"})
            (again,) = await store.find([whole.key])
            assert again == replace(whole, hits=5, learnt=b"[[1.0, 0.0]]")

    run_async(body())


def test_the_newer_of_two_answers_stays(url: str) -> None:
    async def body() -> None:
        async with opened(url) as store:
            first, later = row("a"), row("a", id="later", created_at=150.0, answer=b"{}")
            await store.put([later, first])
            await store.put([first])
            assert await store.find([first.key]) == [later]

    run_async(body())


def test_the_newest_come_first_page_by_page_and_namespaces_stay_apart(url: str) -> None:
    async def body() -> None:
        async with opened(url) as store:
            await store.put([row(str(n), created_at=float(n)) for n in range(5)])
            await store.put([row("x", namespace="other", id="x")])
            page = await store.newest("team", 2, FOREVER)
            assert [one.id for one in page] == ["id-4", "id-3"]
            page = await store.newest("team", 9, page[-1].created_at)
            assert [one.id for one in page] == ["id-2", "id-1", "id-0"]
            assert await there(store, "other") == ["x"]

    run_async(body())


@pytest.mark.req("COG-5.1.1")
def test_the_closest_by_cosine_come_first_within_their_scope(url: str) -> None:
    async def body() -> None:
        async with opened(url) as store:
            await store.put(
                [
                    row("near", embedding=vector(1.0, 0.1)),
                    row("far", embedding=vector(0.0, 1.0)),
                    row("between", embedding=vector(3.0, 3.0)),
                    row("other", scope="t", embedding=vector(1.0)),
                    row("elsewhere", namespace="other", embedding=vector(1.0)),
                    row("none"),
                ]
            )
            found = await store.nearest("team", "s", vector(2.0), 2)
            told = ["id-near", "id-between"] if store.vectors else []
            assert [one.id for one in found] == told

    run_async(body())


@pytest.mark.req("COG-5.1.1")
def test_postgresql_has_a_cosine_index_on_vectors(
    postgres_url: str, postgres_server: PostgresServer
) -> None:
    async def body() -> None:
        async with opened(postgres_url) as store:
            assert store.vectors
            assert store.shared

    run_async(body())
    database = postgres_url.rpartition("/")[2].partition("?")[0]
    index = postgres_server.sql(
        "SELECT indexdef FROM pg_indexes WHERE indexname = 'cached_answers_by_embedding'", database
    )
    assert "hnsw (embedding vector_cosine_ops)" in index


def test_without_the_extension_it_says_so_and_goes_on(
    postgres_url: str, postgres_server: PostgresServer, caplog: pytest.LogCaptureFixture
) -> None:
    plain = without_vectors(postgres_server, postgres_url)

    async def body() -> None:
        with caplog.at_level(logging.WARNING):
            async with opened(plain) as store:
                assert not store.vectors
                await store.put([row("a", embedding=vector(1.0))])
                assert (await store.find([row("a").key]))[0].embedding == vector(1.0)

    run_async(body())
    assert "extension `vector` cannot be used" in caplog.text


@pytest.mark.req("COG-5.1.2")
def test_answers_are_forgotten_by_tag_by_model_by_age_or_all(url: str) -> None:
    async def body() -> None:
        async with opened(url) as store:
            rows = [
                row("a", tags=("docs", "a_b")),
                row("b", tags=("docs-2", "axb")),
                row("c", model="n", created_at=120.0),
                row("d", namespace="other", id="d", tags=("docs",)),
            ]
            await store.put(rows)
            assert await store.remove(Selection("team", tag="doc")) == 0
            assert await store.remove(Selection("team", tag="a_b")) == 1
            assert await store.remove(Selection("team", tag="docs-2", model="n")) == 0
            assert await store.remove(Selection("team", model="n", before=119.0)) == 0
            assert await store.remove(Selection("team", model="n")) == 1
            assert await there(store) == ["id-b"]
            assert await store.remove(Selection("team")) == 1
            assert await there(store, "other") == ["d"]

    run_async(body())


def test_what_ran_out_and_what_is_too_much_goes(url: str) -> None:
    async def body() -> None:
        async with opened(url) as store:
            await store.put([row(str(n), created_at=float(n)) for n in range(5)])
            await store.put([row("old", expires_at=50.0)])
            assert await store.trim(60.0, 3) == 3
            assert await there(store) == ["id-4", "id-3", "id-2"]
            assert await store.trim(60.0, 3) == 0

    run_async(body())


def test_counts_add_up_over_gateways_and_days(url: str) -> None:
    async def body() -> None:
        async with opened(url) as store:
            await store.count("2026-11-20", {("team", "exact"): 2, ("other", "exact"): 5})
            for _ in range(2):
                await store.count("2026-11-21", {("team", "exact"): 1, ("team", "miss"): 1.5})
            await store.count("2026-11-21", {})
            assert await store.counts("team") == {"exact": 4, "miss": 3}
            assert await store.counts("team", "2026-11-21") == {"exact": 2, "miss": 3}
            assert await store.counts() == {"exact": 9, "miss": 3}

    run_async(body())
