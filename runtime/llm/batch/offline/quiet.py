"""Lets offline lines begin when nobody else waits for the model, a few at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

_WATCH = 0.05
"""Seconds between two looks at who waits."""


class Quiet:
    """Gives turns, in order. Where somebody else always waits, one each time that patience is over.

    Args:
        waiting: requests that a model has not answered yet, ours and others'.
        most: lines under way at a time.
        patience: seconds that a line gives way.
        now: a clock.
    """

    def __init__(
        self,
        waiting: Callable[[str], int],
        most: int,
        patience: float,
        now: Callable[[], float],
    ) -> None:
        self._waiting = waiting
        self._most = most
        self._patience = patience
        self._now = now
        self._ours: dict[str, int] = {}
        self._begun = 0
        self._order = asyncio.Lock()
        self._last = float("-inf")

    def asked(self, model: str, more: int) -> None:
        """Of the requests that a model has, so many more are ours."""
        self._ours[model] = self._ours.get(model, 0) + more

    @asynccontextmanager
    async def turn(self, model: str, over: asyncio.Event) -> AsyncIterator[None]:
        """Wait for a turn, at most until it is over; the line is under way while the context is open."""
        async with self._order:
            since = self._now()
            while not over.is_set() and self._waits(model, since):  # noqa: ASYNC110  # see below
                # Providers tell nobody when a request of theirs ends.
                await asyncio.sleep(_WATCH)
            self._last = self._now()
            self._begun += 1
        try:
            yield
        finally:
            self._begun -= 1

    def _waits(self, model: str, since: float) -> bool:
        if self._begun >= self._most:
            return True
        if self._waiting(model) <= self._ours.get(model, 0):
            return False
        return self._now() - max(since, self._last) < self._patience
