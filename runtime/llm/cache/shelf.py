"""Where answers are kept: in this process, and behind it in the store that all gateways share."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from seedbed.runtime.llm.cache.alike import Alike
from seedbed.runtime.llm.cache.backing import Backing
from seedbed.runtime.llm.cache.memory import Memory
from seedbed.runtime.store.answers import AnswerKey, AnswerRow, Selection

REMEMBERED = 900.0
"""Seconds that an invalidation also holds for answers that are still on their way: the longest call."""


class Shelf:
    """See the module.

    Args:
        alike: is told what is kept, where similar requests count.
        backing: the store; nothing outlives the process without it. Set before the first request.
    """

    def __init__(
        self,
        memory: Memory,
        alike: Alike | None = None,
        backing: Backing | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self.memory = memory
        self.backing = backing
        self._alike = alike
        self._now = now
        self._invalidated: deque[tuple[float, Selection]] = deque()

    async def find(self, key: AnswerKey) -> AnswerRow | None:
        """The answer to an equal request, however old."""
        row = self.memory.get(key)
        if row is not None or self.backing is None:
            return row
        self.backing.heard_of(key[0])
        row = await self.backing.find(key)
        if row is not None and not self._is_invalid(row):
            self._hold(row)
            return row
        return None

    def held(self, row: str) -> AnswerRow | None:
        """The answer with an id, where it is in memory."""
        key = self._alike.key_of(row) if self._alike is not None else None
        return None if key is None else self.memory.get(key)

    async def closest(self, namespace: str, scope: str, embedding: bytes) -> bool:
        """Take the closest rows of a scope out of the store into memory; whether any were new."""
        if self.backing is None:
            return False
        rows = await self.backing.nearest(namespace, scope, embedding)
        new = [row for row in rows if row.key not in self.memory and not self._is_invalid(row)]
        for row in new:
            self._hold(row)
        return bool(new)

    def keep(self, row: AnswerRow) -> bool:
        """Keep an answer; False where the one there is as new, or it was invalidated on its way."""
        held = self.memory.get(row.key)
        if (held is not None and held.created_at >= row.created_at) or self._is_invalid(row):
            return False
        self._hold(row)
        if self.backing is not None:
            self.backing.put(row)
        return True

    def load(self, row: AnswerRow) -> bool:
        """Take a row of the store into memory, the first to go; False where no more fit."""
        if row.key in self.memory or self._is_invalid(row):
            return True
        if not self.memory.add_oldest(row):
            return False
        self._compare(row)
        return True

    def used(self, row: AnswerRow) -> None:
        """An answer was served."""
        if self.backing is not None:
            self.backing.used(row)

    def learnt(self, row: str, taught: bytes) -> None:
        """An answer has taught what is similar enough to its prompt."""
        if self.backing is not None:
            self.backing.learnt(row, taught)

    async def invalidate(self, chosen: Selection) -> int:
        """Forget answers here and in the store; how many the store, or else memory, had.

        Raises:
            UnavailableError: where the store does not answer; memory has forgotten them.
        """
        self._invalidated.append((self._now() + REMEMBERED, chosen))
        gone = self.memory.invalidate(chosen)
        return gone if self.backing is None else await self.backing.forget(chosen)

    def _hold(self, row: AnswerRow) -> None:
        self.memory.put(row)
        self._compare(row)

    def _compare(self, row: AnswerRow) -> None:
        if self._alike is not None and row.key in self.memory:
            self._alike.add(row)

    def _is_invalid(self, row: AnswerRow) -> bool:
        while self._invalidated and self._invalidated[0][0] < self._now():
            self._invalidated.popleft()
        return any(chosen.holds(row) for _, chosen in self._invalidated)
