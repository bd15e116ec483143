"""A time limit for one piece of work after the other, with one timer for many of them.

`asyncio.timeout` makes a timer and takes it back each time. Steps that end long before their limit are
the rule, so here the timer stays where it is and is looked at only when it rings.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType
from typing import Self


def is_stopped() -> bool:
    """Whether somebody stops the task at hand; else a cancellation comes out of what it calls."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Limit:
    """Ends what a task does in its context with TimeoutError when its time is over.

    It can be entered again and again, by one task at a time.

    Attributes:
        expired: whether it has ended what was done in the last context, or is about to.
    """

    __slots__ = ("_cancelling", "_ends", "_task", "_timer", "expired")

    def __init__(self) -> None:
        self.expired = False
        self._ends = math.inf
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._timer: asyncio.TimerHandle | None = None

    def within(self, seconds: float) -> Self:
        """The context in which the current task has so many seconds."""
        self._ends = asyncio.get_running_loop().time() + seconds
        return self

    def __enter__(self) -> Self:
        task = asyncio.current_task()
        assert task is not None
        self._task, self._cancelling, self.expired = task, task.cancelling(), False
        if self._timer is None or self._ends < self._timer.when():
            self.close()
            self._timer = asyncio.get_running_loop().call_at(self._ends, self._look)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        task, self._task = self._task, None
        assert task is not None
        # As `asyncio.timeout` tells its own cancellation from others'.
        ours = self.expired and task.uncancel() <= self._cancelling
        if ours and kind is asyncio.CancelledError:
            raise TimeoutError from error

    def expire(self) -> None:
        """End now what is done in the context; nothing where there is none."""
        if self._task is not None and not self.expired:
            self.expired = True
            self._task.cancel()

    def close(self) -> None:
        """Take the timer back."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        self._timer = None
        loop = asyncio.get_running_loop()
        if self._task is None:
            return
        if loop.time() < self._ends:
            self._timer = loop.call_at(self._ends, self._look)
        else:
            self.expire()
