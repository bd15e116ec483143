"""Steps that a worker executes and nobody wants any more: they are stopped, and those that come dropped.

The message may be lost: then a step goes on until its time limit, and its result is ignored.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from seedbed.crds.addresses import unwanted_topic
from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import StepTask, Unwanted
from seedbed.crds.run_ids import attempt_id
from seedbed.crds.wire import decode
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.worker.limit import Limit

KEPT_SECONDS = 60.0
"""How long an attempt is remembered: its item may wait in the queue for a while."""

log = logging.getLogger(__name__)


class Lane:
    """What one lane of a worker executes, and for how long.

    Attributes:
        stopped: whether nobody wants the result of the task at hand.
    """

    __slots__ = ("_limit", "_task", "stopped")

    def __init__(self) -> None:
        self.stopped = False
        self._task: StepTask | None = None
        self._limit = Limit()

    def begin(self, task: StepTask, seconds: float) -> Limit:
        """A task begins; it is executed in the context of the limit, which has so many seconds."""
        self._task, self.stopped = task, False
        return self._limit.within(seconds)

    def end(self) -> None:
        """It has ended."""
        self._task = None

    def stop(self, attempts: frozenset[str]) -> None:
        """End the task now where it is one of these attempts."""
        if self._task is None or self._limit.expired:
            return
        if _name(self._task) in attempts:
            self.stopped = True
            self._limit.expire()

    def close(self) -> None:
        """No further task comes."""
        self._limit.close()


class Hearing:
    """Hears what is unwanted, for the lanes of one worker."""

    def __init__(
        self, bus: Bus, namespace: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bus = bus
        self._topic = unwanted_topic(namespace)
        self._clock = clock
        self._lanes: list[Lane] = []
        self._known: dict[str, float] = {}

    def lane(self) -> Lane:
        """One more lane."""
        lane = Lane()
        self._lanes.append(lane)
        return lane

    def names(self, task: StepTask) -> bool:
        """Whether an item that has come is unwanted."""
        return bool(self._known) and _name(task) in self._known

    async def listen(self) -> None:
        """Stop what is told of, for ever."""
        async with self._bus.hear(self._topic) as messages:
            async for message in messages:
                with suppress(InvalidError):
                    self._take(decode(Unwanted, message.payload))

    def _take(self, unwanted: Unwanted) -> None:
        now = self._clock()
        # The oldest stand first.
        while self._known and next(iter(self._known.values())) < now - KEPT_SECONDS:
            del self._known[next(iter(self._known))]
        self._known.update(dict.fromkeys(unwanted.attempts, now))
        attempts = frozenset(unwanted.attempts)
        for lane in self._lanes:
            lane.stop(attempts)


def _name(task: StepTask) -> str:
    return attempt_id(task.run, task.key, task.attempt)
