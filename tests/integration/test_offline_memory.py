"""Batches in the store: what is read at once is bounded in bytes, and what is old is forgotten."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from sqlalchemy import insert

from seedbed.runtime.store import batches as module
from seedbed.runtime.store.batch_files import INPUT, OUTPUT, FileRow, SqlBatchFiles
from seedbed.runtime.store.batch_work import SqlBatchWork
from seedbed.runtime.store.batches import BatchRow, BatchStatus, LineRow, SqlBatches
from seedbed.runtime.store.schema import batch_lines, columns_of
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.store.sql_ledger import SqlLedger
from tests.conftest import run_async

LARGE, COUNT = 400_000, 40


class Counted(SqlBatches):
    """Notes how many bytes each page had."""

    def __init__(self, store: SqlStore) -> None:
        super().__init__(store)
        self.pages: list[int] = []

    async def results(self, batch: str, after: int, limit: int, *, failed: bool) -> list[LineRow]:
        found = await super().results(batch, after, limit, failed=failed)
        self.pages.append(sum(len(row.answer) for row in found))
        return found


def test_large_answers_are_read_a_few_at_a_time(tmp_path: Path) -> None:
    async def body() -> None:
        store = SqlStore.open(f"sqlite:///{tmp_path}/store.db")
        await store.migrate()
        rows = [
            columns_of(
                LineRow("b", number, str(number), None, b"{}", "done", status=200, answer=answer)
            )
            for number, answer in enumerate([b"x" * LARGE] * COUNT + [b"y"] * COUNT, 1)
        ]
        async with store.transaction() as connection:
            await connection.execute(insert(batch_lines), rows)
        found = Counted(store)
        numbers = [row.number async for row in found.all_results("b", failed=False)]
        assert numbers == [*range(1, 2 * COUNT + 1)]
        assert max(found.pages) <= module.PAGE_BYTES + LARGE
        assert len(found.pages) < 2 * COUNT
        await store.close()

    run_async(body())


def test_what_has_ended_long_ago_is_forgotten_with_all_that_is_its_own(store_url: str) -> None:
    async def body() -> None:
        store = SqlStore.open(store_url)
        await store.migrate()
        found, files = SqlBatches(store), SqlBatchFiles(store)
        work = SqlBatchWork(store, SqlLedger(store), 1)
        await work.claim()
        for name, ended in (("old", 10.0), ("new", 1e12), ("open", None)):
            status: BatchStatus = "in_progress" if ended is None else "completed"
            row = BatchRow(
                name, "a", "", "", "", "", "/v1/embeddings", f"in-{name}", "{}", status, 1, 2
            )
            await found.create(replace(row, ended_at=ended))
            await files.add_chunk(f"in-{name}", 0, b"x")
            await files.add(FileRow(f"in-{name}", "a", INPUT, "x", 1, 1.0))
            await files.add(FileRow(f"out-{name}", "a", OUTPUT, "x", 1, 1.0, name))
            await work.add_lines([LineRow(name, n, str(n), None, b"{}") for n in range(1, 2502)])
        assert await work.trim(1000.0) == 1
        assert await work.trim(1000.0) == 0
        assert await files.trim(1000.0) == 2, "one is in use"
        assert await files.trim(1000.0) == 0
        assert {row.id for row in await found.listed("", None, 9)} == {"new", "open"}
        assert {row.id for row in await files.files("a", "", None, 9)} == {
            "in-open",
            "out-open",
            "out-new",
        }
        assert not await found.lines("old", None, 0, 1)
        assert len(await found.lines("new", None, 0, 9000)) == 2501
        assert [chunk async for chunk in files.content("in-open")] == [b"x"]
        await store.close()

    run_async(body())
