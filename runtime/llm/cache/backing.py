"""The store behind the answers in memory, so that requests neither wait for it nor fail with it.

Writes gather and go out in batches; those of the last half second are lost with the process, which
costs nothing but asking a model again. Look-ups of many requests share one query, are waited for a
moment only, and rest where the store does not answer. A namespace's newest answers are read into
memory when it is first heard of.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

from seedbed.crds.errors import SeedbedError
from seedbed.runtime.llm.cache.counting import Counting
from seedbed.runtime.store.answers import AnswerKey, AnswerRow, AnswerStore, Selection
from seedbed.runtime.store.port import StoreRefusedError

T = TypeVar("T")

log = logging.getLogger(__name__)

FLUSH = 0.5
"""Seconds between two batches."""
PENDING = 10_000
"""Rows that may wait to be written; more are not kept beyond memory."""
PATIENCE = 0.05
"""Seconds that a request waits for the store."""
REST = 5.0
"""Seconds that a store which failed is left alone."""
PAGE = 200
IN_VAIN, SELDOM = 100, 20
"""After so many queries that found nothing one in `SELDOM` look-ups asks, until one finds something."""
CLOSEST = 4
SEARCHES = 16
"""Searches and readings under way at once; more are left out."""
TRIM = 300.0
FAREWELL = 5.0

Loaded = Callable[[AnswerRow], bool]
"""Takes a row of the store into memory; False where no more fit."""


class Backing:
    """See the module; works while `running` is open.

    Args:
        entries: most rows of one namespace.
        grace: seconds that rows stay beyond their time.
    """

    def __init__(
        self,
        store: AnswerStore,
        counting: Counting,
        *,
        entries: int,
        grace: float,
        loaded: Loaded,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._counting = counting
        self._entries = entries
        self._grace = grace
        self._loaded = loaded
        self._wall = wall
        self._rows: dict[AnswerKey, AnswerRow] = {}
        self._hits: dict[str, int] = {}
        self._taught: dict[str, bytes] = {}
        self._asked: dict[AnswerKey, asyncio.Future[AnswerRow | None]] = {}
        self._someone_asks = asyncio.Event()
        self._fruitless: dict[str, int] = {}
        self._left_out = 0
        self._writing = asyncio.Lock()
        self._rests_until = 0.0
        self._whole: dict[str, bool] = {}
        self._others: set[asyncio.Task[Any]] = set()
        self._tasks: asyncio.TaskGroup | None = None

    def put(self, row: AnswerRow) -> None:
        """Write a row with the next batch."""
        if len(self._rows) < PENDING:
            self._rows[row.key] = row

    def used(self, row: AnswerRow) -> None:
        """Count a hit."""
        self._hits[row.id] = self._hits.get(row.id, 0) + 1

    def learnt(self, row: str, taught: bytes) -> None:
        """Note what a row has taught."""
        self._taught[row] = taught

    def heard_of(self, namespace: str) -> None:
        """Somebody of the namespace has come: its answers are read, once."""
        if namespace not in self._whole and self._tasks is not None:
            self._whole[namespace] = False
            self._begin(self._load(namespace))

    async def find(self, key: AnswerKey) -> AnswerRow | None:
        """The row of a prompt that is not in memory; None also where the store is slow or away."""
        if self._resting() or not self._is_worth(key[0]):
            return None
        future = self._asked.get(key)
        if future is None:
            future = self._asked[key] = asyncio.get_running_loop().create_future()
            self._someone_asks.set()
        try:
            async with asyncio.timeout(PATIENCE):
                found = await asyncio.shield(future)
        except TimeoutError:
            return None
        self._fruitless[key[0]] = 0 if found else self._fruitless.get(key[0], 0) + 1
        return found

    def _is_worth(self, namespace: str) -> bool:
        """Whether to ask the store: not where all is here, seldom where nobody else adds anything.

        A query takes longer than all else that the cache does. A single gateway asks in vain each time.
        """
        if not self._whole.get(namespace, False):
            return True
        if not self._store.shared:
            return False
        if self._fruitless.get(namespace, 0) < IN_VAIN:
            return True
        self._left_out += 1
        return self._left_out % SELDOM == 0

    async def nearest(self, namespace: str, scope: str, embedding: bytes) -> list[AnswerRow]:
        """The rows of a scope that are closest to a vector; none where the store is slow or away."""
        full = len(self._others) >= SEARCHES
        if self._tasks is None or not self._store.vectors or full or self._resting():
            return []
        # A query that is given up costs its connection: it goes on, and nobody waits for it.
        task = self._begin(self._nearest(namespace, scope, embedding))
        await asyncio.wait({task}, timeout=PATIENCE)
        return task.result() if task.done() and not task.cancelled() else []

    async def _nearest(self, namespace: str, scope: str, embedding: bytes) -> list[AnswerRow]:
        try:
            return await self._store.nearest(namespace, scope, embedding, CLOSEST)
        except SeedbedError as error:
            self._fail(error)
            return []

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        assert self._tasks is not None
        task = self._tasks.create_task(work)
        self._others.add(task)
        task.add_done_callback(self._others.discard)
        return task

    async def forget(self, chosen: Selection) -> int:
        """Forget rows, also those that wait to be written.

        Raises:
            UnavailableError: where the store does not answer.
        """
        # A batch under way is written first: what it writes is removed then.
        async with self._writing:
            for key in [key for key, row in self._rows.items() if chosen.holds(row)]:
                del self._rows[key]
            return await self._store.remove(chosen)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Reads and writes go on while the context is open; the last batch is written at its end."""
        async with asyncio.TaskGroup() as group:
            self._tasks = group
            tasks = [
                group.create_task(each)
                for each in (self._write_on(), self._read_on(), self._trim_on())
            ]
            try:
                yield
            finally:
                self._tasks = None
                for task in (*tasks, *self._others):
                    task.cancel()
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL):
                await self._write()

    async def _write_on(self) -> None:
        while True:
            await asyncio.sleep(FLUSH)
            async with self._writing:
                written = await self._write()
            if not written:
                await asyncio.sleep(REST)

    async def _write(self) -> bool:
        """Write what has gathered; False where the store did not take it, which is tried again."""
        rows, self._rows = self._rows, {}
        hits, self._hits = self._hits, {}
        taught, self._taught = self._taught, {}
        sums = self._counting.take()
        day = datetime.fromtimestamp(self._wall(), UTC).strftime("%Y-%m-%d")
        try:
            await self._store.count(day, sums)
        except SeedbedError:
            self._counting.give_back(sums)
        try:
            await self._store.put(list(rows.values()))
            await self._store.used(hits)
            await self._store.learnt(taught)
        except StoreRefusedError as error:
            # Nobody knows which of them it is, and it would be in the way of all that come.
            log.warning("%d cached answers are not stored: %s", len(rows), error)
            return False
        except SeedbedError as error:
            log.warning("%d cached answers wait to be stored: %s", len(rows), error)
            self._rows = dict(list((rows | self._rows).items())[-PENDING:])
            return False
        return True

    async def _read_on(self) -> None:
        while True:
            await self._someone_asks.wait()
            self._someone_asks.clear()
            asked, self._asked = self._asked, {}
            found: dict[AnswerKey, AnswerRow] = {}
            try:
                async with asyncio.timeout(REST):
                    found = {row.key: row for row in await self._store.find(list(asked))}
            except (SeedbedError, TimeoutError) as error:
                self._fail(error)
            finally:
                for key, future in asked.items():
                    if not future.done():
                        future.set_result(found.get(key))

    def _resting(self) -> bool:
        return self._tasks is None or time.monotonic() < self._rests_until

    def _fail(self, error: Exception) -> None:
        self._rests_until = time.monotonic() + REST
        reason = str(error) or type(error).__name__
        log.warning("cached answers are not looked up in the store for a while: %s", reason)

    async def _load(self, namespace: str) -> None:
        """Read a namespace's newest answers, a page at a time."""
        before, left = float("inf"), self._entries
        try:
            while left > 0:
                page = await self._store.newest(namespace, min(PAGE, left), before)
                for row in page:
                    if not self._loaded(row):
                        return
                    await asyncio.sleep(0)
                if len(page) < min(PAGE, left):
                    break
                left, before = left - len(page), page[-1].created_at
        except SeedbedError as error:
            log.warning("the cached answers of %s are not read: %s", namespace, error)
            del self._whole[namespace]
            return
        self._whole[namespace] = left > 0

    async def _trim_on(self) -> None:
        while True:
            await asyncio.sleep(TRIM)
            try:
                await self._store.trim(self._wall() - self._grace, self._entries)
            except SeedbedError as error:
                log.warning("cached answers that ran out are not removed: %s", error)
