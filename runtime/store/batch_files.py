"""Files of batches in the store: what callers upload, in chunks, and what batches have written.

A file is there once its row is; its chunks come before, so that no upload has to fit into memory.
What a batch has written has no chunks: it is made anew from the batch's lines.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from sqlalchemy import and_, bindparam, delete, exists, insert, or_, select

from seedbed.runtime.store.batches import OPEN
from seedbed.runtime.store.schema import batch_chunks, batch_files, batches, columns_of
from seedbed.runtime.store.sql import SqlStore

INPUT, OUTPUT = "batch", "batch_output"
ABANDONED_SECONDS = 3600.0
"""Chunks without a file that are older were of an upload that broke off."""


@dataclass(frozen=True, slots=True)
class FileRow:
    """One file.

    Attributes:
        purpose: `batch` for lines to work through, `batch_output` for what became of them.
        size: bytes.
        created_at: Unix time.
        batch: the one that wrote it, empty for uploads.
    """

    id: str
    namespace: str
    purpose: str
    filename: str
    size: int
    created_at: float
    batch: str = ""


_OF = (batch_files.c.id == bindparam("of"), batch_files.c.namespace == bindparam("space"))
_ONE = select(batch_files).where(*_OF)
_CHUNK = select(batch_chunks.c.data).where(
    batch_chunks.c.file == bindparam("of"), batch_chunks.c.number == bindparam("at")
)
_IN_USE = exists().where(batches.c.input_file == batch_files.c.id, batches.c.status.in_(OPEN))
_ORPHANS = delete(batch_chunks).where(
    batch_chunks.c.written_at < bindparam("before"),
    ~exists().where(batch_files.c.id == batch_chunks.c.file),
)


class SqlBatchFiles:
    """Files beside the runs of a SqlStore. Every method may raise UnavailableError."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    async def add_chunk(self, file: str, number: int, data: bytes) -> None:
        """Write a part of a file that is coming."""
        row = {"file": file, "number": number, "data": data, "written_at": time.time()}
        async with self._store.transaction() as connection:
            await connection.execute(insert(batch_chunks), row)

    async def add(self, row: FileRow) -> None:
        """The file is whole."""
        values = columns_of(row)
        async with self._store.transaction() as connection:
            await connection.execute(insert(batch_files), values)

    async def file(self, namespace: str, file: str) -> FileRow | None:
        """One file of a namespace, or None."""
        rows = [] if "\0" in file else await self._store.rows(_ONE, of=file, space=namespace)
        return FileRow(*rows[0]) if rows else None

    async def files(
        self, namespace: str, purpose: str, after: FileRow | None, limit: int
    ) -> list[FileRow]:
        """Files of a namespace, the newest first; of one purpose where named."""
        statement = select(batch_files).where(batch_files.c.namespace == namespace)
        if purpose:
            statement = statement.where(batch_files.c.purpose == purpose)
        if after is not None:
            at = batch_files.c.created_at
            same = and_(at == after.created_at, batch_files.c.id < after.id)
            statement = statement.where(or_(at < after.created_at, same))
        order = (batch_files.c.created_at.desc(), batch_files.c.id.desc())
        return [
            FileRow(*row) for row in await self._store.rows(statement.order_by(*order).limit(limit))
        ]

    async def content(self, file: str) -> AsyncIterator[bytes]:
        """What was uploaded, chunk by chunk."""
        number = 0
        while rows := await self._store.rows(_CHUNK, of=file, at=number):
            yield bytes(rows[0][0])
            number += 1

    async def drop_chunks(self, file: str) -> None:
        """An upload broke off."""
        async with self._store.transaction() as connection:
            await connection.execute(delete(batch_chunks).where(batch_chunks.c.file == file))

    async def remove(self, namespace: str, file: str) -> bool:
        """Forget a file; False where it is not there, or a batch that goes on needs it."""
        async with self._store.transaction() as connection:
            gone = await connection.execute(
                delete(batch_files).where(*_OF, ~_IN_USE), {"of": file, "space": namespace}
            )
            if not gone.rowcount:
                return False
            await connection.execute(delete(batch_chunks).where(batch_chunks.c.file == file))
            return True

    async def trim(self, before: float) -> int:
        """Forget files created before a Unix time that no batch needs, and uploads that broke off.

        Some at a time; how many.
        """
        old = select(batch_files.c.id).where(
            batch_files.c.created_at < before, batch_files.c.batch == "", ~_IN_USE
        )
        found = [row[0] for row in await self._store.rows(old.limit(100))]
        async with self._store.transaction() as connection:
            for file in found:
                await connection.execute(delete(batch_files).where(batch_files.c.id == file))
                await connection.execute(delete(batch_chunks).where(batch_chunks.c.file == file))
            await connection.execute(_ORPHANS, {"before": time.time() - ABANDONED_SECONDS})
        return len(found)
