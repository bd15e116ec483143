"""The Store on SQLite and PostgreSQL.

A commit is one transaction of few statements. The first raises the partition's token to the
writer's, or finds a larger one and refuses; it also holds the row (on SQLite the database) until the
end, so that no claim can slip in between. Each statement is built once and compiled once.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.util.exc import CommandError
from sqlalchemy import (
    Connection,
    Insert,
    Table,
    Update,
    bindparam,
    delete,
    exists,
    false,
    func,
    insert,
    select,
    text,
    true,
    union_all,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from seedbed.crds.errors import FencedError
from seedbed.runtime.store.database import READ_ONLY, connect, connect_sqlite, translated
from seedbed.runtime.store.port import Commit, Entry, RunRow, StoreRefusedError
from seedbed.runtime.store.schema import (
    checkpoints,
    journal,
    large_values,
    partitions,
    runs,
    snapshots,
    value_uses,
)
from seedbed.runtime.store.sqlite_writing import SqliteWriter

OPERATION_SECONDS = 20.0
MIGRATION_SECONDS = 300.0
LISTED = 1000
_MIGRATION_LOCK = 7_362_541_902

_Rows = Sequence[Mapping[str, Any]]

_RUN = (
    runs.c.run,
    runs.c.partition,
    runs.c.namespace,
    runs.c.workflow,
    runs.c.request,
    runs.c.summary,
    runs.c.finished,
)
_FENCE = (
    update(partitions)
    .where(partitions.c.partition == bindparam("of"), partitions.c.token <= bindparam("mine"))
    .values(token=bindparam("mine"))
)
_TOKEN = select(partitions.c.token).where(partitions.c.partition == bindparam("of"))
_APPEND = insert(journal)
_SUMMARISE = (
    update(runs)
    .where(runs.c.run == bindparam("of"))
    .values(summary=bindparam("newest"), finished=bindparam("ended"))
)
_UNFINISHED = (
    select(*_RUN)
    .where(runs.c.partition == bindparam("of"), runs.c.finished == false())
    .order_by(runs.c.position)
)
_BY_ID = select(*_RUN).where(runs.c.run == bindparam("of"))
_NAMED = select(*_RUN).where(runs.c.run.in_(bindparam("names", expanding=True)))
_NAMED_AT_ONCE = 500
_LIST = (
    select(*_RUN)
    .where(runs.c.namespace == bindparam("namespace"))
    .order_by(runs.c.position.desc())
    .limit(LISTED)
)
_LIST_ONE = _LIST.where(runs.c.workflow == bindparam("workflow"))
_ENDED = (
    select(runs.c.run)
    .where(
        runs.c.namespace == bindparam("namespace"),
        runs.c.workflow == bindparam("workflow"),
        runs.c.finished == true(),
    )
    .order_by(runs.c.position.desc())
    .limit(bindparam("most"))
)
_JOURNAL = (
    select(journal.c.run, journal.c.seq, journal.c.records)
    .where(journal.c.run == bindparam("of"), journal.c.seq > bindparam("after"))
    .order_by(journal.c.seq)
)
_JOURNAL_PAGE = _JOURNAL.limit(bindparam("most"))
_SNAPSHOT = select(snapshots.c.run, snapshots.c.seq, snapshots.c.records).where(
    snapshots.c.run == bindparam("of")
)
_LAST = union_all(
    select(func.max(journal.c.seq)).where(journal.c.run == bindparam("of")),
    select(func.max(snapshots.c.seq)).where(snapshots.c.run == bindparam("of")),
)
_VALUE = select(large_values.c.data).where(large_values.c.digest == bindparam("of"))
_FORGET = tuple(
    delete(table).where(table.c.run == bindparam("of"))
    for table in (journal, snapshots, checkpoints, value_uses, runs)
)
_USED = select(value_uses.c.digest).where(value_uses.c.run == bindparam("of"))
_DROP = delete(large_values).where(
    large_values.c.digest == bindparam("value"),
    ~exists().where(value_uses.c.digest == large_values.c.digest),
)
_LATER = runs.alias("later")
_SUPERSEDED = (
    select(*_RUN)
    .where(
        runs.c.partition == bindparam("of"),
        runs.c.finished == true(),
        exists().where(
            _LATER.c.namespace == runs.c.namespace,
            _LATER.c.workflow == runs.c.workflow,
            _LATER.c.position > runs.c.position,
        ),
    )
    .order_by(runs.c.position)
    .limit(100)
)


class SqlStore:
    """A Store on a database that SQLAlchemy speaks to; see `Store` for what each method promises.

    When `commit` raises UnavailableError, the group may be written or not: its outcome is read back
    with `journal`, or it is sent again and a ConflictError says that it was written.
    """

    def __init__(self, engine: AsyncEngine, migrating: AsyncEngine | None = None) -> None:
        """`migrating`: an engine whose commands may take long."""
        self._engine = engine
        self._migrating = migrating or engine
        self._reading = engine.execution_options(**{READ_ONLY: True}).execution_options(
            **({} if engine.dialect.name == "sqlite" else {"isolation_level": "AUTOCOMMIT"})
        )
        # SQLite has one writer; waiting here is fair, while its own busy handler sleeps and races.
        self._writer = asyncio.Lock() if engine.dialect.name == "sqlite" else None
        path = engine.url.database or ""
        self._commits = (
            SqliteWriter(partial(connect_sqlite, path), self._writer) if self._writer else None
        )
        self._claim = self._upsert_claim()
        self._start = self._insert_new(runs, "run")
        self._keep = self._insert_new(large_values, "digest")
        self._use = self._insert_new(value_uses, "run", "digest")
        self._snapshot = self._upsert_snapshot()

    @classmethod
    def open(cls, url: str, connections: int = 8) -> SqlStore:
        """A store on `sqlite:///PATH` or `postgresql://...`; it connects when first used.

        Raises:
            InvalidError: where the URL is neither.
        """
        return cls(connect(url, connections), connect(url, 1, MIGRATION_SECONDS))

    async def migrate(self) -> None:
        """Bring the schema to this version; see `Store.migrate`."""
        async with self._begun(self._migrating, MIGRATION_SECONDS) as connection:
            if connection.dialect.name == "postgresql":
                for setting in ("statement_timeout", "idle_in_transaction_session_timeout"):
                    await connection.execute(text(f"SET LOCAL {setting} = 0"))
                lock = text("SELECT pg_advisory_xact_lock(:key)")
                await connection.execute(lock, {"key": _MIGRATION_LOCK})
            await connection.run_sync(_upgrade)
        if self._migrating is not self._engine:
            await self._migrating.dispose()

    async def claim(self, partition: int, token: int) -> None:
        """Take a partition over; see `Store.claim`."""
        async with self.transaction() as connection:
            result = await connection.execute(self._claim, {"partition": partition, "token": token})
            if result.rowcount == 0:
                raise await _fenced(connection, partition, token)

    async def commit(self, partition: int, token: int, commit: Commit) -> None:
        """Write a group durably; see `Store.commit`."""
        if self._commits is not None:
            await self._commits.commit(partition, token, commit)
            return
        async with self.fenced(partition, token) as connection:
            for statement, rows in self._statements(commit):
                if rows:
                    await connection.execute(statement, rows)

    @asynccontextmanager
    async def fenced(self, partition: int, token: int) -> AsyncIterator[AsyncConnection]:
        """A transaction under a partition's token: committed at the end, or undone by an error.

        Raises:
            FencedError: where a larger token has claimed the partition.
        """
        async with self.transaction() as connection:
            result = await connection.execute(_FENCE, {"of": partition, "mine": token})
            if result.rowcount == 0:
                raise await _fenced(connection, partition, token)
            yield connection

    def _statements(self, commit: Commit) -> list[tuple[Insert | Update, _Rows]]:
        summaries = commit.summaries or {}
        values = commit.values or {}
        return [
            (self._start, [_run_values(row) for row in commit.runs]),
            (_APPEND, [_entry_values(entry) for entry in commit.entries]),
            (
                _SUMMARISE,
                [{"of": run, "newest": new, "ended": end} for run, (new, end) in summaries.items()],
            ),
            # In order of the digest, so that two writers of the same values never wait in a circle.
            (self._keep, [{"digest": key, "data": values[key]} for key in sorted(values)]),
            (self._use, [{"run": run, "digest": digest} for run, digest in commit.uses]),
            (self._snapshot, [_entry_values(entry) for entry in commit.snapshots]),
        ]

    async def unfinished(self, partition: int) -> list[RunRow]:
        """The partition's runs that have not ended, oldest first."""
        return [RunRow(*row) for row in await self.rows(_UNFINISHED, of=partition)]

    async def run(self, run: str) -> RunRow | None:
        """One run, or None."""
        rows = await self.rows(_BY_ID, of=run)
        return RunRow(*rows[0]) if rows else None

    async def named(self, names: Sequence[str]) -> list[RunRow]:
        """Those of many runs that are there; see `Store.named`."""
        found: list[RunRow] = []
        for at in range(0, len(names), _NAMED_AT_ONCE):
            some = list(names[at : at + _NAMED_AT_ONCE])
            found += [RunRow(*row) for row in await self.rows(_NAMED, names=some)]
        return found

    async def runs(self, namespace: str, workflow: str | None = None) -> list[RunRow]:
        """Runs of a namespace, newest first; see `Store.runs`."""
        if workflow is None:
            rows = await self.rows(_LIST, namespace=namespace)
        else:
            rows = await self.rows(_LIST_ONE, namespace=namespace, workflow=workflow)
        return [RunRow(*row) for row in rows]

    async def ended(self, namespace: str, workflow: str, most: int) -> list[str]:
        """The ids of a Workflow's last ended runs; see `Store.ended`."""
        rows = await self.rows(_ENDED, namespace=namespace, workflow=workflow, most=most)
        return [row[0] for row in rows]

    async def journal(self, run: str, after: int = 0, *, limit: int = 0) -> list[Entry]:
        """A run's journal entries behind position `after`; see `Store.journal`."""
        if limit:
            rows = await self.rows(_JOURNAL_PAGE, of=run, after=after, most=limit)
        else:
            rows = await self.rows(_JOURNAL, of=run, after=after)
        return [Entry(*row) for row in rows]

    async def last(self, run: str) -> int:
        """Position of a run's last journal entry; 0 where it has none."""
        return max(seq or 0 for (seq,) in await self.rows(_LAST, of=run))

    async def snapshot(self, run: str) -> Entry | None:
        """A run's newest snapshot, or None."""
        rows = await self.rows(_SNAPSHOT, of=run)
        return Entry(*rows[0]) if rows else None

    async def value(self, digest: str) -> bytes | None:
        """A large value by content hash, or None."""
        rows = await self.rows(_VALUE, of=digest)
        return bytes(rows[0][0]) if rows else None

    async def superseded(self, partition: int) -> list[RunRow]:
        """Runs that have ended and have a successor; see `Store.superseded`."""
        return [RunRow(*row) for row in await self.rows(_SUPERSEDED, of=partition)]

    async def delete_run(self, run: str) -> None:
        """Forget a run and what only it needs; see `Store.delete_run`."""
        async with self.transaction() as connection:
            used = list((await connection.execute(_USED, {"of": run})).scalars())
            if used and connection.dialect.name == "postgresql":
                # A commit that counts on a value, and has not said so yet, ends first or begins after.
                await connection.execute(
                    text("LOCK TABLE large_values IN SHARE ROW EXCLUSIVE MODE")
                )
            for statement in _FORGET:
                await connection.execute(statement, {"of": run})
            if used:
                await connection.execute(_DROP, [{"value": digest} for digest in used])

    async def close(self) -> None:
        """Release every connection."""
        if self._commits is not None:
            await self._commits.close()
        await self._engine.dispose()

    @asynccontextmanager
    async def transaction(self, limit: float = OPERATION_SECONDS) -> AsyncIterator[AsyncConnection]:
        """A transaction without a fence, for what no partition owns."""
        async with self._begun(self._engine, limit) as connection:
            yield connection

    @asynccontextmanager
    async def _begun(self, engine: AsyncEngine, limit: float) -> AsyncIterator[AsyncConnection]:
        with translated():
            async with asyncio.timeout(limit), AsyncExitStack() as stack:
                if self._writer is not None:
                    await stack.enter_async_context(self._writer)
                yield await stack.enter_async_context(engine.begin())

    async def rows(self, statement: Any, **values: Any) -> list[tuple[Any, ...]]:
        """What a SELECT gives, outside of any transaction."""
        with translated():
            async with asyncio.timeout(OPERATION_SECONDS), self._reading.connect() as connection:
                return [tuple(row) for row in await connection.execute(statement, values)]

    @property
    def dialect(self) -> str:
        """`sqlite` or `postgresql`."""
        return str(self._engine.dialect.name)

    def insert(self, table: Table) -> Any:
        """An INSERT that can say what to do where the row exists."""
        dialect = sqlite if self._engine.dialect.name == "sqlite" else postgresql
        return dialect.insert(table)

    def _insert_new(self, table: Table, *key: str) -> Insert:
        statement: Insert = self.insert(table).on_conflict_do_nothing(index_elements=[*key])
        return statement

    def _upsert_claim(self) -> Insert:
        new = self.insert(partitions)
        statement: Insert = new.on_conflict_do_update(
            index_elements=["partition"],
            set_={"token": new.excluded.token},
            where=partitions.c.token <= new.excluded.token,
        )
        return statement

    def _upsert_snapshot(self) -> Insert:
        new = self.insert(snapshots)
        statement: Insert = new.on_conflict_do_update(
            index_elements=["run"],
            set_={"seq": new.excluded.seq, "records": new.excluded.records},
            where=snapshots.c.seq < new.excluded.seq,
        )
        return statement


async def _fenced(connection: AsyncConnection, partition: int, token: int) -> FencedError:
    newest = (await connection.execute(_TOKEN, {"of": partition})).scalar_one_or_none()
    return FencedError(f"partition/{partition}", token, newest)


def _run_values(row: RunRow) -> dict[str, Any]:
    return {
        "run": row.run,
        "partition": row.partition,
        "namespace": row.namespace,
        "workflow": row.workflow,
        "request": row.request,
        "summary": row.summary,
        "finished": row.finished,
    }


def _entry_values(entry: Entry) -> dict[str, Any]:
    return {"run": entry.run, "seq": entry.seq, "records": entry.records}


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreRefusedError(
            f"the database has the schema of a newer version, which this one cannot read: {error}"
        ) from error
