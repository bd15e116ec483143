"""Collecting items into groups: by number or by time, whichever comes first."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Batcher(Generic[T]):
    """Sends items in groups: when `size` are there, or when the first has waited `wait` seconds.

    One group is under way at a time, so groups arrive in order. What comes meanwhile goes with the next
    group, which may then be larger: the slower the receiver, the larger the groups.

    Args:
        send: takes one group; it has to try until it can, an error ends the sending.
        largest: items in one group.
        heaviest: weight of one group, unless a single item is heavier.
        weigh: an item's weight.
    """

    def __init__(
        self,
        send: Callable[[list[T]], Awaitable[None]],
        *,
        size: int,
        wait: float,
        largest: int,
        heaviest: int,
        weigh: Callable[[T], int],
    ) -> None:
        self._send = send
        self._size = size
        self._wait = wait
        self._largest = largest
        self._heaviest = heaviest
        self._weigh = weigh
        self._items: deque[T] = deque()
        self._weight = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sender: asyncio.Task[None] | None = None
        self._closed = False

    def __len__(self) -> int:
        """Items that wait; those under way do not count."""
        return len(self._items)

    def put(self, item: T) -> None:
        """Take an item; never waits."""
        self._items.append(item)
        self._weight += self._weigh(item)
        if self._sender is not None:
            return
        if self._wait == 0 or len(self._items) >= self._size:
            self._begin()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self._wait, self._begin)

    def drop_oldest(self) -> T:
        """Take the item out that has waited longest."""
        item = self._items.popleft()
        self._weight -= self._weigh(item)
        return item

    async def flush(self) -> None:
        """Send what is there now, and return when it is sent."""
        while (self._items or self._sender is not None) and not self._closed:
            self._begin()
            if self._sender is not None:
                await asyncio.wait({self._sender})

    async def close(self) -> None:
        """Stop sending; what waits stays, what is under way may be lost."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._sender is not None:
            self._sender.cancel()
            await asyncio.wait({self._sender})

    def _begin(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._items and self._sender is None and not self._closed:
            self._sender = asyncio.create_task(self._run())

    async def _run(self) -> None:
        try:
            while self._items:
                await self._send(self._group())
                if self._wait and len(self._items) < self._size:
                    return
        finally:
            self._sender = None
            if self._items and self._wait and not self._closed:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(self._wait, self._begin)

    def _group(self) -> list[T]:
        if len(self._items) <= self._largest and self._weight <= self._heaviest:
            group = list(self._items)
            self._items.clear()
            self._weight = 0
            return group
        group, weight = [], 0
        while self._items and len(group) < self._largest:
            weight += self._weigh(self._items[0])
            if group and weight > self._heaviest:
                break
            group.append(self.drop_oldest())
        return group
