"""Lines of batches differ in size: what is read at once is bounded in bytes, not in lines."""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import insert

from seedbed.runtime.store import batches as module
from seedbed.runtime.store.batches import LineRow, SqlBatches
from seedbed.runtime.store.schema import batch_lines, columns_of
from seedbed.runtime.store.sql import SqlStore
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
