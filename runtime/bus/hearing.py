"""Hearing topics: a listener's bounded backlog, and which topics a pattern stands for."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator

from seedbed.runtime.bus.port import Message

BACKLOG = 10_000


class Listener(AsyncIterator[Message]):
    """The messages one listener has not taken yet; a full backlog loses the oldest."""

    def __init__(self) -> None:
        self._backlog: deque[Message] = deque(maxlen=BACKLOG)
        self._changed = asyncio.Event()
        self._closed = False

    def tell(self, message: Message) -> None:
        """Add a message."""
        self._backlog.append(message)
        self._changed.set()

    def close(self) -> None:
        """End the iteration behind what is in the backlog."""
        self._closed = True
        self._changed.set()

    async def __anext__(self) -> Message:
        while not self._backlog:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        return self._backlog.popleft()


def matches(pattern: str, topic: str) -> bool:
    """Whether a pattern stands for a topic."""
    wanted, parts = pattern.split("."), topic.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        if len(parts) <= len(wanted):
            return False
        parts = parts[: len(wanted)]
    return len(parts) == len(wanted) and all(
        want in ("*", part) for want, part in zip(wanted, parts, strict=True)
    )
