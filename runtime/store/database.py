"""Connecting to SQLite and PostgreSQL, and telling their errors in Seedbed's words.

Time limits stand at three places: the server ends a statement or an idle transaction (so that a
paused owner cannot hold a partition's row lock), the driver gives up on a command, and the store on
the whole operation.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg  # type: ignore[import-untyped]  # it ships no types
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Connection, ExceptionContext, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, PoolProxiedConnection

from seedbed.crds.errors import ConflictError, InvalidError, UnavailableError
from seedbed.runtime.store.port import StoreRefusedError

STATEMENT_SECONDS = 10
COMMAND_SECONDS = 12.0
"""After that the driver gives up on a server that says nothing at all."""
IDLE_SECONDS = 5
CONNECT_SECONDS = 5
READ_ONLY = "seedbed_read_only"
"""Execution option: single SELECTs that need no transaction."""

# PostgreSQL's SQLSTATE classes that pass by themselves: connection, transaction rollback (deadlock),
# insufficient resources, lock not available, operator intervention (restart, statement timeout).
_READ_ONLY_SERVER = "25006"
"""What a server says that leads no more: another one does, and a new connection finds it."""
_PASSING = (_READ_ONLY_SERVER, "08", "25P03", "40", "53", "55P03", "57")


def connect(url: str, connections: int, limit: float | None = None) -> AsyncEngine:
    """An engine for `sqlite:///PATH` or `postgresql://...` (with every option that libpq's URLs take).

    `limit`: seconds for one command, where it is not that of ordinary work.

    Raises:
        InvalidError: where the URL is neither.
    """
    try:
        parsed = make_url(url)
    except exc.ArgumentError as error:
        raise InvalidError("store url", "expected sqlite:///PATH or postgresql://...") from error
    backend = parsed.get_backend_name()
    if backend == "sqlite" and parsed.database not in (None, "", ":memory:"):
        return _sqlite(parsed, connections)
    if backend == "postgresql":
        return _postgresql(parsed, connections, limit or COMMAND_SECONDS)
    raise InvalidError("store url", "expected sqlite:///PATH or postgresql://...")


def _sqlite(url: URL, connections: int) -> AsyncEngine:
    engine = create_async_engine(
        url.set(drivername="sqlite+aiosqlite"),
        pool_size=connections,
        max_overflow=0,
        pool_timeout=CONNECT_SECONDS,
        connect_args={"timeout": STATEMENT_SECONDS},
    )

    @event.listens_for(engine.sync_engine, "connect")
    def prepare(connection: Any, _record: ConnectionPoolEntry) -> None:
        # The driver's own transactions begin too late: after the first read.
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA journal_mode=WAL")
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Connection) -> None:
        if not connection.get_execution_options().get(READ_ONLY):
            connection.exec_driver_sql("BEGIN IMMEDIATE")

    return engine


def _postgresql(url: URL, connections: int, limit: float) -> AsyncEngine:
    dsn = url.set(drivername="postgresql").render_as_string(hide_password=False)

    async def create() -> Any:
        return await asyncpg.connect(
            dsn,
            timeout=CONNECT_SECONDS,
            command_timeout=limit,
            server_settings={
                "application_name": "seedbed",
                "statement_timeout": f"{STATEMENT_SECONDS}s",
                "idle_in_transaction_session_timeout": f"{IDLE_SECONDS}s",
            },
        )

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=create,
        pool_size=connections,
        max_overflow=0,
        pool_timeout=CONNECT_SECONDS,
    )

    @event.listens_for(engine.sync_engine, "checkout")
    def discard_closed(
        _connection: Any, record: ConnectionPoolEntry, _proxy: PoolProxiedConnection
    ) -> None:
        # The driver knows at once when the server has hung up, so no ping has to be sent.
        driver = record.driver_connection
        if driver is not None and driver.is_closed():
            raise exc.InvalidatePoolError

    @event.listens_for(engine.sync_engine, "handle_error")
    def leave_former_leader(context: ExceptionContext) -> None:
        if getattr(context.original_exception, "sqlstate", None) == _READ_ONLY_SERVER:
            context.is_disconnect = True

    return engine


def connect_sqlite(path: str) -> sqlite3.Connection:
    """A plain connection to a SQLite file, every transaction of which is on disk when it ends."""
    connection = sqlite3.connect(
        path, timeout=STATEMENT_SECONDS, isolation_level=None, check_same_thread=False
    )
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    return connection


@contextmanager
def translated() -> Iterator[None]:
    """Turn what drivers raise into UnavailableError, ConflictError and StoreRefusedError."""
    try:
        yield
    except exc.IntegrityError as error:
        raise ConflictError("what was to be written exists already") from error
    except exc.DBAPIError as error:
        if error.connection_invalidated or passes(error.orig):
            raise UnavailableError(f"the database refused: {error.orig}") from error
        raise StoreRefusedError(f"the database refused for good: {_told(error.orig)}") from error
    except asyncpg.PostgresError as error:
        # Raised while connecting, where SQLAlchemy does not translate.
        if passes(error):
            raise UnavailableError(f"the database refused: {error}") from error
        raise StoreRefusedError(f"the database refused for good: {_told(error)}") from error
    except (OverflowError, UnicodeEncodeError) as error:
        # SQLite's driver says so where a value cannot be written at all.
        raise StoreRefusedError(f"the database refused for good: {error}") from error
    except (OSError, TimeoutError, exc.TimeoutError, asyncpg.InterfaceError) as error:
        reason = str(error) or type(error).__name__
        raise UnavailableError(f"the database does not answer: {reason}") from error


def _told(error: BaseException | None) -> str:
    """What a driver said, without the names of its classes; at most a line."""
    return str(error).rpartition("'>: ")[2].partition("\n")[0][:300]


def passes(error: BaseException | None) -> bool:
    """Whether what a driver raised passes by itself, so that trying again may help."""
    state = getattr(error, "sqlstate", None)
    if state is not None:
        return str(state).startswith(_PASSING)
    # SQLite: locked, disk full or unreadable; PostgreSQL without a state: the connection broke.
    name = getattr(error, "sqlite_errorname", None)
    if name is not None:
        return str(name).startswith(("SQLITE_BUSY", "SQLITE_FULL", "SQLITE_IOERR", "SQLITE_LOCKED"))
    return False
