"""Writing group commits to SQLite: one thread, and all that waits in one transaction.

Partitions commit side by side, SQLite has one writer. Commits that arrive while another is being
written go together in the next transaction, each behind a savepoint of its own: one that is refused
takes nothing of the others with it. A commit is few statements, each compiled once.

To wake a thread and to be woken by it takes longer than a small commit on a fast disk. So one that
comes alone is written where it stands, as long as the last ones were written at once: a chain of
steps goes twice as fast, and a slow disk never holds the event loop up for more than one commit.
"""

from __future__ import annotations

import asyncio
import math
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from msgspec import Struct

from seedbed.crds.errors import ConflictError, FencedError, SeedbedError, UnavailableError
from seedbed.runtime.store.database import STATEMENT_SECONDS, passes
from seedbed.runtime.store.port import Commit

MOST_AT_ONCE = 256
"""Commits in one transaction."""
SWIFT_SECONDS = 0.001
"""A disk that usually takes less than this for a small commit need not be waited for by a thread.

Well above what a common disk takes, 0.25 ms and twice that where the log's file grows: a writer that goes
to and fro between the two ways is slower than in either.
"""
SMALL_BYTES = 16 * 1024
_USUAL_OF = 8
"""Over about so many commits it is told what is usual."""

_RAISE = "UPDATE partitions SET token = ? WHERE partition = ?"
_NEWEST = "SELECT token FROM partitions WHERE partition = ?"
_START = (
    "INSERT INTO runs (run, partition, namespace, workflow, request, summary, finished)"
    " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (run) DO NOTHING"
)
_APPEND = "INSERT INTO journal (run, seq, records) VALUES (?, ?, ?)"
_APPEND_ALONE = (
    "INSERT INTO journal (run, seq, records) SELECT ?, ?, ?"
    " WHERE EXISTS (SELECT 1 FROM partitions WHERE partition = ? AND token = ?)"
)
_SUMMARISE = "UPDATE runs SET summary = ?, finished = ? WHERE run = ?"
_KEEP = "INSERT INTO large_values (digest, data) VALUES (?, ?) ON CONFLICT (digest) DO NOTHING"
_USE = "INSERT INTO value_uses (run, digest) VALUES (?, ?) ON CONFLICT (run, digest) DO NOTHING"
_SNAPSHOT = (
    "INSERT INTO snapshots (run, seq, records) VALUES (?, ?, ?) ON CONFLICT (run)"
    " DO UPDATE SET seq = excluded.seq, records = excluded.records"
    " WHERE snapshots.seq < excluded.seq"
)


class _Job(Struct):
    partition: int
    token: int
    commit: Commit
    small: bool
    done: bool = False
    error: Exception | None = None


class SqliteWriter:
    """Writes commits through one connection.

    Args:
        connect: opens the connection, which waits for other processes that write for so many seconds.
        lock: held by whoever writes to the database in this process.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection], lock: asyncio.Lock) -> None:
        self._connect = connect
        self._lock = lock
        self._jobs: list[_Job] = []
        self._connection: sqlite3.Connection | None = None
        self._usual = math.inf
        self._last = -1
        self._wait = STATEMENT_SECONDS
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def commit(self, partition: int, token: int, commit: Commit) -> None:
        """Write a group durably; see `Store.commit`."""
        job = _Job(partition, token, commit, _is_small(commit))
        if self._is_alone(job):
            self._write([job], wait=0)
        else:
            await self._write_in_turn(job)
        if job.error is not None:
            raise job.error

    async def close(self) -> None:
        """Close the connection and end the thread."""
        async with self._lock:
            if self._thread is not None:
                await self._in_thread(self._disconnect)
                self._work.put(None)
                self._thread = None

    def _is_alone(self, job: _Job) -> bool:
        """Whether to write at once: a small commit on a swift disk, of who wrote the last one too.

        Others that commit side by side with it would have written in between.
        """
        if self._usual >= SWIFT_SECONDS or job.partition != self._last:
            return False
        return job.small and not self._jobs and not self._lock.locked()

    async def _write_in_turn(self, job: _Job) -> None:
        self._jobs.append(job)
        try:
            async with self._lock:
                # Whoever comes first writes for all that wait; they find it done.
                if not job.done:
                    await self._write_waiting()
        finally:
            if not job.done and job in self._jobs:
                self._jobs.remove(job)

    async def _write_waiting(self) -> None:
        if self._usual < SWIFT_SECONDS:
            # Those that are about to commit join, and then a thread is worth it.
            await asyncio.sleep(0)
        jobs, self._jobs = self._jobs[:MOST_AT_ONCE], self._jobs[MOST_AT_ONCE:]
        self._last = jobs[0].partition if len(jobs) == 1 else -1
        await self._in_thread(partial(self._write, jobs, wait=STATEMENT_SECONDS))

    async def _in_thread(self, work: Callable[[], None]) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="seedbed-sqlite", daemon=True)
            self._thread.start()
        loop, ended = asyncio.get_running_loop(), asyncio.Event()

        def whole() -> None:
            work()
            if not loop.is_closed():
                loop.call_soon_threadsafe(ended.set)

        self._work.put(whole)
        try:
            await ended.wait()
        except asyncio.CancelledError:
            # The thread cannot be stopped, and nobody else may write before it has ended.
            await ended.wait()
            raise

    def _serve(self) -> None:
        """The thread's life."""
        while (work := self._work.get()) is not None:
            work()

    def _write(self, jobs: Sequence[_Job], wait: int) -> None:
        """Write in one transaction; whatever goes wrong is told to those who wait.

        Args:
            jobs: what to write.
            wait: seconds for which other processes may keep it from beginning; in place none, and
                what is refused then is tried again in the thread.
        """
        began = time.perf_counter()
        try:
            _transaction(self._waiting_for(wait), jobs)
        except Exception as error:  # noqa: BLE001  # handed over to the waiting tasks
            self._disconnect()
            self._usual = math.inf
            for job in jobs:
                job.error = _translated(error)
        else:
            if len(jobs) == 1 and jobs[0].small:
                self._note(time.perf_counter() - began)
        for job in jobs:
            job.done = True

    def _note(self, seconds: float) -> None:
        """A small commit has taken so long; one that takes very long counts as not much more."""
        known = seconds if self._usual == math.inf else self._usual
        self._usual = known + (min(seconds, 2 * SWIFT_SECONDS) - known) / _USUAL_OF

    def _waiting_for(self, wait: int) -> sqlite3.Connection:
        """The connection, which waits for other processes for so many seconds."""
        if self._connection is None:
            self._connection, self._wait = self._connect(), STATEMENT_SECONDS
        if self._wait != wait:
            self._connection.execute(f"PRAGMA busy_timeout={wait * 1000}")
            self._wait = wait
        return self._connection

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


def _transaction(connection: sqlite3.Connection, jobs: Sequence[_Job]) -> None:
    run = connection.execute
    try:
        if len(jobs) == 1 and _appended(connection, jobs[0]):
            return
        run("BEGIN IMMEDIATE")
        for job in jobs:
            if len(jobs) == 1:
                _apply(connection, job)
                continue
            run("SAVEPOINT one")
            try:
                _apply(connection, job)
            except (SeedbedError, sqlite3.IntegrityError) as error:
                run("ROLLBACK TO one")
                job.error = _translated(error)
            run("RELEASE one")
        run("COMMIT")
    except (SeedbedError, sqlite3.IntegrityError) as error:
        if connection.in_transaction:
            run("ROLLBACK")
        jobs[0].error = _translated(error)
    except BaseException:
        if connection.in_transaction:
            run("ROLLBACK")
        raise


def _appended(connection: sqlite3.Connection, job: _Job) -> bool:
    """Write what most small commits are, one entry under a token that stands there, in one statement.

    The statement is a transaction of its own; it writes nothing where the token is another one.
    """
    commit = job.commit
    if len(commit.entries) != 1 or commit.runs or commit.summaries:
        return False
    if commit.values or commit.uses or commit.snapshots:
        return False
    entry = commit.entries[0]
    row = (entry.run, entry.seq, entry.records, job.partition, job.token)
    return connection.execute(_APPEND_ALONE, row).rowcount == 1


def _apply(connection: sqlite3.Connection, job: _Job) -> None:
    run, commit = connection.execute, job.commit
    # Nobody else writes while this transaction is open. A token that stands there already is not
    # written again, which would be a page more on disk for each commit.
    newest = run(_NEWEST, (job.partition,)).fetchone()
    if newest is None or newest[0] > job.token:
        raise FencedError(f"partition/{job.partition}", job.token, newest and newest[0])
    if newest[0] < job.token:
        run(_RAISE, (job.token, job.partition))
    for statement, rows in _statements(commit):
        for row in rows:
            run(statement, row)


def _statements(commit: Commit) -> Iterable[tuple[str, Iterable[tuple[Any, ...]]]]:
    yield (
        _START,
        (
            (
                row.run,
                row.partition,
                row.namespace,
                row.workflow,
                row.request,
                row.summary,
                row.finished,
            )
            for row in commit.runs
        ),
    )
    yield _APPEND, ((each.run, each.seq, each.records) for each in commit.entries)
    summaries = commit.summaries or {}
    yield _SUMMARISE, ((new, ended, run) for run, (new, ended) in summaries.items())
    yield _KEEP, (commit.values or {}).items()
    yield _USE, commit.uses
    yield _SNAPSHOT, ((each.run, each.seq, each.records) for each in commit.snapshots)


def _is_small(commit: Commit) -> bool:
    """Whether it is a few rows of one run."""
    if commit.values or commit.snapshots or len(commit.entries) > 1 or len(commit.runs) > 1:
        return False
    return not commit.entries or len(commit.entries[0].records) < SMALL_BYTES


def _translated(error: Exception) -> Exception:
    if isinstance(error, sqlite3.IntegrityError):
        return ConflictError("what was to be written exists already")
    if passes(error):
        return UnavailableError(f"the database refused: {error}")
    return error
