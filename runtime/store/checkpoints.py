"""Checkpoints in the store: one row each, written under the fencing token of the run's partition.

Names and sizes stand in the open, the state itself is encrypted before it comes here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import bindparam, delete, func, insert, select

from seedbed.runtime.store.schema import checkpoints
from seedbed.runtime.store.sql import SqlStore


@dataclass(frozen=True, slots=True)
class CheckpointRow:
    """A checkpoint without its bytes.

    Attributes:
        id: UUID.
        number: counts a run's checkpoints from 1.
        created_at: Unix time.
        expires_at: Unix time from which on it may be removed.
        cause: `interval` or `demand`.
        revision: the run's revision at that moment.
        ended: steps that had ended, of `total`.
        base: number of the checkpoint that it is a delta of; 0 for a full one.
        depth: deltas that lead back to a full one; 0 for a full one.
        content_bytes: size of the state before compression.
        size_bytes: bytes stored.
        compression_ratio: content bytes for each stored byte.
        key: id of the key it is encrypted under.
        digest: SHA-256 of the stored bytes.
        location: where the archive has the bytes; empty where they stand in the store.
    """

    run: str
    number: int
    id: str
    partition: int
    created_at: float
    expires_at: float
    cause: str
    revision: int
    ended: int
    total: int
    base: int
    depth: int
    content_bytes: int
    size_bytes: int
    compression_ratio: float
    key: str
    digest: str
    location: str = ""


class Checkpoints(Protocol):
    """Where checkpoints are kept. Every method may raise UnavailableError."""

    async def add(self, token: int, row: CheckpointRow, data: bytes) -> None:
        """Write one durably.

        Raises:
            FencedError: where a larger token has claimed the partition; nothing is written.
            ConflictError: where the run has one of this number; nothing is written.
        """

    async def of_run(self, run: str) -> list[CheckpointRow]:
        """A run's checkpoints, oldest first."""

    async def by_id(self, checkpoint: str) -> CheckpointRow | None:
        """One by its UUID, or None."""

    async def data(self, run: str, number: int) -> bytes | None:
        """The bytes of one, or None where there is none."""

    async def expired(self, partition: int, now: float) -> list[str]:
        """Runs of a partition that have checkpoints whose time is over, at most 100."""

    async def remove(self, partition: int, token: int, run: str, numbers: Sequence[int]) -> None:
        """Forget some of a run's checkpoints; no error for those that do not exist.

        Raises:
            FencedError: as in `add`.
        """


_COLUMNS = [checkpoints.c[field.name] for field in dataclasses.fields(CheckpointRow)]
_ADD = insert(checkpoints)
_OF_RUN = (
    select(*_COLUMNS).where(checkpoints.c.run == bindparam("of")).order_by(checkpoints.c.number)
)
_BY_ID = select(*_COLUMNS).where(checkpoints.c.id == bindparam("of"))
_DATA = select(checkpoints.c.data).where(
    checkpoints.c.run == bindparam("of"), checkpoints.c.number == bindparam("at")
)
_EXPIRED = (
    select(checkpoints.c.run)
    .where(checkpoints.c.partition == bindparam("of"), checkpoints.c.expires_at <= bindparam("now"))
    .group_by(checkpoints.c.run)
    .order_by(func.min(checkpoints.c.expires_at))
    .limit(100)
)
_REMOVE = delete(checkpoints).where(
    checkpoints.c.run == bindparam("of"), checkpoints.c.number == bindparam("at")
)


class SqlCheckpoints:
    """Checkpoints beside the runs of a SqlStore; see `Checkpoints` for what each method promises."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    async def add(self, token: int, row: CheckpointRow, data: bytes) -> None:
        """See the port."""
        async with self._store.fenced(row.partition, token) as connection:
            await connection.execute(_ADD, [{**dataclasses.asdict(row), "data": data}])

    async def of_run(self, run: str) -> list[CheckpointRow]:
        """See the port."""
        return [CheckpointRow(*row) for row in await self._store.rows(_OF_RUN, of=run)]

    async def by_id(self, checkpoint: str) -> CheckpointRow | None:
        """See the port."""
        rows = await self._store.rows(_BY_ID, of=checkpoint)
        return CheckpointRow(*rows[0]) if rows else None

    async def data(self, run: str, number: int) -> bytes | None:
        """See the port."""
        rows = await self._store.rows(_DATA, of=run, at=number)
        return bytes(rows[0][0]) if rows else None

    async def expired(self, partition: int, now: float) -> list[str]:
        """See the port."""
        return [str(row[0]) for row in await self._store.rows(_EXPIRED, of=partition, now=now)]

    async def remove(self, partition: int, token: int, run: str, numbers: Sequence[int]) -> None:
        """See the port."""
        async with self._store.fenced(partition, token) as connection:
            if numbers:
                rows = [{"of": run, "at": number} for number in numbers]
                await connection.execute(_REMOVE, rows)
