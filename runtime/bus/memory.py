"""The Bus in one process: for `seedbed run` and for tests. Everything goes with the process."""

from __future__ import annotations

import asyncio
import math
import time
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from seedbed.crds.errors import QueueFullError, UnavailableError
from seedbed.runtime.bus.answering import Answering
from seedbed.runtime.bus.events import EventSettings
from seedbed.runtime.bus.hearing import Listener, matches
from seedbed.runtime.bus.memory_events import MEMORY_SETTINGS, MemoryEvents
from seedbed.runtime.bus.patience import LOOK_EVERY, Patience
from seedbed.runtime.bus.port import Delivery, Handler, Message, Pull, Unwanted
from seedbed.runtime.bus.turns import Turns

QUEUE_LIMIT = 1_000_000
DUPLICATE_SECONDS = 120.0


class _Item:
    """A queued item. `until` is when it goes back to the queue, while it is in somebody's hands."""

    __slots__ = ("deliveries", "owner", "payload", "until")

    def __init__(self, owner: str, payload: bytes) -> None:
        self.owner = owner
        self.payload = payload
        self.deliveries = 0
        self.until = 0.0


class _Puller:
    """Somebody who waits for up to `most` items."""

    __slots__ = ("got", "most")

    def __init__(self, most: int) -> None:
        self.got: asyncio.Future[list[_Item]] = asyncio.get_running_loop().create_future()
        self.most = most


class _Queue:
    """Items that wait in turns, items in hands, and those who wait for items, in order of arrival."""

    def __init__(self) -> None:
        self.waiting: Turns[_Item] = Turns()
        self.held: set[_Item] = set()
        self.pullers: deque[_Puller] = deque()
        self.open = 0  # how many may pull from it
        self._seen: set[str] = set()
        self._seen_before: set[str] = set()
        self._seen_since = time.monotonic()
        self._patience = Patience()
        self._clock: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self.waiting) + len(self.held)

    def put(self, items: Sequence[tuple[str, bytes]], limit: int) -> bool:
        """Queue items whose ids are new; False where some did not fit."""
        now = time.monotonic()
        if now > self._seen_since + DUPLICATE_SECONDS:
            # Ids are forgotten together, so that none of them needs a time of its own.
            self._seen, self._seen_before, self._seen_since = set(), self._seen, now
        room = limit - len(self)
        for item_id, payload in items:
            if item_id in self._seen or item_id in self._seen_before:
                continue
            if room <= 0:
                return False
            room -= 1
            self._seen.add(item_id)
            self.waiting.append(_Item(item_id.partition("/")[0], payload))
        return True

    def hand_out(self) -> None:
        """Give what waits to those who wait, as evenly as it goes."""
        left = len(self.waiting)
        while left and self.pullers:
            puller = self.pullers.popleft()
            if not puller.got.done():
                share = min(math.ceil(left / (len(self.pullers) + 1)), puller.most)
                puller.got.set_result(self._first(share))
                left -= share

    def _first(self, count: int) -> list[_Item]:
        return [self.waiting.pop() for _ in range(count)]

    def hold(self, item: _Item, seconds: float, now: float | None = None) -> None:
        """Start the redelivery clock of an item in somebody's hands; `now` is the loop's time."""
        self.held.add(item)
        item.until = (asyncio.get_running_loop().time() if now is None else now) + seconds
        if self._clock is None or self._clock.when() > item.until:
            self._wind(item.until)

    def _wind(self, at: float) -> None:
        self._stop()
        self._clock = asyncio.get_running_loop().call_at(at, self._look)

    def _look(self) -> None:
        """Give back what was held too long; one clock serves all items."""
        self._clock = None
        now = asyncio.get_running_loop().time()
        for item in [item for item in self.held if item.until <= now]:
            self.release(item)
        if self.held:
            # Not for each item alone: many fall due one shortly after the other.
            self._wind(max(min(item.until for item in self.held), now + LOOK_EVERY))

    def close(self) -> None:
        """Stop the clocks."""
        self._patience.close()
        self._stop()

    def _stop(self) -> None:
        if self._clock is not None:
            self._clock.cancel()
            self._clock = None

    def release(self, item: _Item) -> None:
        """Offer an item again, ahead of those nobody has had."""
        if self.drop(item):
            self.back(item)

    def back(self, *items: _Item) -> None:
        """Put items in front of those nobody has had."""
        self.waiting.put_first(items)
        self.hand_out()

    def drop(self, item: _Item) -> bool:
        """Take an item out of the hands it is in; False where it is in none."""
        if item not in self.held:
            return False
        self.held.discard(item)
        return True

    async def take(self, wait: float, most: int) -> list[_Item]:
        """The next items, or none after `wait` seconds."""
        if self.waiting:
            return self._first(min(most, len(self.waiting)))
        puller = _Puller(most)
        self.pullers.append(puller)
        try:
            return await self._patience.wait(puller.got, wait)
        except TimeoutError:
            return []
        except asyncio.CancelledError:
            self.back(*_left(puller))
            raise
        finally:
            if puller in self.pullers:
                self.pullers.remove(puller)


def _left(puller: _Puller) -> list[_Item]:
    """What a puller was given at the very moment in which it stopped waiting."""
    got = puller.got
    return got.result() if got.done() and not got.cancelled() else []


class _Delivery:
    """An item in a worker's hands for its `turn`-th delivery; an older turn has no say any more."""

    __slots__ = ("_item", "_queue", "_redeliver_after", "_turn")

    def __init__(self, queue: _Queue, item: _Item, redeliver_after: float, now: float) -> None:
        item.deliveries += 1
        self._queue = queue
        self._item = item
        self._turn = item.deliveries
        self._redeliver_after = redeliver_after
        queue.hold(item, redeliver_after, now)

    @property
    def payload(self) -> bytes:
        return self._item.payload

    @property
    def redelivered(self) -> bool:
        return self._turn > 1

    @property
    def _mine(self) -> bool:
        return self._item in self._queue.held and self._item.deliveries == self._turn

    async def ack(self) -> None:
        # Work that is done is done, also where the item went to somebody else meanwhile.
        if not self._queue.drop(self._item):
            self._queue.waiting.remove(self._item)

    async def working(self) -> None:
        if self._mine:
            self._queue.hold(self._item, self._redeliver_after)

    async def give_back(self, delay: float = 0.0) -> None:
        if not self._mine:
            return
        if delay > 0:
            self._queue.hold(self._item, delay)
        else:
            self._queue.release(self._item)


class _Pull:
    """One open pull on a queue."""

    def __init__(self, queue: _Queue, redeliver_after: float) -> None:
        self._queue = queue
        self._redeliver_after = redeliver_after

    async def __call__(self, wait: float) -> Delivery | None:
        found = await self.many(wait, 1)
        return found[0] if found else None

    async def many(self, wait: float, most: int) -> list[_Delivery]:
        taken = await self._queue.take(wait, most)
        now = asyncio.get_running_loop().time()
        return [_Delivery(self._queue, item, self._redeliver_after, now) for item in taken]


class MemoryBus:
    """asyncio queues behind the Bus port."""

    local = True

    def __init__(
        self, *, queue_limit: int = QUEUE_LIMIT, events: EventSettings = MEMORY_SETTINGS
    ) -> None:
        self._queue_limit = queue_limit
        self._events = MemoryEvents(events)
        self._queues: defaultdict[str, _Queue] = defaultdict(_Queue)
        self._served: dict[str, deque[Answering]] = {}
        self._listeners: list[tuple[str, Listener]] = []
        self._patience = Patience()

    @property
    def events(self) -> MemoryEvents:
        """See the port."""
        return self._events

    async def put_work(self, queue: str, item_id: str, payload: bytes) -> None:
        """See the port."""
        await self.put_all(queue, [(item_id, payload)])

    async def put_all(self, queue: str, items: Sequence[tuple[str, bytes]]) -> None:
        """See the port."""
        kept = self._queues[queue]
        fitted = kept.put(items, self._queue_limit)
        kept.hand_out()
        if not fitted:
            raise QueueFullError(queue, self._queue_limit)

    @asynccontextmanager
    async def pull_work(self, queue: str, *, redeliver_after: float = 30.0) -> AsyncIterator[Pull]:
        """See the port."""
        kept = self._queues[queue]
        kept.open += 1
        try:
            yield _Pull(kept, redeliver_after)
        finally:
            kept.open -= 1

    async def queues(self) -> Sequence[str]:
        """See the port."""
        return tuple(self._queues)

    async def drop_queue(self, queue: str, unwanted: Unwanted) -> bool:
        """See the port."""
        kept = self._queues.get(queue)
        if kept is None or kept.pullers:
            return False
        for item in tuple(kept.waiting):
            if await unwanted(item.payload):
                kept.waiting.remove(item)
        if kept.pullers or len(kept) or kept.open:
            return False
        kept.close()
        del self._queues[queue]
        return True

    async def request(self, address: str, payload: bytes, *, wait: float = 5.0) -> bytes:
        """See the port."""
        servers = self._served.get(address)
        if not servers:
            raise UnavailableError(f"nobody serves {address}")
        servers.rotate(-1)
        try:
            return await self._patience.wait(servers[0].ask(payload), wait)
        except TimeoutError:
            raise UnavailableError(f"{address} did not answer within {wait:g} s") from None

    @asynccontextmanager
    async def serve(self, address: str, handler: Handler) -> AsyncIterator[None]:
        """See the port."""
        answering = Answering(address, handler)
        self._served.setdefault(address, deque()).append(answering)
        try:
            yield
        finally:
            self._served[address].remove(answering)
            await answering.drain()

    async def publish(self, topic: str, payload: bytes) -> None:
        """See the port."""
        message = Message(topic, payload)
        for pattern, listener in self._listeners:
            if matches(pattern, topic):
                listener.tell(message)

    @asynccontextmanager
    async def hear(self, pattern: str) -> AsyncIterator[AsyncIterator[Message]]:
        """See the port."""
        entry = (pattern, Listener())
        self._listeners.append(entry)
        try:
            yield entry[1]
        finally:
            self._listeners.remove(entry)
            entry[1].close()

    def on_restore(self, callback: Callable[[], None]) -> None:
        """See the port; there is no connection that could break, so nothing is ever called."""

    async def close(self) -> None:
        """See the port."""
        await self._events.close()
        self._patience.close()
        for items in self._queues.values():
            items.held.clear()
            items.close()
        for _, listener in self._listeners:
            listener.close()
