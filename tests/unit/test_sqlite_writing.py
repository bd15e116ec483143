"""Group commits on SQLite: on disk when they return, and none takes another one with it."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from seedbed.crds.errors import ConflictError, FencedError, UnavailableError
from seedbed.runtime.store import database, sqlite_writing
from seedbed.runtime.store.database import connect_sqlite
from seedbed.runtime.store.port import Commit, Entry
from seedbed.runtime.store.sql import SqlStore
from tests.conftest import run_async


@asynccontextmanager
async def a_store(folder: Path) -> AsyncIterator[SqlStore]:
    store = SqlStore.open(f"sqlite:///{folder / 'store'}")
    await store.migrate()
    try:
        yield store
    finally:
        await store.close()


def entry(run: str, seq: int = 1) -> Commit:
    return Commit(entries=[Entry(run, seq, b"records")])


def test_every_commit_is_synced_to_disk(tmp_path: Path) -> None:
    connection = connect_sqlite(str(tmp_path / "store"))
    try:
        # 2 is FULL: the write-ahead log is synced at each commit.
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    finally:
        connection.close()


def test_commits_go_through_a_connection_that_syncs(tmp_path: Path) -> None:
    async def body() -> None:
        async with a_store(tmp_path) as store:
            await store.claim(1, 10)
            await store.commit(1, 10, entry("a"))
            assert store._commits is not None
            connection = store._commits._connection
            assert connection is not None
            assert connection.execute("PRAGMA synchronous").fetchone() == (2,)

    run_async(body())


def test_commits_of_partitions_side_by_side_are_each_all_or_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        async with a_store(tmp_path) as store:
            for partition in range(16):
                await store.claim(partition, 10)
            await store.commit(0, 10, entry("taken"))
            good = [store.commit(n, 10, entry(f"run-{n}")) for n in range(16)]
            fenced = [store.commit(n, 9, entry(f"late-{n}")) for n in range(4)]
            both = Commit(entries=[Entry("half", 1, b"x"), Entry("taken", 1, b"again")])
            results = await asyncio.gather(
                *good, *fenced, store.commit(3, 10, both), return_exceptions=True
            )
            assert results[:16] == [None] * 16
            assert all(isinstance(one, FencedError) and one.newest == 10 for one in results[16:20])
            assert isinstance(results[20], ConflictError)
            for n in range(16):
                assert [one.seq for one in await store.journal(f"run-{n}")] == [1]
                assert await store.journal(f"late-{n}") == []
            assert await store.journal("half") == []

    run_async(body())


def test_a_commit_that_is_given_up_disturbs_no_other(tmp_path: Path) -> None:
    async def body() -> None:
        async with a_store(tmp_path) as store:
            await store.claim(1, 10)
            first = [asyncio.create_task(store.commit(1, 10, entry(f"a{n}"))) for n in range(8)]
            await asyncio.sleep(0)
            for task in first[::2]:
                task.cancel()
            await asyncio.gather(*first, return_exceptions=True)
            await store.commit(1, 10, entry("after"))
            for name in ("a1", "a3", "a5", "a7", "after"):
                assert len(await store.journal(name)) == 1

    run_async(body())


def test_a_database_that_somebody_else_holds_is_unavailable_and_usable_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "STATEMENT_SECONDS", 0.05)

    async def body() -> None:
        async with a_store(tmp_path) as store:
            await store.claim(1, 10)
            other = sqlite3.connect(tmp_path / "store", isolation_level=None)
            try:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(UnavailableError):
                    await store.commit(1, 10, entry("a"))
                other.execute("ROLLBACK")
            finally:
                other.close()
            await store.commit(1, 10, entry("a"))
            assert len(await store.journal("a")) == 1

    run_async(body())


def test_a_small_commit_alone_on_a_fast_disk_wakes_no_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with a_store(tmp_path) as store:
            for partition in range(1, 5):
                await store.claim(partition, 10)
            await store.commit(1, 10, entry("first"))
            writer = store._commits
            assert writer is not None
            threads: list[str] = []
            transaction = sqlite_writing._transaction

            def watched(connection: sqlite3.Connection, jobs: Sequence[object]) -> None:
                threads.append(threading.current_thread().name)
                transaction(connection, jobs)  # type: ignore[arg-type]  # as it was given

            monkeypatch.setattr(sqlite_writing, "_transaction", watched)
            writer._usual = 0.0
            await store.commit(1, 10, entry("alone"))
            writer._usual = 0.0
            await store.commit(2, 10, entry("another"))
            writer._usual = 0.0
            await store.commit(2, 10, entry("again"))
            here = threading.current_thread().name
            assert threads == [here, "seedbed-sqlite", here]
            writer._usual = 0.0
            some = [store.commit(n, 10, entry(f"many-{n}")) for n in (1, 2, 3, 4)]
            await asyncio.gather(*some)
            big = Commit(entries=[Entry("big", 1, b"x" * sqlite_writing.SMALL_BYTES)])
            writer._usual = 0.0
            await store.commit(1, 10, big)
            writer._usual = 1.0
            await store.commit(1, 10, entry("slow"))
            assert set(threads[3:]) == {"seedbed-sqlite"}
            assert len(threads) == 6
            for name in ("alone", "another", "again", "many-1", "many-4", "big", "slow"):
                assert len(await store.journal(name)) == 1

    run_async(body())


def test_where_another_process_writes_the_loop_does_not_wait_for_it(tmp_path: Path) -> None:
    async def body() -> None:
        async with a_store(tmp_path) as store:
            await store.claim(1, 10)
            await store.commit(1, 10, entry("first"))
            assert store._commits is not None
            store._commits._usual = 0.0
            other = sqlite3.connect(tmp_path / "store", isolation_level=None)
            try:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(UnavailableError):
                    await store.commit(1, 10, entry("a"))
                assert store._commits._usual > sqlite_writing.SWIFT_SECONDS
                waiting = asyncio.create_task(store.commit(1, 10, entry("a")))
                await asyncio.sleep(0)
                other.execute("ROLLBACK")
                await waiting
            finally:
                other.close()
            assert len(await store.journal("a")) == 1

    run_async(body())
