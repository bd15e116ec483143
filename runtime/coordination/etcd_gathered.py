"""Writes under an ownership, gathered: what comes while a transaction is under way goes into the next.

One comparison guards all of a transaction, so a write that is gathered is fenced as one alone is. A
leader that publishes a thousand settings at its start asks etcd some dozen times.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from seedbed.crds.errors import SeedbedError
from seedbed.runtime.coordination.port import Ownership

MOST_WRITES = 64
"""In one transaction; etcd refuses more than 128."""
MOST_BYTES = 512 * 1024
"""Of values in one transaction; etcd refuses requests above 1.5 MiB."""
APART = 0.03
"""Seconds between the starts of two transactions: a write that comes alone goes at once, and of many in
a row each waits this long at most, so that they share what a transaction costs."""


@dataclass(frozen=True, slots=True)
class Write:
    """One put or delete: the key, etcd's operation, and the bytes of its value."""

    key: bytes
    operation: Any
    size: int = 0


@dataclass(slots=True, eq=False)
class _Pending:
    write: Write
    answered: bool = False
    error: SeedbedError | None = None


@dataclass(slots=True)
class _Line:
    """The writes under one ownership: how many use it, those not answered, whose turn it is to send."""

    users: int = 0
    waiting: list[_Pending] = field(default_factory=list)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)


class GatheredWrites:
    """Sends writes in the order in which they came, one transaction at a time for each ownership.

    Args:
        send: carries out operations in one transaction under an ownership.
    """

    def __init__(self, send: Callable[[Ownership, Sequence[Any]], Awaitable[None]]) -> None:
        self._send = send
        self._lines: dict[tuple[str, int], _Line] = {}
        self._sent = 0.0

    async def write(self, ownership: Ownership, write: Write) -> None:
        """Carry out one write; it may go out with others, and fails as they do.

        Raises:
            FencedError, UnavailableError: see `Coordinator.put`.
        """
        name = (ownership.name, ownership.token)
        line = self._lines.setdefault(name, _Line())
        mine = _Pending(write)
        line.users += 1
        line.waiting.append(mine)
        try:
            async with line.turn:
                if not mine.answered:
                    await self._send_first(ownership, line)
        finally:
            if not mine.answered:
                line.waiting.remove(mine)
            line.users -= 1
            if not line.users:
                del self._lines[name]
        if mine.error is not None:
            raise mine.error

    async def _send_first(self, ownership: Ownership, line: _Line) -> None:
        """Send what waits longest. Where the sender is cancelled, the others still wait and send."""
        now = time.monotonic()
        if now - self._sent < APART:
            await asyncio.sleep(self._sent + APART - now)
        self._sent = time.monotonic()
        batch = _together(line.waiting)
        error = None
        try:
            await self._send(ownership, [each.write.operation for each in batch])
        except SeedbedError as failure:
            error = failure
        for each in batch:
            each.answered, each.error = True, error
        line.waiting = [each for each in line.waiting if not each.answered]


def _together(waiting: Sequence[_Pending]) -> list[_Pending]:
    """The first writes that fit into one transaction, in which a key may stand once."""
    batch: list[_Pending] = []
    keys: set[bytes] = set()
    size = 0
    for each in waiting:
        size += each.write.size
        full = len(batch) == MOST_WRITES or (batch and size > MOST_BYTES)
        if full or each.write.key in keys:
            break
        batch.append(each)
        keys.add(each.write.key)
    return batch
