"""The Bus in one process: for `seedbed run` and for tests. Everything goes with the process."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from seedbed.crds.errors import QueueFullError, UnavailableError
from seedbed.runtime.bus.answering import Answer, Answering
from seedbed.runtime.bus.events import EventSettings
from seedbed.runtime.bus.hearing import Listener, matches
from seedbed.runtime.bus.memory_events import MEMORY_SETTINGS, MemoryEvents
from seedbed.runtime.bus.port import Delivery, Handler, Message

QUEUE_LIMIT = 1_000_000
DUPLICATE_SECONDS = 120.0


class _Item:
    """A queued item. `hold` is the clock that gives it back, while it is in somebody's hands."""

    __slots__ = ("deliveries", "hold", "payload")

    def __init__(self, payload: bytes) -> None:
        self.payload = payload
        self.deliveries = 0
        self.hold: asyncio.TimerHandle | None = None


class _Queue:
    """Items that wait, items in hands, and those who wait for items, each in order of arrival."""

    def __init__(self) -> None:
        self.waiting: deque[_Item] = deque()
        self.held: set[_Item] = set()
        self.pullers: deque[asyncio.Future[_Item]] = deque()
        self.seen: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self.waiting) + len(self.held)

    def knows(self, item_id: str) -> bool:
        """Whether the id was queued within the window."""
        oldest = time.monotonic() - DUPLICATE_SECONDS
        # A dict keeps the order of insertion, so the oldest ids stand first.
        while self.seen and next(iter(self.seen.values())) < oldest:
            del self.seen[next(iter(self.seen))]
        return item_id in self.seen

    def offer(self, item: _Item, *, first: bool = False) -> None:
        """Hand the item to whoever waits longest, or keep it."""
        while self.pullers:
            puller = self.pullers.popleft()
            if not puller.done():
                puller.set_result(item)
                return
        if first:
            self.waiting.appendleft(item)
        else:
            self.waiting.append(item)

    def hold(self, item: _Item, seconds: float) -> None:
        """Start the redelivery clock of an item in somebody's hands."""
        if item.hold is not None:
            item.hold.cancel()
        self.held.add(item)
        item.hold = asyncio.get_running_loop().call_later(seconds, self.release, item)

    def release(self, item: _Item) -> None:
        """Offer an item again, ahead of those nobody has had."""
        if self.drop(item):
            self.offer(item, first=True)

    def drop(self, item: _Item) -> bool:
        """Take an item out of the hands it is in; False where it is in none."""
        if item not in self.held:
            return False
        self.held.discard(item)
        if item.hold is not None:
            item.hold.cancel()
            item.hold = None
        return True

    async def take(self, wait: float) -> _Item | None:
        """The next item, or None after `wait` seconds."""
        if self.waiting:
            return self.waiting.popleft()
        puller: asyncio.Future[_Item] = asyncio.get_running_loop().create_future()
        self.pullers.append(puller)
        try:
            await asyncio.wait({puller}, timeout=wait)
        except asyncio.CancelledError:
            if puller.done():
                self.offer(puller.result(), first=True)
            raise
        finally:
            if not puller.done():
                self.pullers.remove(puller)
        return puller.result() if puller.done() else None


class _Delivery:
    """An item in a worker's hands for its `turn`-th delivery; an older turn has no say any more."""

    __slots__ = ("_item", "_queue", "_redeliver_after", "_turn")

    def __init__(self, queue: _Queue, item: _Item, redeliver_after: float) -> None:
        item.deliveries += 1
        self._queue = queue
        self._item = item
        self._turn = item.deliveries
        self._redeliver_after = redeliver_after
        queue.hold(item, redeliver_after)

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
        if not self._queue.drop(self._item) and self._item in self._queue.waiting:
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


class MemoryBus:
    """asyncio queues behind the Bus port."""

    def __init__(
        self, *, queue_limit: int = QUEUE_LIMIT, events: EventSettings = MEMORY_SETTINGS
    ) -> None:
        self._queue_limit = queue_limit
        self._events = MemoryEvents(events)
        self._queues: dict[str, _Queue] = {}
        self._served: dict[str, deque[Answering]] = {}
        self._listeners: list[tuple[str, Listener]] = []

    @property
    def events(self) -> MemoryEvents:
        """See the port."""
        return self._events

    async def put_work(self, queue: str, item_id: str, payload: bytes) -> None:
        """See the port."""
        items = self._queues.setdefault(queue, _Queue())
        if items.knows(item_id):
            return
        if len(items) >= self._queue_limit:
            raise QueueFullError(queue, self._queue_limit)
        items.seen[item_id] = time.monotonic()
        items.offer(_Item(payload))

    @asynccontextmanager
    async def pull_work(
        self, queue: str, *, redeliver_after: float = 30.0
    ) -> AsyncIterator[Callable[[float], Awaitable[Delivery | None]]]:
        """See the port."""

        async def pull(wait: float) -> Delivery | None:
            items = self._queues.setdefault(queue, _Queue())
            item = await items.take(wait)
            return None if item is None else _Delivery(items, item, redeliver_after)

        yield pull

    async def purge_work(self, queue: str) -> None:
        """See the port."""
        items = self._queues.get(queue)
        if items is None:
            return
        items.waiting.clear()
        for item in list(items.held):
            items.drop(item)

    async def request(self, address: str, payload: bytes, *, wait: float = 5.0) -> bytes:
        """See the port."""
        servers = self._served.get(address)
        if not servers:
            raise UnavailableError(f"nobody serves {address}")
        servers.rotate(-1)
        answered: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        async def reply(answer: Answer) -> None:
            if not answered.done():
                answered.set_result(answer)

        try:
            async with asyncio.timeout(wait):
                await servers[0].take(payload, reply)
                return (await answered).value()
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
        for items in self._queues.values():
            for item in list(items.held):
                items.drop(item)
        for _, listener in self._listeners:
            listener.close()
