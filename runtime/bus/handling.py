"""Handling the events of a partition: each at least once, in order, the hopeless ones put aside.

An event whose handling fails is tried again with growing waits, and the lane waits with it, so that the
order stays. After a limit it becomes a dead letter and the lane goes on. A batch whose follower died
with it in hand as often as that is put aside whole: one of its events ends the process.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from seedbed.crds.errors import UnavailableError
from seedbed.runtime.bus import event_metrics as metrics
from seedbed.runtime.bus.events import (
    FIRST,
    PRIORITIES,
    DeadLetter,
    Delivered,
    Event,
    EventLog,
    Follower,
    Priority,
    Start,
)

HandleEvent = Callable[[Event], Awaitable[None]]

_NEXT_SECONDS = 30.0
_AGAIN_SECONDS = 0.5
_TOLD = 1000
"""Characters of the reason that a dead letter tells."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Patience:
    """How often an event is tried, and how long between tries.

    Attributes:
        failures: after so many it is a dead letter.
        first: seconds before the second try; doubled each time.
        longest: seconds at most between two tries.
        limit: seconds that one try may take.
    """

    failures: int = 5
    first: float = 0.1
    longest: float = 5.0
    limit: float = 30.0


async def handle(
    events: EventLog,
    name: str,
    partition: int,
    handler: HandleEvent,
    *,
    priorities: Sequence[Priority] = PRIORITIES,
    start: Start = FIRST,
    patience: Patience | None = None,
) -> None:
    """Give a partition's events to a handler until cancelled; see `EventLog.follow` for the rest."""
    handling = _Handling(events, name, handler, patience or Patience())
    while True:
        try:
            async with events.follow(name, partition, priorities, start=start) as follower:
                while True:
                    await handling.next(follower)
        except UnavailableError as error:
            _log.info("%s: partition %d: %s", name, partition, error)
            await asyncio.sleep(error.retry_after or _AGAIN_SECONDS)


@dataclass(frozen=True, slots=True)
class _Handling:
    events: EventLog
    name: str
    handler: HandleEvent
    patience: Patience

    async def next(self, follower: Follower) -> None:
        delivered = await follower.next(_NEXT_SECONDS)
        if delivered is None:
            return
        if delivered.deliveries > self.patience.failures:
            await self._give_up(delivered)
        else:
            for event in delivered.events:
                await self._one(event)
        await follower.ack(delivered)

    async def _one(self, event: Event) -> None:
        wait = self.patience.first
        for failures in range(1, self.patience.failures + 1):
            try:
                async with asyncio.timeout(self.patience.limit):
                    await self.handler(event)
            except Exception as error:  # noqa: BLE001  # the edge: whatever a handler raises
                reason = f"{type(error).__name__}: {error}"
            else:
                metrics.HANDLED.labels(self.name).inc()
                return
            if failures == self.patience.failures:
                await self._bury(event, failures, reason)
                return
            _log.info("%s: %s of %s failed: %s", self.name, event.kind, event.key, reason)
            metrics.RETRIED.labels(self.name).inc()
            await asyncio.sleep(wait)
            wait = min(self.patience.longest, wait * 2)

    async def _give_up(self, delivered: Delivered) -> None:
        times = delivered.deliveries - 1
        for event in delivered.events:
            await self._bury(
                event, times, f"its follower ended {times} times with its batch in hand"
            )

    async def _bury(self, event: Event, failures: int, reason: str) -> None:
        # Names of files, for instance, may hold what no text on the wire can.
        told = reason[:_TOLD].encode(errors="replace").decode()
        _log.warning("%s: %s of %s is given up: %s", self.name, event.kind, event.key, told)
        letter = DeadLetter(event, self.name, failures, told, time.time())
        while True:
            try:
                await self.events.bury(letter)
            except UnavailableError as error:
                _log.info("%s: a dead letter waits: %s", self.name, error)
                await asyncio.sleep(error.retry_after or _AGAIN_SECONDS)
            else:
                metrics.BURIED.labels(self.name).inc()
                return
