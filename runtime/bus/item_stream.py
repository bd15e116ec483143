"""Streams of items between a producer and those who read along, over the bus's requests.

The producer keeps the items and serves them; a reader asks for those behind a position, which says at the
same time that it has the others. A producer that is a window ahead of its slowest reader waits for it:
so a slow reader slows it down and nothing piles up. A reader that has not asked for a while counts as
gone. Without readers the producer goes at its own pace.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import VALUE_LIMIT
from seedbed.crds.values import written
from seedbed.crds.wire import decode, encode
from seedbed.runtime.bus.port import Bus

WINDOW = 100
"""Items that a producer may be ahead of its slowest reader."""
READER_SECONDS = 10.0
"""How long after its last request a reader counts."""
ANSWER_BYTES = 256 * 1024
"""Bytes of items in one answer, unless a single item has more."""

_LONGEST_WAIT = 2.0


def address_of(name: str) -> str:
    """Where the items of a name, such as a step's idempotency key, are served."""
    return f"items.{hashlib.sha256(name.encode()).hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class Ask:
    """Asks for items.

    Attributes:
        reader: names who asks.
        life: the producer's life that the position counts in; 0 where not known.
        after: how many items the reader has.
        wait: seconds to wait for the next one.
        most: items at most.
    """

    reader: str
    life: int
    after: int
    wait: float = _LONGEST_WAIT
    most: int = WINDOW


@dataclass(frozen=True, slots=True)
class Items:
    """Some items, from number `first` on. In another life the producer has begun again from 0."""

    life: int
    first: int
    items: list[Any] = field(default_factory=list)
    over: bool = False


class ItemSource:
    """The producer's side; it serves from the first item on.

    Args:
        name: what readers ask for.
        life: grows each time the producer begins again, such as a step's attempt.
    """

    def __init__(self, bus: Bus, name: str, life: int) -> None:
        self._bus = bus
        self._name = name
        self._life = life
        self._items: list[bytes] = []
        self._bytes = 0
        self._readers: dict[str, tuple[int, float]] = {}
        self._more = asyncio.Event()
        self._read = asyncio.Event()
        self._over = False
        self._is_served = False
        self._serving = AsyncExitStack()

    async def put(self, item: Any) -> None:
        """Give an item to those who read; returns when the slowest of them is within the window.

        Raises:
            InvalidError: it is no JSON value, or all items together are too large.
            UnavailableError: nobody can read now; the item is kept.
        """
        try:
            data = written(item)
        except TypeError as error:
            raise InvalidError("output", f"must yield JSON: {error}") from error
        self._bytes += len(data)
        if self._bytes > VALUE_LIMIT:
            raise InvalidError("output", f"yields more than {VALUE_LIMIT} bytes")
        self._items.append(data)
        self._more.set()
        if not self._is_served:
            address = address_of(self._name)
            await self._serving.enter_async_context(self._bus.serve(address, self._answer))
            self._is_served = True
        while (left := self._reader_time()) > 0:
            self._read.clear()
            try:
                async with asyncio.timeout(left):
                    await self._read.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Serve no more; whoever waits is told that it is over."""
        self._over = True
        self._more.set()
        await self._serving.aclose()

    def _reader_time(self) -> float:
        """Seconds that a reader which is a window behind may still take; 0 where none is."""
        now = time.monotonic()
        longest = 0.0
        for reader, (position, seen) in list(self._readers.items()):
            left = seen + READER_SECONDS - now
            if left <= 0:
                del self._readers[reader]
            elif len(self._items) - position >= WINDOW:
                longest = max(longest, left)
        return longest

    async def _answer(self, payload: bytes) -> bytes:
        ask = decode(Ask, payload)
        first = ask.after if ask.life == self._life else 0
        self._seen(ask.reader, first)
        if first >= len(self._items) and not self._over:
            self._more.clear()
            try:
                async with asyncio.timeout(min(ask.wait, _LONGEST_WAIT)):
                    await self._more.wait()
            except TimeoutError:
                pass
            self._seen(ask.reader, first)
        items = self._some(first, ask.most)
        over = self._over and first + len(items) == len(self._items)
        head = encode({"life": self._life, "first": first, "over": over})
        return b'%b,"items":[%b]}' % (head[:-1], b",".join(items))

    def _seen(self, reader: str, position: int) -> None:
        self._readers[reader] = (position, time.monotonic())
        self._read.set()

    def _some(self, first: int, most: int) -> list[bytes]:
        found: list[bytes] = []
        size = 0
        for data in self._items[first : first + min(most, WINDOW)]:
            size += len(data)
            if found and size > ANSWER_BYTES:
                break
            found.append(data)
        return found


async def items_after(bus: Bus, name: str, ask: Ask) -> Items:
    """Ask a producer for items.

    Raises:
        UnavailableError: there is none now.
    """
    answer = await bus.request(address_of(name), encode(ask), wait=_LONGEST_WAIT + 3.0)
    return decode(Items, answer)
