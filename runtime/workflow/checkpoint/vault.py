"""Keeping checkpoints and reading them back.

Each is a delta of the one before, every twelfth stands alone; so a chain is bounded, and what is
damaged takes at most eleven others with it. A new key begins with a full one.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from seedbed.crds.errors import (
    ConflictError,
    FencedError,
    NotFoundError,
    TerminalError,
    UnavailableError,
)
from seedbed.runtime.store.checkpoints import CheckpointRow, Checkpoints
from seedbed.runtime.workflow.checkpoint import metrics
from seedbed.runtime.workflow.checkpoint.archive import Archive
from seedbed.runtime.workflow.checkpoint.codec import Label, Sealed, seal, unseal
from seedbed.runtime.workflow.checkpoint.content import Captured, Content, from_bytes, to_bytes
from seedbed.runtime.workflow.checkpoint.keys import DamagedError, KeyRing

log = logging.getLogger(__name__)

FULL_EVERY = 12
"""Checkpoints of a run of which one stands alone."""


@dataclass(frozen=True, slots=True)
class Owner:
    """Whose writes these are: a partition and the fencing token of its owner."""

    partition: int
    token: int


class Vault:
    """The checkpoints of runs.

    Args:
        rows: where they are listed, and kept where there is no archive.
        keys: the key ring.
        archive: where their bytes go instead.
    """

    def __init__(self, rows: Checkpoints, keys: KeyRing, archive: Archive | None = None) -> None:
        self._rows = rows
        self._keys = keys
        self._archive = archive
        self._one = asyncio.Lock()

    async def keep(
        self, captured: Captured, owner: Owner, *, cause: str, retention: float, most: int
    ) -> CheckpointRow:
        """Write a checkpoint, and remove those of the run whose time is over or that are too many.

        Args:
            captured: the state.
            owner: who writes.
            cause: `interval` or `demand`.
            retention: seconds that it stays.
            most: checkpoints of the run that stay, this one counted.

        Raises:
            FencedError: somebody else owns the partition now.
            ConflictError: somebody else has written one meanwhile.
            UnavailableError: store or archive do not answer.
        """
        began = time.perf_counter()
        try:
            # One at a time: it bounds memory and threads, and keeps a run's numbers in order.
            async with self._one:
                row = await self._write(captured, owner, cause, retention)
        except (TerminalError, ConflictError, UnavailableError):
            metrics.FAILED.inc()
            raise
        metrics.SECONDS.observe(time.perf_counter() - began)
        metrics.TAKEN.labels("delta" if row.base else "full").inc()
        metrics.STORED.inc(row.size_bytes)
        metrics.CONTENT.inc(row.content_bytes)
        await self._prune(row.run, owner, row.created_at, most)
        return row

    async def of_run(self, run: str) -> list[CheckpointRow]:
        """A run's checkpoints, oldest first."""
        return await self._rows.of_run(run)

    async def load(self, run: str, number: int) -> Content:
        """Read a checkpoint, verified.

        Raises:
            NotFoundError: there is none, or not any more.
            DamagedError: it, or one that it builds on, is not what was written.
            KeyLostError: its key is gone.
        """
        rows = {row.number: row for row in await self._rows.of_run(run)}
        return from_bytes(await self._content(rows, run, number))

    async def sweep(self, owner: Owner, now: float) -> int:
        """Remove the checkpoints of a partition whose time is over; returns how many."""
        removed = 0
        for run in await self._rows.expired(owner.partition, now):
            removed += await self._prune(run, owner, now)
        return removed

    async def discard(self, run: str, owner: Owner) -> None:
        """Remove every checkpoint of a run.

        Raises:
            FencedError: somebody else owns the partition now; nothing is removed.
        """
        await self._remove(run, await self._rows.of_run(run), owner)

    async def _write(
        self, captured: Captured, owner: Owner, cause: str, retention: float
    ) -> CheckpointRow:
        run = captured.request.run
        rows = await self._rows.of_run(run)
        base = await self._base(rows)
        number = rows[-1].number + 1 if rows else 1
        label = Label(run, number, base[0].number if base else 0)
        before = base[1] if base else None
        size, sealed = await asyncio.to_thread(_sealed, captured, before, label, self._keys)
        if base is not None and sealed.key != base[0].key:
            # The key was rotated meanwhile: nothing under the new one may need the old one.
            base, label = None, Label(run, number)
            size, sealed = await asyncio.to_thread(_sealed, captured, None, label, self._keys)
        now = time.time()
        row = CheckpointRow(
            run=run,
            number=number,
            id=str(uuid.uuid4()),
            partition=owner.partition,
            created_at=now,
            expires_at=now + retention,
            cause=cause,
            revision=captured.revision,
            ended=captured.ended,
            total=captured.total,
            base=label.base,
            depth=base[0].depth + 1 if base else 0,
            content_bytes=size,
            size_bytes=len(sealed.data),
            compression_ratio=size / len(sealed.data),
            key=sealed.key,
            digest=sealed.digest,
            location="",
        )
        return await self._store(row, sealed, owner)

    async def _store(self, row: CheckpointRow, sealed: Sealed, owner: Owner) -> CheckpointRow:
        if self._archive is None:
            await self._rows.add(owner.token, row, sealed.data)
            return row
        # The file first: a row never speaks of a file that is not there.
        place = await self._archive.put(f"{row.run}/{row.number}-{row.id}", sealed.data)
        row = replace(row, location=place)
        try:
            await self._rows.add(owner.token, row, b"")
        except (FencedError, ConflictError):
            with suppress(UnavailableError):
                await self._archive.remove(place)
            raise
        return row

    async def _base(self, rows: Sequence[CheckpointRow]) -> tuple[CheckpointRow, bytes] | None:
        """What the next one can be a delta of: the newest, where its chain is short and can be read."""
        if not rows or rows[-1].depth + 1 >= FULL_EVERY or rows[-1].key != self._keys.newest:
            return None
        newest = rows[-1]
        by_number = {row.number: row for row in rows}
        try:
            return newest, await self._content(by_number, newest.run, newest.number)
        except TerminalError as error:
            log.warning("the next checkpoint of %s stands alone: %s", newest.run, error)
            return None

    async def _content(self, rows: dict[int, CheckpointRow], run: str, number: int) -> bytes:
        chain: list[CheckpointRow] = []
        while number:
            row = rows.get(number)
            if row is None:
                if not chain:
                    raise NotFoundError("Checkpoint", f"{number} of {run}")
                raise DamagedError(f"checkpoint {chain[0].number} of {run}", f"{number} is missing")
            chain.append(row)
            number = row.base
        content: bytes | None = None
        for row in reversed(chain):
            label = Label(run, row.number, row.base)
            sealed = Sealed(row.key, await self._data(row), row.digest)
            content = await asyncio.to_thread(unseal, sealed, content, label, self._keys)
        assert content is not None
        return content

    async def _data(self, row: CheckpointRow) -> bytes:
        data: bytes | None
        if not row.location:
            data = await self._rows.data(row.run, row.number)
        elif self._archive is None:
            what = f"checkpoint {row.number} of {row.run}"
            raise DamagedError(what, f"its bytes are at {row.location}, and no archive is set")
        else:
            data = await self._archive.get(row.location)
        if data is None:
            raise DamagedError(f"checkpoint {row.number} of {row.run}", "its bytes are gone")
        return data

    async def _prune(self, run: str, owner: Owner, now: float, most: int | None = None) -> int:
        gone = dispensable(await self._rows.of_run(run), now, most)
        if gone:
            await self._remove(run, gone, owner)
        return len(gone)

    async def _remove(self, run: str, gone: Sequence[CheckpointRow], owner: Owner) -> None:
        await self._rows.remove(owner.partition, owner.token, run, [row.number for row in gone])
        metrics.REMOVED.inc(len(gone))
        for row in gone:
            if row.location and self._archive is not None:
                with suppress(UnavailableError):
                    await self._archive.remove(row.location)


def dispensable(
    rows: Sequence[CheckpointRow], now: float, most: int | None = None
) -> list[CheckpointRow]:
    """A run's checkpoints that nobody needs: expired or too many, and base of none that stays.

    Args:
        rows: all of the run's, oldest first.
        now: Unix time.
        most: how many may stay; any number where None.
    """
    living = [row for row in rows if row.expires_at > now]
    if most is not None:
        living = living[-most:]
    needed = _with_bases(rows, living)
    return [row for row in rows if row.number not in needed]


def _with_bases(rows: Iterable[CheckpointRow], living: Iterable[CheckpointRow]) -> set[int]:
    bases = {row.number: row.base for row in rows}
    needed: set[int] = set()
    for row in living:
        number = row.number
        while number and number not in needed:
            needed.add(number)
            number = bases.get(number, 0)
    return needed


def _sealed(
    captured: Captured, base: bytes | None, label: Label, keys: KeyRing
) -> tuple[int, Sealed]:
    content = to_bytes(captured)
    return len(content), seal(content, base, label, keys)
