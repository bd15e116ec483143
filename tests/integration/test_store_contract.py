"""What every Store promises, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg  # type: ignore[import-untyped]  # it ships no types
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, text

from seedbed.crds.errors import ConflictError, FencedError, InvalidError, UnavailableError
from seedbed.runtime.store import database
from seedbed.runtime.store.port import Commit, Entry, RunRow, Store, StoreRefusedError
from seedbed.runtime.store.schema import metadata
from seedbed.runtime.store.sql import _FENCE, SqlStore
from tests.conftest import run_async
from tests.servers import PostgresServer


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlStore]:
    store = SqlStore.open(url)
    try:
        await store.migrate()
        yield store
    finally:
        await store.close()


def row(run: str, partition: int = 0, workflow: str = "audit", *, finished: bool = False) -> RunRow:
    return RunRow(run, partition, "team", workflow, b'{"r":1}', b'{"s":0}', finished)


@pytest.mark.req("COG-S5.2")
def test_a_commit_is_read_back_as_written(store_url: str) -> None:
    async def body() -> None:
        async with opened(store_url) as store:
            typed: Store = store
            await typed.claim(3, 10)
            await typed.commit(
                3,
                10,
                Commit(
                    runs=[row("a", 3), row("b", 3, "other")],
                    entries=[Entry("a", 1, b"\x00one"), Entry("a", 2, b"two")],
                    summaries={"b": (b'{"s":9}', True)},
                    values={"d1": b"x" * 100_000, "d0": b""},
                    snapshots=[Entry("a", 1, b"state")],
                ),
            )
            assert await store.run("a") == row("a", 3)
            assert (await store.run("b")).summary == b'{"s":9}'  # type: ignore[union-attr]  # it is there
            assert await store.run("c") is None
            assert [found.run for found in await store.named(["a", "c"])] == ["a"]
            assert await store.named([]) == []
            names = [f"run-{n}" for n in range(1200)]
            assert [found.run for found in await store.named(["a", *names])] == ["a"]
            assert await store.unfinished(3) == [row("a", 3)]
            assert await store.unfinished(4) == []
            assert [found.run for found in await store.runs("team")] == ["b", "a"]
            assert [found.run for found in await store.runs("team", "audit")] == ["a"]
            assert await store.runs("elsewhere") == []
            assert await store.ended("team", "other", 3) == ["b"]
            assert await store.ended("team", "audit", 3) == []
            assert await store.journal("a") == [Entry("a", 1, b"\x00one"), Entry("a", 2, b"two")]
            assert await store.journal("a", after=1) == [Entry("a", 2, b"two")]
            assert await store.snapshot("a") == Entry("a", 1, b"state")
            assert await store.snapshot("b") is None
            assert (await store.last("a"), await store.last("b")) == (2, 0)
            assert await store.value("d1") == b"x" * 100_000
            assert await store.value("d0") == b""
            assert await store.value("d2") is None

    run_async(body())


def test_what_exists_is_left_as_it_is_and_newer_snapshots_win(store_url: str) -> None:
    async def body() -> None:
        async with opened(store_url) as store:
            await store.claim(0, 1)
            await store.commit(
                0, 1, Commit(runs=[row("a")], values={"d": b"1"}, snapshots=[Entry("a", 5, b"5")])
            )
            changed = RunRow("a", 7, "else", "else", b"", b"", finished=True)
            await store.commit(
                0,
                1,
                Commit(
                    runs=[changed, row("b")], values={"d": b"2"}, snapshots=[Entry("a", 4, b"4")]
                ),
            )
            assert await store.run("a") == row("a")
            assert await store.run("b") == row("b")
            assert await store.value("d") == b"1"
            assert await store.snapshot("a") == Entry("a", 5, b"5")
            await store.commit(0, 1, Commit(snapshots=[Entry("a", 6, b"6")]))
            assert await store.snapshot("a") == Entry("a", 6, b"6")

    run_async(body())


def test_a_taken_position_is_a_conflict_and_writes_nothing(store_url: str) -> None:
    async def body() -> None:
        async with opened(store_url) as store:
            await store.claim(0, 1)
            await store.commit(0, 1, Commit(runs=[row("a")], entries=[Entry("a", 1, b"first")]))
            group = Commit(runs=[row("b")], entries=[Entry("a", 2, b"x"), Entry("a", 1, b"again")])
            with pytest.raises(ConflictError):
                await store.commit(0, 1, group)
            assert await store.run("b") is None
            assert await store.journal("a") == [Entry("a", 1, b"first")]

    run_async(body())


def test_a_smaller_token_is_refused_and_writes_nothing(store_url: str) -> None:
    async def body() -> None:
        async with opened(store_url) as store:
            await store.claim(2, 5)
            await store.claim(2, 5)
            await store.claim(2, 8)
            with pytest.raises(FencedError) as claim:
                await store.claim(2, 7)
            with pytest.raises(FencedError) as commit:
                await store.commit(2, 5, Commit(runs=[row("a", 2)]))
            for refusal in (claim.value, commit.value):
                assert (refusal.what, refusal.newest) == ("partition/2", 8)
            assert await store.run("a") is None
            await store.commit(2, 8, Commit(runs=[row("a", 2)]))

    run_async(body())


def test_a_partition_that_nobody_claimed_cannot_be_written(store_url: str) -> None:
    async def body() -> None:
        async with opened(store_url) as store:
            with pytest.raises(FencedError) as refusal:
                await store.commit(9, 1, Commit(runs=[row("a", 9)]))
            assert refusal.value.newest is None

    run_async(body())


def test_claims_and_commits_at_once_never_mix_owners(store_url: str) -> None:
    """Owners with growing tokens write at the same time: what is written never goes back to an older one."""

    async def owner(store: SqlStore, token: int) -> None:
        try:
            await store.claim(0, token)
            for _ in range(10):
                entries = await store.journal("a")
                await store.commit(
                    0, token, Commit(entries=[Entry("a", len(entries) + 1, str(token).encode())])
                )
        except (FencedError, ConflictError):
            return

    async def body() -> None:
        async with opened(store_url) as store:
            await asyncio.gather(*(owner(store, token) for token in range(1, 6)))
            entries = await store.journal("a")
            assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))
            owners = [int(entry.records) for entry in entries]
            assert owners == sorted(owners)
            assert owners[-1] == 5

    run_async(body())


def test_a_deleted_run_is_forgotten_with_its_journal(store_url: str) -> None:
    async def body() -> None:
        async with opened(store_url) as store:
            await store.claim(0, 1)
            await store.commit(
                0,
                1,
                Commit(
                    runs=[row("a"), row("b")],
                    entries=[Entry("a", 1, b"x"), Entry("b", 1, b"y")],
                    snapshots=[Entry("a", 1, b"s")],
                ),
            )
            await store.delete_run("a")
            await store.delete_run("a")
            assert await store.run("a") is None
            assert await store.journal("a") == []
            assert await store.snapshot("a") is None
            assert await store.journal("b") == [Entry("b", 1, b"y")]

    run_async(body())


def test_listing_ends_at_a_thousand(store_url: str) -> None:
    async def body() -> None:
        async with opened(store_url) as store:
            await store.claim(0, 1)
            await store.commit(0, 1, Commit(runs=[row(f"r{i}") for i in range(1005)]))
            found = await store.runs("team")
            assert len(found) == 1000
            assert found[0].run == "r1004"
            assert len(await store.unfinished(0)) == 1005

    run_async(body())


MIGRATE = """
import asyncio, sys
from seedbed.runtime.store.sql import SqlStore
async def main():
    store = SqlStore.open(sys.argv[1])
    await store.migrate()
    await store.claim(int(sys.argv[2]), 1)
    await store.close()
asyncio.run(main())
"""


def test_several_processes_migrate_at_once(store_url: str) -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", MIGRATE, store_url, str(i)], stderr=subprocess.PIPE)
        for i in range(4)
    ]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors.decode()

    async def body() -> None:
        async with opened(store_url) as store:
            for i in range(4):
                await store.claim(i, 1)

    run_async(body())


def test_the_revisions_make_exactly_the_schema(store_url: str) -> None:
    def compare(connection: Connection) -> list:
        # An index on vectors is made only where the server knows them.
        opts = {
            "compare_type": True,
            "include_object": lambda _, name, *__: name != "cached_answers_by_embedding",
        }
        context = MigrationContext.configure(connection, opts=opts)
        return list(compare_metadata(context, metadata))

    async def body() -> None:
        async with opened(store_url) as store, store._engine.connect() as connection:
            assert await connection.run_sync(compare) == []

    run_async(body())


SOUGHT = {
    "batches_by_input_file": "SELECT id FROM batches WHERE input_file = 'x'",
    "batch_files_by_batch": "SELECT id FROM batch_files WHERE batch = '' AND created_at < 1",
    "advances_by_holder": "DELETE FROM advances WHERE holder = 'x'",
    "cached_answers_by_hash": ("SELECT id FROM cached_answers WHERE prompt_hash IN ('x', 'y')"),
    "batches_by_status": "SELECT id FROM batches WHERE status IN ('validating', 'in_progress')",
    "ledger_by_namespace": "SELECT sum(nanos) FROM ledger WHERE namespace = 'x' AND at > 1",
}


@pytest.mark.parametrize("index", SOUGHT)
def test_what_is_looked_for_has_an_index(postgres_url: str, index: str) -> None:
    async def body() -> None:
        async with opened(postgres_url) as store, store.transaction() as connection:
            await connection.execute(text("SET LOCAL enable_seqscan = off"))
            lines = await connection.execute(text(f"EXPLAIN {SOUGHT[index]}"))
            assert any(index in line for (line,) in lines)

    run_async(body())


def test_a_revision_may_take_longer_than_other_work(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "COMMAND_SECONDS", 0.2)

    async def body() -> None:
        engine = database.connect(postgres_url, 1)
        store = SqlStore.open(postgres_url)
        async with engine.begin() as other:
            # As another replica does that is at it.
            await other.execute(text("SELECT pg_advisory_xact_lock(7362541902)"))
            migrating = asyncio.create_task(store.migrate())
            for _ in range(4):
                await other.execute(text("SELECT pg_sleep(0.1)"))
        await migrating
        await store.close()
        await engine.dispose()

    run_async(body())


# A process that owns partition 0 with token 1 and commits without end.
OWNER = textwrap.dedent("""
    import asyncio, sys
    from seedbed.crds.errors import FencedError
    from seedbed.runtime.store.port import Commit, Entry
    from seedbed.runtime.store.sql import SqlStore
    async def main():
        store = SqlStore.open(sys.argv[1])
        await store.claim(0, 1)
        seq = 0
        while True:
            seq += 1
            try:
                await store.commit(0, 1, Commit(entries=[Entry("old", seq, b"x")]))
            except FencedError as error:
                print("fenced", error.mine, error.newest, flush=True)
                return
            print("wrote", seq, flush=True)
            await asyncio.sleep(0.05)
    asyncio.run(main())
""")


def test_a_paused_owner_cannot_write_once_the_partition_is_claimed(store_url: str) -> None:
    async def take_over() -> int:
        async with opened(store_url) as store:
            # The pause may hit it inside a transaction: the database ends that one first.
            deadline = time.monotonic() + 30
            while True:
                try:
                    await store.claim(0, 2)
                    break
                except UnavailableError:
                    assert time.monotonic() < deadline
            await store.commit(0, 2, Commit(entries=[Entry("new", 1, b"y")]))
            return len(await store.journal("old"))

    async def count() -> int:
        async with opened(store_url) as store:
            return len(await store.journal("old"))

    run_async(count())
    argv = [sys.executable, "-c", OWNER, store_url]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            for expected in range(1, 4):
                assert owner.stdout.readline() == f"wrote {expected}\n"
            os.kill(owner.pid, signal.SIGSTOP)
            before = run_async(take_over())
            os.kill(owner.pid, signal.SIGCONT)
            said = owner.stdout.read().splitlines()
            assert said[-1] == "fenced 1 2"
            assert run_async(count()) == before
        finally:
            owner.kill()


@pytest.mark.req("COG-S5.2")
@pytest.mark.parametrize("how", ["stop", "kill"])
def test_a_restart_of_postgresql_is_survived(
    postgres_server: PostgresServer, postgres_url: str, how: str
) -> None:
    async def body() -> None:
        async with opened(postgres_url) as store:
            await store.claim(0, 1)
            await store.commit(0, 1, Commit(runs=[row("a")], entries=[Entry("a", 1, b"x")]))
            # Several connections are open, none may be used again.
            await asyncio.gather(*(store.run("a") for _ in range(8)))
            await asyncio.to_thread(getattr(postgres_server, how))
            with pytest.raises(UnavailableError):
                await store.commit(0, 1, Commit(entries=[Entry("a", 2, b"lost")]))
            with pytest.raises(UnavailableError):
                await store.run("a")
            await asyncio.to_thread(postgres_server.start)
            await store.commit(0, 1, Commit(entries=[Entry("a", 2, b"y")]))
            assert await store.journal("a") == [Entry("a", 1, b"x"), Entry("a", 2, b"y")]
            # A restart that nothing was asked in between costs nobody an error.
            await asyncio.gather(*(store.run("a") for _ in range(8)))
            await asyncio.to_thread(getattr(postgres_server, how))
            await asyncio.to_thread(postgres_server.start)
            await asyncio.gather(*(store.run("a") for _ in range(8)))
            await store.commit(0, 1, Commit(entries=[Entry("a", 3, b"z")]))

    run_async(body())


def test_connections_to_a_server_that_leads_no_more_are_left(postgres_url: str) -> None:
    """After a failover the former leader takes no writes, and its connections stand."""

    async def body() -> None:
        admin = await asyncpg.connect(postgres_url)
        name = await admin.fetchval("SELECT current_database()")
        async with opened(postgres_url) as store:
            await admin.execute(f'ALTER DATABASE "{name}" SET default_transaction_read_only = on')
            await asyncio.gather(*(store.run("a") for _ in range(8)))
            with pytest.raises(UnavailableError, match="read-only"):
                await store.claim(0, 1)
            await admin.execute("SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE")
            await admin.execute(f'ALTER DATABASE "{name}" RESET default_transaction_read_only')
            await asyncio.gather(*(store.claim(partition, 1) for partition in range(8)))
        await admin.close()

    run_async(body())


def test_a_schema_of_a_newer_version_is_refused_and_left_as_it_is(store_url: str) -> None:
    async def body() -> None:
        async with opened(store_url) as store:
            async with store.transaction() as connection:
                await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
            with pytest.raises(StoreRefusedError, match=r"newer version.*9999"):
                await store.migrate()
            await store.claim(0, 1)

    run_async(body())


def test_a_commit_cut_off_by_a_crash_is_unavailable_and_whole(
    postgres_server: PostgresServer, postgres_url: str
) -> None:
    """A crash while commits run: each group is there in full or not at all."""

    async def writer(store: SqlStore, partition: int) -> None:
        await store.claim(partition, 1)
        for group in range(10_000):
            entries = [Entry(f"r{partition}", group * 5 + i, b"x") for i in range(1, 6)]
            await store.commit(partition, 1, Commit(entries=entries))

    async def body() -> None:
        async with opened(postgres_url) as store:
            writers = [asyncio.create_task(writer(store, p)) for p in range(4)]
            while len(await store.journal("r0")) < 50:
                assert not any(task.done() for task in writers)
            await asyncio.to_thread(postgres_server.kill)
            results = await asyncio.gather(*writers, return_exceptions=True)
            assert {type(result) for result in results} == {UnavailableError}
            await asyncio.to_thread(postgres_server.start)
            for partition in range(4):
                entries = await store.journal(f"r{partition}")
                assert len(entries) % 5 == 0
                assert [entry.seq for entry in entries] == list(range(1, len(entries) + 1))

    run_async(body())


def test_a_transaction_left_open_does_not_hold_the_partition_for_ever(postgres_url: str) -> None:
    """An owner paused in the middle of a commit holds the row lock: PostgreSQL takes it away."""

    async def body() -> None:
        async with opened(postgres_url) as store, opened(postgres_url) as paused:
            await paused.claim(0, 1)
            async with asyncio.timeout(30):
                connection = await paused._engine.connect()
                await connection.execute(_FENCE, {"of": 0, "mine": 1})
                await store.claim(0, 2)
                await connection.invalidate()
                await connection.close()
            with pytest.raises(FencedError):
                await paused.commit(0, 1, Commit())

    run_async(body())


def test_a_wrong_url_names_what_was_expected() -> None:
    for url in ("mysql://x/y", "sqlite://", "nonsense"):
        with pytest.raises(InvalidError, match="sqlite:///PATH"):
            SqlStore.open(url)


# What a run's history may look like: groups of entries, summaries and snapshots over three runs.
GROUPS = st.lists(
    st.fixed_dictionaries(
        {
            "appends": st.lists(
                st.tuples(st.sampled_from("abc"), st.binary(max_size=200)), max_size=8
            ),
            "summaries": st.dictionaries(
                st.sampled_from("abc"), st.tuples(st.binary(max_size=50), st.booleans())
            ),
            "values": st.dictionaries(st.sampled_from("xyz"), st.binary(max_size=300)),
            "snapshot": st.sampled_from(["", "a", "b", "c"]),
        }
    ),
    max_size=6,
)


@given(groups=GROUPS)
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_random_commits_are_read_back_as_written(store_url: str, groups: list[dict]) -> None:
    async def body() -> None:
        async with opened(store_url) as store:
            for run in "abc":
                await store.delete_run(run)
            for digest in "xyz":
                # Values stay for ever, so what is there already is part of the expectation.
                found = await store.value(digest)
                if found is not None:
                    values[digest] = found
            await store.claim(1, 1)
            await store.commit(1, 1, Commit(runs=[row(run, 1) for run in "abc"]))
            for group in groups:
                await store.commit(1, 1, apply(group))
            for run in "abc":
                assert [entry.records for entry in await store.journal(run)] == journals[run]
                found_run = await store.run(run)
                assert found_run is not None
                assert (found_run.summary, found_run.finished) == summaries[run]
                assert await store.snapshot(run) == snapshots.get(run)
            open_runs = [found.run for found in await store.unfinished(1)]
            assert open_runs == [run for run in "abc" if not summaries[run][1]]
            for digest, data in values.items():
                assert await store.value(digest) == data

    journals: dict[str, list[bytes]] = {run: [] for run in "abc"}
    summaries: dict[str, tuple[bytes, bool]] = dict.fromkeys("abc", (b'{"s":0}', False))
    snapshots: dict[str, Entry] = {}
    values: dict[str, bytes] = {}

    def apply(group: dict) -> Commit:
        entries = []
        for run, records in group["appends"]:
            journals[run].append(records)
            entries.append(Entry(run, len(journals[run]), records))
        summaries.update(group["summaries"])
        for digest, data in group["values"].items():
            values.setdefault(digest, data)
        taken = []
        run = group["snapshot"]
        if run and (run not in snapshots or snapshots[run].seq < len(journals[run])):
            snapshots[run] = Entry(run, len(journals[run]), b"state")
            taken = [snapshots[run]]
        return Commit((), entries, group["summaries"], group["values"], taken)

    run_async(body())
