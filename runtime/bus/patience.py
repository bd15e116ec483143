"""Waiting for many futures, each with a time limit, on one timer.

`asyncio.timeout` makes a timer for each wait and takes it back. Waits that end long before their limit
are the rule, so here one timer stays where it is, and who has waited too long is looked for when it rings.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

LOOK_EVERY = 0.02
"""Shortest time between two looks: many fall due one shortly after the other."""

T = TypeVar("T")


class Patience:
    """The waits under way. A future may be waited for once."""

    def __init__(self) -> None:
        self._ends: dict[asyncio.Future[Any], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    async def wait(self, awaited: asyncio.Future[T], seconds: float) -> T:
        """What a future gives; it is cancelled when the time is over.

        Raises:
            TimeoutError: it gave nothing in time, or somebody cancelled it.
        """
        task = asyncio.current_task()
        assert task is not None
        cancelling = task.cancelling()
        loop = awaited.get_loop()
        self._ends[awaited] = ends = loop.time() + seconds
        if self._timer is None or ends < self._timer.when():
            self._wind(loop, ends)
        try:
            return await awaited
        except asyncio.CancelledError:
            if task.cancelling() > cancelling:
                raise
            raise TimeoutError from None
        finally:
            del self._ends[awaited]

    def close(self) -> None:
        """Take the timer back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _wind(self, loop: asyncio.AbstractEventLoop, at: float) -> None:
        self.close()
        self._timer = loop.call_at(at, self._look, loop)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for awaited in [each for each, ends in self._ends.items() if ends <= now]:
            awaited.cancel()
        left = [ends for ends in self._ends.values() if ends > now]
        if left:
            self._wind(loop, max(min(left), now + LOOK_EVERY))
