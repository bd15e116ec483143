"""The event log in one process; everything goes with the process."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from seedbed.runtime.bus import event_metrics as metrics
from seedbed.runtime.bus.events import (
    FIRST,
    PRIORITIES,
    DeadLetter,
    Delivered,
    Event,
    EventSettings,
    Lane,
    Limits,
    Priority,
    Start,
    checked_follow,
)
from seedbed.runtime.bus.outbox import Outbox

_KEPT = Limits(3600.0, 32 * 1024 * 1024)
_EVENT_BYTES = 200
"""What an event takes beside its payload, about."""

MEMORY_SETTINGS = EventSettings(critical=_KEPT, normal=_KEPT, low=_KEPT, dead=_KEPT)
"""A process that ends loses the log, so it keeps little of it."""


@dataclass(frozen=True, slots=True)
class _Kept:
    """A batch in the log; `only` names the one follower it is for, if any."""

    sequence: int
    at: float
    events: Sequence[Event]
    size: int
    only: str = ""


@dataclass(slots=True)
class _LaneLog:
    """The batches of a lane that are kept; `end` counts all that there ever were."""

    kept: deque[_Kept] = field(default_factory=deque)
    end: int = 0
    heard: set[asyncio.Event] = field(default_factory=set)

    @property
    def first(self) -> int:
        """Position of the oldest batch that is kept."""
        return self.end - len(self.kept)

    def begin(self, start: Start) -> int:
        """The position that a start means now."""
        if start.new:
            return self.end
        for index, batch in enumerate(self.kept):
            if batch.at >= (start.at or 0.0) and batch.sequence >= (start.sequence or 0):
                return self.first + index
        return self.end


@dataclass(slots=True)
class _Cursor:
    """Where a name is in a lane: `acked` is handled, `taken` delivered; `opened` counts tries there."""

    acked: int
    taken: int
    opened: int = 0


class MemoryEvents:
    """An `EventLog` of deques."""

    def __init__(self, settings: EventSettings = MEMORY_SETTINGS) -> None:
        self._settings = settings
        self._outbox = Outbox(self._keep, settings)
        self._lanes: dict[Lane, _LaneLog] = {}
        # Per priority, for retention: the lanes of the kept batches, oldest first, and their size.
        self._order: dict[Priority, deque[Lane]] = {each: deque() for each in PRIORITIES}
        self._size = dict.fromkeys(PRIORITIES, 0)
        self._sequence = {each: itertools.count(1) for each in PRIORITIES}
        self._cursors: dict[str, dict[Lane, _Cursor]] = {}
        self._letters: dict[int, DeadLetter] = {}
        self._numbers = itertools.count(1)

    def put(self, event: Event) -> None:
        """See the port."""
        self._outbox.put(event)

    async def emit(self, event: Event) -> None:
        """See the port."""
        await self._outbox.emit(event)

    async def flush(self, wait: float = 5.0) -> None:
        """See the port."""
        await self._outbox.flush(wait)

    async def prepare(self) -> None:
        """See the port; there is nothing to make."""

    async def close(self) -> None:
        """Stop; what was not sent is gone, as all the rest."""
        await self._outbox.close()

    @asynccontextmanager
    async def follow(
        self,
        name: str,
        partition: int,
        priorities: Sequence[Priority] = PRIORITIES,
        *,
        start: Start = FIRST,
    ) -> AsyncIterator[_Follower]:
        """See the port."""
        checked_follow(name, priorities, start)
        known = name or uuid.uuid4().hex
        cursors = self._cursors.setdefault(known, {})
        follower = _Follower(known, [])
        for priority in sorted(priorities, key=PRIORITIES.index):
            lane = Lane(partition, priority)
            log = self._lanes.setdefault(lane, _LaneLog())
            begin = log.begin(start)
            cursor = cursors.setdefault(lane, _Cursor(begin, begin))
            cursor.opened = cursor.opened + 1 if cursor.taken > cursor.acked else 1
            cursor.taken = cursor.acked
            follower.places.append(_Place(lane, log, cursor))
            log.heard.add(follower.wake)
        try:
            yield follower
        finally:
            for place in follower.places:
                place.log.heard.discard(follower.wake)
            if not name:
                del self._cursors[known]

    async def forget(self, name: str) -> None:
        """See the port."""
        self._cursors.pop(name, None)

    async def bury(self, letter: DeadLetter) -> None:
        """See the port."""
        number = next(self._numbers)
        self._letters[number] = replace(letter, number=number)
        room = self._settings.dead.size // (_EVENT_BYTES + len(letter.event.payload))
        while len(self._letters) > max(1, room):
            del self._letters[next(iter(self._letters))]

    async def dead_letters(self, *, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        """See the port."""
        found = (letter for number, letter in self._letters.items() if number > after)
        return list(itertools.islice(found, limit))

    async def replay(self, numbers: Collection[int]) -> int:
        """See the port."""
        found = [self._letters.pop(number) for number in sorted(numbers) if number in self._letters]
        for letter in found:
            self._append(letter.event.lane, (letter.event,), letter.follower)
        return len(found)

    async def discard(self, numbers: Collection[int]) -> int:
        """See the port."""
        return sum(self._letters.pop(number, None) is not None for number in set(numbers))

    async def _keep(self, lane: Lane, events: Sequence[Event]) -> None:
        self._append(lane, events)

    def _append(self, lane: Lane, events: Sequence[Event], only: str = "") -> None:
        priority = lane.priority
        log = self._lanes.setdefault(lane, _LaneLog())
        size = sum(_EVENT_BYTES + len(event.payload) for event in events)
        log.kept.append(_Kept(next(self._sequence[priority]), time.time(), events, size, only))
        log.end += 1
        self._order[priority].append(lane)
        self._size[priority] += size
        self._retain(priority)
        for wake in log.heard:
            wake.set()

    def _retain(self, priority: Priority) -> None:
        limits, order = self._settings.limits(priority), self._order[priority]
        oldest = time.time() - limits.seconds
        while order:
            kept = self._lanes[order[0]].kept
            if self._size[priority] <= limits.size and kept[0].at >= oldest:
                return
            self._size[priority] -= kept.popleft().size
            order.popleft()


@dataclass(slots=True)
class _Place:
    """A lane and where the follower is in it."""

    lane: Lane
    log: _LaneLog
    cursor: _Cursor

    def take(self, name: str) -> tuple[_Kept, int] | None:
        """The next batch for a name, and how many before it are gone."""
        cursor, log = self.cursor, self.log
        missed = max(0, log.first - cursor.taken)
        cursor.taken += missed
        while cursor.taken < log.end:
            batch = log.kept[cursor.taken - log.first]
            cursor.taken += 1
            if not batch.only or batch.only == name:
                return batch, missed
            if cursor.acked == cursor.taken - 1:
                cursor.acked += 1
        return None


@dataclass(slots=True)
class _Follower:
    """See the port; `places` in order of priority."""

    name: str
    places: list[_Place]
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    _hand: dict[tuple[Lane, int], tuple[_Place, int]] = field(default_factory=dict)

    async def next(self, wait: float) -> Delivered | None:
        """See the port."""
        deadline = time.monotonic() + wait
        while True:
            self.wake.clear()
            for place in self.places:
                if (taken := place.take(self.name)) is not None:
                    return self._delivered(place, *taken)
            try:
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self.wake.wait()
            except TimeoutError:
                return None

    async def ack(self, delivered: Delivered) -> None:
        """See the port."""
        held = self._hand.pop((delivered.lane, delivered.sequence), None)
        if held is not None:
            place, position = held
            place.cursor.acked = max(place.cursor.acked, position)
            place.cursor.opened = 1

    def _delivered(self, place: _Place, batch: _Kept, missed: int) -> Delivered:
        cursor = place.cursor
        again = cursor.opened if cursor.taken - 1 <= cursor.acked + missed else 1
        self._hand[place.lane, batch.sequence] = (place, cursor.taken)
        if missed:
            metrics.MISSED.labels(place.lane.priority).inc(missed)
        return Delivered(place.lane, batch.sequence, batch.events, again, missed)
