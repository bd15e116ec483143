"""The vault on both stores: deltas, damage, rotation, retention, fencing, archive."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from seedbed.crds.errors import ConflictError, FencedError, NotFoundError
from seedbed.runtime.store.checkpoints import SqlCheckpoints
from seedbed.runtime.store.port import Commit, RunRow
from seedbed.runtime.store.schema import checkpoints
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.workflow.checkpoint.archive import Archive
from seedbed.runtime.workflow.checkpoint.content import Captured, capture, to_bytes
from seedbed.runtime.workflow.checkpoint.keys import DamagedError, KeyLostError, KeyRing, new_line
from seedbed.runtime.workflow.checkpoint.vault import FULL_EVERY, Owner, Vault
from seedbed.runtime.workflow.record_form import decode_records
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.summary import summarise
from tests.conftest import run_async
from tests.runs import Clockwork, a_world, call, request

OWNER = Owner(partition=3, token=7)
WEEK = 7 * 86400.0


class Place:
    """A vault, and a run whose state grows."""

    def __init__(self, folder: Path, store: SqlStore, archive: Archive | None) -> None:
        self.store = store
        self.rows = SqlCheckpoints(store)
        self.archive = archive
        self.ring = folder / "keys"
        self.vault = Vault(self.rows, KeyRing.at(self.ring), archive)
        plan = request(call("each", forEach="lists.range(60)", args={"n": "${item}"}))
        world = a_world()
        self.clockwork = Clockwork(
            RunState(plan, world.hands), world, lambda task: {**task.inputs, "text": "x" * 50}
        )

    def grow(self, steps: int = 3) -> Captured:
        """The run goes on a little."""
        for _ in range(steps):
            self.clockwork.turn()
        return capture(self.clockwork.state)

    async def keep(self, captured: Captured, *, retention: float = WEEK, most: int = 1000) -> int:
        row = await self.vault.keep(captured, OWNER, cause="demand", retention=retention, most=most)
        return row.number

    async def holds(self, number: int, captured: Captured) -> None:
        """The checkpoint leads to the state that was captured."""
        content = await self.vault.load("run-1", number)
        assert content.request == captured.request
        state = RunState(content.request)
        for record in decode_records(content.records):
            state.apply(record)
        fresh = RunState(captured.request)
        for record in captured.records:
            fresh.apply(record)
        assert summarise(state) == summarise(fresh)
        assert [unit.output for unit in state.steps["each"].units] == [
            unit.output for unit in fresh.steps["each"].units
        ]

    async def harm(self, number: int, data: bytes) -> None:
        """Somebody writes into the database."""
        statement = (
            update(checkpoints)
            .where(checkpoints.c.run == "run-1", checkpoints.c.number == number)
            .values(data=data)
        )
        async with self.store.fenced(OWNER.partition, OWNER.token) as connection:
            await connection.execute(statement)


@asynccontextmanager
async def opened(folder: Path, url: str, archive: str = "") -> AsyncIterator[Place]:
    store = SqlStore.open(url)
    try:
        await store.migrate()
        await store.claim(OWNER.partition, OWNER.token)
        run = RunRow("run-1", OWNER.partition, "team", "plan", b"{}", b"{}", finished=False)
        await store.commit(OWNER.partition, OWNER.token, Commit(runs=[run]))
        yield Place(folder, store, Archive(archive) if archive else None)
    finally:
        await store.close()


@pytest.mark.req("COG-3.1.3")
def test_each_is_a_delta_of_the_one_before_and_now_and_then_one_stands_alone(
    tmp_path: Path, store_url: str
) -> None:
    async def body() -> None:
        async with opened(tmp_path, store_url) as place:
            captured = [place.grow() for _ in range(FULL_EVERY + 2)]
            for one in captured:
                await place.keep(one)
            rows = await place.vault.of_run("run-1")
            bases = [row.base for row in rows]
            assert bases == [0, *range(1, FULL_EVERY), 0, FULL_EVERY + 1]
            for number, one in enumerate(captured, start=1):
                await place.holds(number, one)
            for row, one in zip(rows, captured, strict=True):
                assert row.content_bytes == len(to_bytes(one))
                assert row.compression_ratio == row.content_bytes / row.size_bytes
                assert row.id != rows[row.number - 2].id
                data = await place.rows.data("run-1", row.number)
                assert data is not None
                assert len(data) == row.size_bytes
                assert b"each" not in data
            assert rows[-1].size_bytes < rows[FULL_EVERY].size_bytes
            with pytest.raises(NotFoundError):
                await place.vault.load("run-1", 99)

    run_async(body())


def test_a_damaged_one_is_told_leaves_the_older_ones_and_is_built_on_no_more(
    tmp_path: Path, store_url: str
) -> None:
    async def body() -> None:
        async with opened(tmp_path, store_url) as place:
            captured = [place.grow() for _ in range(4)]
            for one in captured[:3]:
                await place.keep(one)
            await place.harm(2, b"not what was written")
            await place.holds(1, captured[0])
            for number in (2, 3):
                with pytest.raises(DamagedError, match="checkpoint 2 of run-1"):
                    await place.vault.load("run-1", number)
            assert await place.keep(captured[3]) == 4
            assert (await place.vault.of_run("run-1"))[-1].base == 0
            await place.holds(4, captured[3])

    run_async(body())


@pytest.mark.req("COG-3.1.3")
def test_a_new_key_begins_anew_and_a_lost_one_is_named(tmp_path: Path, store_url: str) -> None:
    async def body() -> None:
        async with opened(tmp_path, store_url) as place:
            first, second = place.grow(), place.grow()
            await place.keep(first)
            before = place.ring.read_text()
            place.ring.write_text(before + new_line())
            await place.keep(second)
            rows = await place.vault.of_run("run-1")
            assert rows[0].key != rows[1].key
            assert rows[1].base == 0
            await place.holds(1, first)
            # The old key is taken out of the ring.
            place.ring.write_text(place.ring.read_text().removeprefix(before))
            with pytest.raises(KeyLostError, match=rows[0].key):
                await place.vault.load("run-1", 1)
            await place.holds(2, second)

    run_async(body())


@pytest.mark.req("COG-3.1.3")
def test_a_key_that_comes_while_a_delta_is_made_begins_anew_too(
    tmp_path: Path, store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        async with opened(tmp_path, store_url) as place:
            first, second = place.grow(), place.grow()
            await place.keep(first)
            before = place.ring.read_text()
            known = Vault._base

            async def rotated(self: Vault, rows: Any) -> Any:
                base = await known(self, rows)
                assert base is not None
                place.ring.write_text(before + new_line())
                return base

            monkeypatch.setattr(Vault, "_base", rotated)
            await place.keep(second)
            row = (await place.vault.of_run("run-1"))[-1]
            assert (row.base, row.depth) == (0, 0)
            place.ring.write_text(place.ring.read_text().removeprefix(before))
            await place.holds(2, second)

    run_async(body())


@pytest.mark.req("COG-3.1.3")
def test_what_has_expired_is_removed_but_for_bases(tmp_path: Path, store_url: str) -> None:
    async def body() -> None:
        async with opened(tmp_path, store_url) as place:
            captured = [place.grow() for _ in range(3)]
            await place.keep(captured[0], retention=10)
            await place.keep(captured[1], retention=1000)
            await place.keep(captured[2], retention=10)
            now = (await place.vault.of_run("run-1"))[0].created_at
            assert await place.vault.sweep(OWNER, now) == 0
            assert await place.vault.sweep(OWNER, now + 100) == 1
            assert [row.number for row in await place.vault.of_run("run-1")] == [1, 2]
            await place.holds(2, captured[1])
            assert await place.vault.sweep(OWNER, now + 2000) == 2
            assert await place.vault.of_run("run-1") == []

    run_async(body())


def test_no_more_stay_than_are_wanted(tmp_path: Path, store_url: str) -> None:
    async def body() -> None:
        async with opened(tmp_path, store_url) as place:
            for _ in range(FULL_EVERY + 3):
                await place.keep(place.grow(1), most=2)
            numbers = [row.number for row in await place.vault.of_run("run-1")]
            assert numbers == [FULL_EVERY + 1, FULL_EVERY + 2, FULL_EVERY + 3]

    run_async(body())


@pytest.mark.req("COG-2.5.1")
def test_an_owner_that_was_replaced_keeps_and_removes_nothing(
    tmp_path: Path, store_url: str
) -> None:
    async def body() -> None:
        async with opened(tmp_path, store_url) as place:
            await place.keep(place.grow(), retention=10)
            await place.store.claim(OWNER.partition, OWNER.token + 1)
            with pytest.raises(FencedError):
                await place.keep(place.grow())
            with pytest.raises(FencedError):
                await place.vault.sweep(OWNER, 1e12)
            assert [row.number for row in await place.vault.of_run("run-1")] == [1]

    run_async(body())


def test_a_number_is_given_once(tmp_path: Path, store_url: str) -> None:
    async def body() -> None:
        async with opened(tmp_path, store_url) as place:
            await place.keep(place.grow())
            (row,) = await place.vault.of_run("run-1")
            with pytest.raises(ConflictError):
                await place.rows.add(OWNER.token, row, b"again")

    run_async(body())


def test_the_archive_holds_the_bytes(tmp_path: Path, store_url: str) -> None:
    folder = tmp_path / "archive"

    async def body() -> None:
        async with opened(tmp_path, store_url, f"file://{folder}") as place:
            first, second = place.grow(), place.grow()
            await place.keep(first, retention=10)
            await place.keep(second, retention=1000)
            rows = await place.vault.of_run("run-1")
            files = {str(path) for path in folder.rglob("*") if path.is_file()}
            assert files == {row.location for row in rows}
            assert await place.rows.data("run-1", 1) == b""
            await place.holds(2, second)
            assert place.archive is not None
            await place.archive.remove(rows[1].location)
            with pytest.raises(DamagedError, match="gone"):
                await place.vault.load("run-1", 2)
            await place.holds(1, first)
            assert await place.vault.sweep(OWNER, rows[0].created_at + 2000) == 2
            assert not [path for path in folder.rglob("*") if path.is_file()]

    run_async(body())
