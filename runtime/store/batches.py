"""Batches of offline work in the store, as everybody may read them; `batch_work` is for who works.

A batch is a row with counts and sums, and a row for each of its lines. Lines are numbered from 1, as
in the file. A line goes through states:

    new ──► own                            the gateway asks a model itself
     │  └─► ready ──► sent (in a part)     a provider's batch has it
     └──────────────► done                 there is an answer or an error: `status` is HTTP's
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any, Literal

from sqlalchemy import and_, bindparam, func, insert, or_, select, update

from seedbed.crds.errors import ConflictError, NotFoundError
from seedbed.runtime.store.schema import batch_lines, batch_parts, batches, columns_of
from seedbed.runtime.store.sql import SqlStore

BatchStatus = Literal[
    "validating",
    "failed",
    "in_progress",
    "finalizing",
    "completed",
    "expired",
    "cancelling",
    "cancelled",
]
OPEN: tuple[BatchStatus, ...] = ("validating", "in_progress", "finalizing", "cancelling")
LineState = Literal["new", "own", "ready", "sent", "done"]
PartState = Literal["planned", "made", "ended"]
FIRST_ERROR = 400
PAGE_BYTES = 8 * 1024 * 1024
"""Of lines that are read at once, about: vectors of one line may be many megabytes."""
_FIRST_PAGE, _LARGEST_PAGE = 8, 500


@dataclass(frozen=True, slots=True)
class BatchRow:
    """One batch.

    Attributes:
        id, namespace: whose it is; agent, workflow, run and user say who pays.
        endpoint: what its lines ask, such as `/v1/chat/completions`.
        metadata: the caller's, as JSON.
        created_at, expires_at: Unix times, like the others; None where it did not come to that.
        ended_at: since when it is completed, failed, expired or cancelled.
        errors: what is wrong with the file, as JSON.
        reason: why it stands still, empty where it goes on.
        notes: why models are not asked by a provider's batch, as JSON by model.
        by_provider, by_gateway, by_cache, by_equal: lines done, by who answered.
        nanos, saved: nano-dollars.
    """

    id: str
    namespace: str
    agent: str
    workflow: str
    run: str
    user: str
    endpoint: str
    input_file: str
    metadata: str
    status: BatchStatus
    created_at: float
    expires_at: float
    in_progress_at: float | None = None
    finalizing_at: float | None = None
    cancelling_at: float | None = None
    ended_at: float | None = None
    errors: str = "[]"
    reason: str = ""
    notes: str = "{}"
    total: int = 0
    completed: int = 0
    failed: int = 0
    by_provider: int = 0
    by_gateway: int = 0
    by_cache: int = 0
    by_equal: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    nanos: int = 0
    saved: int = 0


@dataclass(frozen=True, slots=True)
class LineRow:
    """One line.

    Attributes:
        number: from 1.
        same_as: number of the earlier line that asks the same, whose answer it gets.
        body: the request as JSON.
        target: the model whose provider's batch is to have it.
        part: the part that it went with.
        way: who answered: `provider`, `gateway`, `cache` or `equal`.
        status: HTTP's, 0 before there is one.
        answer: the body, as JSON.
        saved: nano-dollars that it would have cost more.
    """

    batch: str
    number: int
    custom_id: str
    same_as: int | None
    body: bytes
    state: LineState = "new"
    target: str = ""
    part: str = ""
    way: str = ""
    status: int = 0
    answer: bytes = b""
    nanos: int = 0
    saved: int = 0


@dataclass(frozen=True, slots=True)
class PartRow:
    """Lines that a provider works through as a batch of its own.

    Attributes:
        id: unique; the provider is told it, so that its batch is found again.
        state: `planned` until the provider's answer is noted, `ended` once its results are.
        tries: times that the provider was told to make it.
        reserved: nano-dollars that are held for it.
    """

    id: str
    batch: str
    model: str
    state: PartState
    created_at: float
    tries: int = 0
    provider_file: str = ""
    provider_batch: str = ""
    reserved: int = 0


_ONE = select(batches).where(batches.c.id == bindparam("of"))
_OPEN = select(batches).where(batches.c.status.in_(OPEN)).order_by(batches.c.created_at).limit(1000)
_COUNTS = select(batches.c.status, func.count()).group_by(batches.c.status)
_CANCEL = (
    update(batches)
    .where(
        batches.c.id == bindparam("of"),
        batches.c.status.in_(("validating", "in_progress")),
    )
    .values(status="cancelling", cancelling_at=bindparam("at"))
)
_LINES = (
    select(batch_lines)
    .where(batch_lines.c.batch == bindparam("of"), batch_lines.c.number > bindparam("after"))
    .order_by(batch_lines.c.number)
    .limit(bindparam("most"))
)
_IN_STATE = _LINES.where(batch_lines.c.state == bindparam("state"))
_DONE = _LINES.where(batch_lines.c.state == "done")
_PARTS = (
    select(batch_parts)
    .where(batch_parts.c.batch == bindparam("of"), batch_parts.c.state != "ended")
    .order_by(batch_parts.c.created_at, batch_parts.c.id)
)


class SqlBatches:
    """Batches beside the runs of a SqlStore. Every method may raise UnavailableError."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    async def create(self, row: BatchRow) -> None:
        """Take a batch in; from now on it is not lost."""
        values = columns_of(row)
        async with self._store.transaction() as connection:
            await connection.execute(insert(batches), values)

    async def batch(self, batch: str, namespace: str = "") -> BatchRow | None:
        """One batch, or None; also None where it is another namespace's than the one named."""
        rows = [] if "\0" in batch else await self._store.rows(_ONE, of=batch)
        found = BatchRow(*rows[0]) if rows else None
        return None if found is not None and namespace not in ("", found.namespace) else found

    async def listed(self, namespace: str, after: BatchRow | None, limit: int) -> list[BatchRow]:
        """Batches of a namespace, or of all where none is named, the newest first."""
        statement = select(batches)
        if namespace:
            statement = statement.where(batches.c.namespace == namespace)
        if after is not None:
            at = batches.c.created_at
            same = and_(at == after.created_at, batches.c.id < after.id)
            statement = statement.where(or_(at < after.created_at, same))
        order = (batches.c.created_at.desc(), batches.c.id.desc())
        rows = await self._store.rows(statement.order_by(*order).limit(limit))
        return [BatchRow(*row) for row in rows]

    async def open(self) -> list[BatchRow]:
        """The batches that have not ended, the oldest first."""
        return [BatchRow(*row) for row in await self._store.rows(_OPEN)]

    async def counts(self) -> dict[str, int]:
        """How many batches there are, by status."""
        return {str(status): int(count) for status, count in await self._store.rows(_COUNTS)}

    async def cancel(self, batch: str, now: float) -> bool:
        """Have a batch end early; False where it is past that."""
        async with self._store.transaction() as connection:
            done = await connection.execute(_CANCEL, {"of": batch, "at": now})
            return bool(done.rowcount)

    async def lines(
        self, batch: str, state: LineState | None, after: int, limit: int
    ) -> list[LineRow]:
        """Lines behind a number, in order; of one state where named."""
        values: dict[str, Any] = {"of": batch, "after": after, "most": limit}
        if state is None:
            return [LineRow(*row) for row in await self._store.rows(_LINES, **values)]
        return [LineRow(*row) for row in await self._store.rows(_IN_STATE, **values, state=state)]

    async def results(self, batch: str, after: int, limit: int, *, failed: bool) -> list[LineRow]:
        """Lines that are done, in order: those with an answer, or else those with an error."""
        status = batch_lines.c.status
        statement = _DONE.where(status >= FIRST_ERROR if failed else status < FIRST_ERROR)
        rows = await self._store.rows(statement, of=batch, after=after, most=limit)
        return [LineRow(*row) for row in rows]

    async def all_results(self, batch: str, *, failed: bool) -> AsyncIterator[LineRow]:
        """Likewise all of them, so many at a time as fit into memory: answers differ in size."""
        after, page = 0, _FIRST_PAGE
        while rows := await self.results(batch, after, page, failed=failed):
            for row in rows:
                yield row
            after = rows[-1].number
            size = sum(len(row.answer) + len(row.body) for row in rows) // len(rows)
            page = max(1, min(_LARGEST_PAGE, PAGE_BYTES // max(1, size)))

    async def parts(self, batch: str) -> list[PartRow]:
        """What of a batch is with providers."""
        return [PartRow(*row) for row in await self._store.rows(_PARTS, of=batch)]


async def cancelled(batches: SqlBatches, name: str) -> BatchRow:
    """Have a batch end early; gives it as it stands then.

    Raises:
        NotFoundError: where there is none.
        ConflictError: where it has ended, or is about to.
    """
    done = await batches.cancel(name, time.time())
    row = await batches.batch(name)
    if row is None:
        raise NotFoundError("batch", name)
    if not done and row.status not in ("cancelling", "cancelled"):
        raise ConflictError(f"batch {name!r} cannot be cancelled any more: it is {row.status}")
    return row
