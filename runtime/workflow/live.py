"""Following runs: from their journals, then live from the event log, without a gap and without a repeat.

The journal is read page by page at the reader's own pace. What the event log brings meanwhile is kept
only as far as a bound; beyond it, and wherever entries are missing, the journal is read again. So a slow
reader costs a fixed amount of memory, and a lost event costs one more read.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager

from seedbed.crds.addresses import partition_of
from seedbed.crds.errors import InvalidError, UnavailableError
from seedbed.runtime.bus.events import NEW, Event, EventLog
from seedbed.runtime.store.port import Entry, Store
from seedbed.runtime.workflow.run_events import GAP, RunEvent, events_of, is_end, position
from seedbed.runtime.workflow.telling import JOURNAL, read

PAGE = 100
"""Journal entries read at once."""
KEPT_ENTRIES = 256
KEPT_BYTES = 1024 * 1024
"""What a listener keeps of live entries that its reader has not taken."""
LOOK_EVERY = 5.0
"""Seconds after which the journal is read although nothing was heard."""

_HEAR_SECONDS = 30.0
_AGAIN_SECONDS = 0.5

_log = logging.getLogger(__name__)


class _Listener:
    """The live entries of one run for one reader: consecutive ones, or none."""

    def __init__(self, run: str) -> None:
        self.run = run
        self.wake = asyncio.Event()
        self._entries: deque[Entry] = deque()
        self._bytes = 0

    def tell(self, entry: Entry) -> None:
        """The journal has grown."""
        behind = self._entries and entry.seq != self._entries[-1].seq + 1
        full = len(self._entries) >= KEPT_ENTRIES or self._bytes > KEPT_BYTES
        if behind or full or not entry.records:
            self.drop()
        if entry.records:
            self._entries.append(entry)
            self._bytes += len(entry.records)
        self.wake.set()

    def drop(self) -> None:
        """Keep nothing: the journal has it all."""
        self._entries.clear()
        self._bytes = 0
        self.wake.set()

    def take(self, after: int) -> list[Entry]:
        """The entries behind position `after`, where there is no gap before them."""
        while self._entries and self._entries[0].seq <= after:
            self._bytes -= len(self._entries.popleft().records)
        if not self._entries or self._entries[0].seq != after + 1:
            return []
        found = list(self._entries)
        self.drop()
        self.wake.clear()
        return found


class LiveRuns:
    """Runs as they go; make one with `live_runs`."""

    def __init__(
        self, store: Store, events: EventLog | None, tasks: asyncio.TaskGroup, look_every: float
    ) -> None:
        self._store = store
        self._events = events
        self._tasks = tasks
        self._look_every = look_every
        self._listeners: dict[int, set[_Listener]] = {}
        self._hearing: dict[int, asyncio.Task[None]] = {}

    async def follow(
        self, run: str, after: str = "", *, heartbeat: float = 15.0
    ) -> AsyncGenerator[RunEvent | None, None]:
        """A run's events behind an id, to its end; ends at once where nothing can follow.

        Args:
            run: the run's id.
            after: the id of the last event that the reader has.
            heartbeat: seconds of silence after which a None says that there is nothing new.

        Raises:
            InvalidError: `after` is no id.
        """
        reading = _Reading(self._store, run, *position(after))
        with self._listening(run) as listener:
            quiet = time.monotonic()
            while True:
                listener.wake.clear()
                entries = listener.take(reading.entry) or await reading.page()
                for event in reading.events(entries):
                    yield event
                    if is_end(event):
                        return
                    quiet = time.monotonic()
                if entries:
                    continue
                if await self._is_over(run) and not await reading.page():
                    return
                if await _heard(listener, min(self._look_every, heartbeat)):
                    continue
                if time.monotonic() - quiet >= heartbeat:
                    yield None
                    quiet = time.monotonic()

    async def _is_over(self, run: str) -> bool:
        row = await self._store.run(run)
        return row is None or row.finished

    def close(self) -> None:
        """Hear no more."""
        for hearing in self._hearing.values():
            hearing.cancel()

    @contextmanager
    def _listening(self, run: str) -> Iterator[_Listener]:
        """Listen to the run; its partition is followed for as long as anybody listens to it."""
        partition, listener = partition_of(run), _Listener(run)
        listeners = self._listeners.setdefault(partition, set())
        listeners.add(listener)
        if self._events is not None and partition not in self._hearing:
            hearing = self._tasks.create_task(self._hear(self._events, partition))
            self._hearing[partition] = hearing
        try:
            yield listener
        finally:
            listeners.discard(listener)
            if not listeners and partition in self._hearing:
                self._hearing.pop(partition).cancel()

    async def _hear(self, events: EventLog, partition: int) -> None:
        while True:
            try:
                async with events.follow("", partition, ("normal",), start=NEW) as follower:
                    self._look_again(partition)
                    while True:
                        delivered = await follower.next(_HEAR_SECONDS)
                        if delivered is None:
                            continue
                        self._spread(partition, delivered.events)
                        await follower.ack(delivered)
            except UnavailableError as error:
                _log.info("partition %d is not heard: %s", partition, error)
                self._look_again(partition)
                await asyncio.sleep(_AGAIN_SECONDS)

    def _look_again(self, partition: int) -> None:
        """Something may have been missed: the journals tell."""
        for listener in self._listeners[partition]:
            listener.drop()

    def _spread(self, partition: int, events: Sequence[Event]) -> None:
        by_run: dict[str, list[_Listener]] = {}
        for listener in self._listeners[partition]:
            by_run.setdefault(listener.run, []).append(listener)
        for event in events:
            if event.kind != JOURNAL or event.key not in by_run:
                continue
            try:
                entry = read(event)
            except InvalidError as error:
                _log.warning("an event of %s cannot be read: %s", event.key, error)
                continue
            for listener in by_run[event.key]:
                listener.tell(entry)


class _Reading:
    """How far a reader is: all of `entry`, and of the next one the records up to `record`."""

    def __init__(self, store: Store, run: str, entry: int, record: int) -> None:
        self._store = store
        self._run = run
        # An id names a record that was read; more of its entry may follow.
        self.entry = max(0, entry - 1)
        self._record = record

    async def page(self) -> list[Entry]:
        """The next entries of the journal."""
        return await self._store.journal(self._run, self.entry, limit=PAGE)

    def events(self, entries: Sequence[Entry]) -> Iterator[RunEvent]:
        """Their events, and where the journal has a hole, one that says so."""
        for entry in entries:
            if entry.seq > self.entry + 1:
                ids = {"from": f"{self.entry}.{max(0, self._record)}", "to": f"{entry.seq}.0"}
                yield RunEvent(f"{entry.seq - 1}.0", GAP, ids)
                self._record = -1
            yield from events_of(entry, self._record)
            self.entry, self._record = entry.seq, -1


async def _heard(listener: _Listener, wait: float) -> bool:
    try:
        async with asyncio.timeout(wait):
            await listener.wake.wait()
    except TimeoutError:
        return False
    return True


@asynccontextmanager
async def live_runs(
    store: Store, events: EventLog | None, *, look_every: float = LOOK_EVERY
) -> AsyncIterator[LiveRuns]:
    """Runs that can be followed while the context is open.

    Args:
        store: where their journals are.
        events: tells what is new; without it, looking every `look_every` seconds has to do.
        look_every: seconds after which a journal is read although nothing was heard.
    """
    async with asyncio.TaskGroup() as tasks:
        live = LiveRuns(store, events, tasks, look_every)
        try:
            yield live
        finally:
            live.close()
