"""The steps that a worker executes side by side."""

from __future__ import annotations

import asyncio
from collections import deque

from seedbed.crds.messages import StepTask
from seedbed.runtime.bus.port import Delivery


class Lanes:
    """Those that wait to start, and how many lanes are free.

    Attributes:
        free: steps that could be executed beside those under way.
    """

    def __init__(self, count: int) -> None:
        self.free = count
        self._waiting: deque[tuple[Delivery, StepTask]] = deque()
        self._idle: list[asyncio.Future[None]] = []
        self._waking = False
        self._freed = asyncio.Event()

    @property
    def empty(self) -> bool:
        """Whether no step waits to start."""
        return not self._waiting

    def put(self, delivery: Delivery, task: StepTask) -> None:
        """Start a step in a free lane."""
        self.free -= 1
        self._waiting.append((delivery, task))
        self._wake()

    async def next(self) -> tuple[Delivery, StepTask]:
        """The next step for a lane that has none."""
        while not self._waiting:
            idle: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._idle.append(idle)
            await idle
            self._waking = False
        item = self._waiting.popleft()
        self._wake()
        return item

    def _wake(self) -> None:
        """Wake one lane where steps wait; it wakes the next one.

        So a lane whose steps end at once goes on alone, and others need not be woken for nothing.
        """
        if self._waiting and self._idle and not self._waking:
            idle = self._idle.pop()
            if not idle.done():
                self._waking = True
                idle.set_result(None)

    def end(self) -> None:
        """A step has ended: its lane is free."""
        self.free += 1
        self._freed.set()

    async def until_free(self) -> None:
        """Wait until a lane is free."""
        while self.free <= 0:
            self._freed.clear()
            await self._freed.wait()
