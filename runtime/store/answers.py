"""Cached answers in the store, and what was counted of them.

An answer may be lost without harm: the model is asked again. So rows are written in batches, behind
the requests. Of two rows for one prompt the newer one stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from sqlalchemy import (
    LargeBinary,
    MetaData,
    Table,
    bindparam,
    delete,
    func,
    literal,
    select,
    text,
    update,
)

from seedbed.runtime.store.schema import cache_counts, cached_answers
from seedbed.runtime.store.sql import SqlStore

AnswerKey = tuple[str, str, str]
"""Namespace, model, hash of the prompt."""
Sums = Mapping[tuple[str, str], float]
"""Amounts by namespace and name."""
_AT_ONCE = 500
_PLAIN = 13
"""Columns that are the row's first fields as they are."""


@dataclass(frozen=True, slots=True)
class AnswerRow:
    """One cached answer.

    Attributes:
        id: unique.
        model: the one that gave the answer.
        prompt_hash: 64 hexadecimal digits of all that the model was asked.
        scope: 64 hexadecimal digits of what similar requests have to share; empty where only an
            equal request may get the answer.
        text: what similar requests are compared by.
        answer: the body, as JSON.
        nanos: nano-dollars that it cost.
        created_at, expires_at: Unix times.
        hits: times it was served.
        tags: by which it can be invalidated.
        embedding: 384 numbers as float32, empty where there are none.
        packed: all that two texts are compared by, for whoever compares them.
        learnt: what verified hits have taught, as JSON; empty for nothing.
    """

    id: str
    namespace: str
    model: str
    prompt_hash: str
    scope: str
    text: str
    answer: bytes
    nanos: int
    prompt_tokens: int
    completion_tokens: int
    created_at: float
    expires_at: float
    hits: int = 0
    tags: tuple[str, ...] = ()
    embedding: bytes = field(default=b"", repr=False)
    packed: bytes = field(default=b"", repr=False)
    learnt: bytes = b""

    @property
    def key(self) -> AnswerKey:
        """By what an equal request finds it."""
        return (self.namespace, self.model, self.prompt_hash)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which answers of a namespace are meant; all of them where nothing is said.

    Attributes:
        tag: only those that carry it.
        model: only those that it gave.
        before: only those created until this Unix time.
    """

    namespace: str
    tag: str = ""
    model: str = ""
    before: float = float("inf")

    def holds(self, row: AnswerRow) -> bool:
        """Whether a row is meant."""
        return (
            row.namespace == self.namespace
            and (not self.tag or self.tag in row.tags)
            and (not self.model or row.model == self.model)
            and row.created_at <= self.before
        )


class AnswerStore(Protocol):
    """Every method may raise UnavailableError when the database does not answer."""

    @property
    def shared(self) -> bool:
        """Whether other gateways may write to it."""

    @property
    def vectors(self) -> bool:
        """Whether it can find what is closest by itself."""

    async def put(self, rows: Sequence[AnswerRow]) -> None:
        """Write rows; one that is older than what there is for its prompt changes nothing."""

    async def find(self, keys: Sequence[AnswerKey]) -> list[AnswerRow]:
        """The rows of these prompts, as far as there are any."""

    async def newest(self, namespace: str, limit: int, before: float) -> list[AnswerRow]:
        """A namespace's rows created before a time, the newest first."""

    async def nearest(
        self, namespace: str, scope: str, embedding: bytes, limit: int
    ) -> list[AnswerRow]:
        """The rows of a scope whose vectors are closest by cosine; none without pgvector."""

    async def used(self, hits: Mapping[str, int]) -> None:
        """Count hits by the rows' ids."""

    async def learnt(self, taught: Mapping[str, bytes]) -> None:
        """Note what verified hits have taught, by the rows' ids."""

    async def remove(self, chosen: Selection) -> int:
        """Forget rows; how many there were."""

    async def trim(self, now: float, entries: int) -> int:
        """Forget what ran out before `now`, and what a namespace has beyond its newest `entries`."""

    async def count(self, day: str, sums: Sums) -> None:
        """Add to what was counted on a day, `2026-11-21`."""

    async def counts(self, namespace: str = "", since: str = "") -> dict[str, float]:
        """What was counted, by name; of one namespace and from a day on where told."""


_HITS = (
    update(cached_answers)
    .where(cached_answers.c.id == bindparam("of"))
    .values(hit_count=cached_answers.c.hit_count + bindparam("more"))
)
_LEARNT = (
    update(cached_answers)
    .where(cached_answers.c.id == bindparam("of"))
    .values(learnt=bindparam("taught"))
)
_EXPIRED = delete(cached_answers).where(cached_answers.c.expires_at < bindparam("now"))
_FULL = (
    select(cached_answers.c.namespace)
    .group_by(cached_answers.c.namespace)
    .having(func.count() > bindparam("most"))
)
_OLDEST_KEPT = (
    select(cached_answers.c.created_at)
    .where(cached_answers.c.namespace == bindparam("of"))
    .order_by(cached_answers.c.created_at.desc())
    .offset(bindparam("most"))
    .limit(1)
)
_OLDER = delete(cached_answers).where(
    cached_answers.c.namespace == bindparam("of"), cached_answers.c.created_at <= bindparam("till")
)
_VECTORS = text(
    "SELECT udt_name FROM information_schema.columns"
    " WHERE table_schema = current_schema() AND table_name = 'cached_answers'"
    " AND column_name = 'embedding'"
)


class SqlAnswers:
    """Cached answers beside the runs of a SqlStore; see `AnswerStore`. Made with `open`."""

    def __init__(self, store: SqlStore, *, shared: bool, vectors: bool) -> None:
        self._store = store
        self._shared = shared
        self.vectors = vectors
        self._table = cached_answers if vectors or not shared else _with_bytes(cached_answers)
        new = store.insert(self._table)
        columns = [column.name for column in self._table.columns if column.name != "id"]
        self._put = new.on_conflict_do_update(
            index_elements=["namespace", "model", "prompt_hash"],
            set_={"id": new.excluded.id, **{name: new.excluded[name] for name in columns}},
            where=self._table.c.created_at < new.excluded.created_at,
        )
        counted = store.insert(cache_counts)
        self._count = counted.on_conflict_do_update(
            index_elements=["namespace", "day", "name"],
            set_={"amount": cache_counts.c.amount + counted.excluded.amount},
        )

    @classmethod
    async def open(cls, store: SqlStore) -> SqlAnswers:
        """On a store that is migrated."""
        if store.dialect == "sqlite":
            return cls(store, shared=False, vectors=False)
        rows = await store.rows(_VECTORS)
        return cls(store, shared=True, vectors=bool(rows) and rows[0][0] == "vector")

    @property
    def shared(self) -> bool:
        """See `AnswerStore`."""
        return self._shared

    async def put(self, rows: Sequence[AnswerRow]) -> None:
        """See `AnswerStore`."""
        # In one order everywhere, so that gateways never wait for each other in a circle.
        newest = {row.key: row for row in sorted(rows, key=lambda row: row.created_at)}
        values = [_values(newest[key]) for key in sorted(newest)]
        if values:
            async with self._store.transaction() as connection:
                await connection.execute(self._put, values)

    async def find(self, keys: Sequence[AnswerKey]) -> list[AnswerRow]:
        """See `AnswerStore`."""
        wanted, found = set(keys), []
        hashes = sorted({key[2] for key in keys})
        statement = select(self._table).where(
            self._table.c.prompt_hash.in_(bindparam("hashes", expanding=True)),
            self._table.c.namespace.in_(bindparam("spaces", expanding=True)),
        )
        spaces = sorted({key[0] for key in keys})
        for at in range(0, len(hashes), _AT_ONCE):
            some = hashes[at : at + _AT_ONCE]
            rows = await self._store.rows(statement, hashes=some, spaces=spaces)
            found += [row for row in map(_row, rows) if row.key in wanted]
        return found

    async def newest(self, namespace: str, limit: int, before: float) -> list[AnswerRow]:
        """See `AnswerStore`."""
        statement = (
            select(self._table)
            .where(self._table.c.namespace == namespace, self._table.c.created_at < before)
            .order_by(self._table.c.created_at.desc())
            .limit(limit)
        )
        return [_row(row) for row in await self._store.rows(statement)]

    async def nearest(
        self, namespace: str, scope: str, embedding: bytes, limit: int
    ) -> list[AnswerRow]:
        """See `AnswerStore`."""
        if not self.vectors:
            return []
        column = self._table.c.embedding
        statement = (
            select(self._table)
            .where(
                self._table.c.namespace == namespace,
                self._table.c.scope == scope,
                column.is_not(None),
            )
            .order_by(column.op("<=>")(literal(embedding, column.type)))
            .limit(limit)
        )
        return [_row(row) for row in await self._store.rows(statement)]

    async def used(self, hits: Mapping[str, int]) -> None:
        """See `AnswerStore`."""
        rows = [{"of": name, "more": hits[name]} for name in sorted(hits)]
        if rows:
            async with self._store.transaction() as connection:
                await connection.execute(_HITS, rows)

    async def learnt(self, taught: Mapping[str, bytes]) -> None:
        """See `AnswerStore`."""
        rows = [{"of": name, "taught": taught[name]} for name in sorted(taught)]
        if rows:
            async with self._store.transaction() as connection:
                await connection.execute(_LEARNT, rows)

    async def remove(self, chosen: Selection) -> int:
        """See `AnswerStore`."""
        table = self._table
        where = [table.c.namespace == chosen.namespace, table.c.created_at <= chosen.before]
        if chosen.tag:
            where.append(table.c.tags.contains(f"\n{chosen.tag}\n", autoescape=True))
        if chosen.model:
            where.append(table.c.model == chosen.model)
        async with self._store.transaction() as connection:
            gone = await connection.execute(delete(table).where(*where))
            return int(gone.rowcount)

    async def trim(self, now: float, entries: int) -> int:
        """See `AnswerStore`."""
        async with self._store.transaction() as connection:
            gone = int((await connection.execute(_EXPIRED, {"now": now})).rowcount)
            full = (await connection.execute(_FULL, {"most": entries})).scalars()
            for name in list(full):
                values = {"of": name, "most": entries}
                till = (await connection.execute(_OLDEST_KEPT, values)).scalar_one()
                more = await connection.execute(_OLDER, {"of": name, "till": till})
                gone += int(more.rowcount)
            return gone

    async def count(self, day: str, sums: Sums) -> None:
        """See `AnswerStore`."""
        rows = [
            {"namespace": namespace, "day": day, "name": name, "amount": sums[namespace, name]}
            for namespace, name in sorted(sums)
        ]
        if rows:
            async with self._store.transaction() as connection:
                await connection.execute(self._count, rows)

    async def counts(self, namespace: str = "", since: str = "") -> dict[str, float]:
        """See `AnswerStore`."""
        statement = select(cache_counts.c.name, func.sum(cache_counts.c.amount)).group_by(
            cache_counts.c.name
        )
        if namespace:
            statement = statement.where(cache_counts.c.namespace == namespace)
        if since:
            statement = statement.where(cache_counts.c.day >= since)
        return {name: float(amount) for name, amount in await self._store.rows(statement)}


def _with_bytes(table: Table) -> Table:
    """The same table where its vectors are bytes."""
    found = table.to_metadata(MetaData())
    found.c.embedding.type = LargeBinary()
    return found


def _values(row: AnswerRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "namespace": row.namespace,
        "model": row.model,
        "prompt_hash": row.prompt_hash,
        "scope": row.scope,
        "text": row.text,
        "response": row.answer,
        "cost_nanos": row.nanos,
        "prompt_tokens": row.prompt_tokens,
        "completion_tokens": row.completion_tokens,
        "created_at": row.created_at,
        "expires_at": row.expires_at,
        "hit_count": row.hits,
        # Between line ends, so that one tag is never found within another.
        "tags": "".join(f"\n{tag}\n" for tag in row.tags),
        "embedding": row.embedding or None,
        "packed": row.packed,
        "learnt": row.learnt,
    }


def _row(row: tuple[Any, ...]) -> AnswerRow:
    tags, embedding, packed, learnt = row[_PLAIN:]
    told = tuple(tag for tag in tags.split("\n") if tag)
    return AnswerRow(*row[:_PLAIN], told, bytes(embedding or b""), bytes(packed), bytes(learnt))  # type: ignore[call-arg]  # mypy takes the row to be longer
