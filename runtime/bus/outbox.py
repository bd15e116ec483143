"""Events on their way into the log: one batcher for each lane, a bound for all, a policy at the bound."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from seedbed.crds.errors import InvalidError, QueueFullError, UnavailableError
from seedbed.runtime.bus import event_metrics as metrics
from seedbed.runtime.bus.batching import Batcher
from seedbed.runtime.bus.events import PAYLOAD_LIMIT, Event, EventSettings, Lane

RESERVE = 10
"""A tenth of the buffer, on top of it, is for critical events alone."""
BATCH_BYTES = 512 * 1024
"""Bytes of payload in one batch; a single event may not have more than half of it."""

Send = Callable[[Lane, Sequence[Event]], Awaitable[None]]


class Outbox:
    """Takes events at once and sends them lane by lane.

    Args:
        send: brings one batch of a lane into the log; tries until it can.
        settings: sizes, times and the overflow policy.
    """

    def __init__(self, send: Send, settings: EventSettings) -> None:
        self._send = send
        self._settings = settings
        self._lanes: dict[Lane, Batcher[Event]] = {}
        self._count = 0
        self._bytes = 0
        self._most = settings.buffered
        self._most_bytes = settings.buffered_bytes
        self._room = asyncio.Event()

    def put(self, event: Event) -> None:
        """See `EventLog.put`."""
        size = len(event.payload)
        if size > PAYLOAD_LIMIT:
            raise InvalidError("payload", f"an event carries at most {PAYLOAD_LIMIT} bytes")
        # In the common case there is room, and nothing more is to be looked at.
        if (
            self._count >= self._most or self._bytes + size > self._most_bytes
        ) and not self._make_room(event):
            return
        lane = event.lane
        batcher = self._lanes.get(lane)
        if batcher is None:
            batcher = self._lanes[lane] = self._batcher(lane)
        self._count += 1
        self._bytes += size
        batcher.put(event)

    async def emit(self, event: Event) -> None:
        """See `EventLog.emit`."""
        if self._settings.overflow == "Wait" and self._full(event):
            deadline = time.monotonic() + self._settings.patience
            while self._full(event):
                self._room.clear()
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        await self._room.wait()
                except TimeoutError:
                    break
        self.put(event)

    async def flush(self, wait: float) -> None:
        """See `EventLog.flush`."""
        try:
            async with asyncio.timeout(wait):
                await asyncio.gather(*(each.flush() for each in self._lanes.values()))
        except TimeoutError:
            late = f"{self._count} events are not in the log within {wait:g} s"
            raise UnavailableError(late) from None

    async def close(self) -> None:
        """Stop sending."""
        for batcher in self._lanes.values():
            await batcher.close()

    def _batcher(self, lane: Lane) -> Batcher[Event]:
        async def send(events: Sequence[Event]) -> None:
            try:
                await self._send(lane, events)
            finally:
                self._gone(events)
            metrics.SENT.labels(lane.priority).inc(len(events))
            metrics.BATCH_EVENTS.observe(len(events))

        settings = self._settings
        return Batcher(
            send,
            size=settings.size,
            wait=0.0 if lane.priority == "critical" else settings.wait,
            largest=settings.largest,
            heaviest=BATCH_BYTES,
            weigh=_size,
        )

    def _gone(self, events: Sequence[Event]) -> None:
        self._count -= len(events)
        self._bytes -= sum(len(event.payload) for event in events)
        metrics.BUFFERED.set(self._count)
        self._room.set()

    def _full(self, event: Event) -> bool:
        most, most_bytes = self._most, self._most_bytes
        if event.priority == "critical":
            most, most_bytes = most + most // RESERVE, most_bytes + most_bytes // RESERVE
        return self._count >= most or self._bytes + len(event.payload) > most_bytes

    def _make_room(self, event: Event) -> bool:
        """Whether there is room now; False where the event itself is dropped.

        Raises:
            QueueFullError: there is none, and the event may not be dropped.
        """
        if not self._full(event):
            return True
        if self._settings.overflow == "ShedLow":
            if event.priority == "low":
                metrics.SHED.inc()
                return False
            while self._full(event) and self._shed():
                pass
            if not self._full(event):
                return True
        metrics.REFUSED.labels(event.priority).inc()
        raise QueueFullError("events", self._settings.buffered, self._settings.wait)

    def _shed(self) -> bool:
        """Drop one event of low priority, from where most of them wait."""
        low = [each for lane, each in self._lanes.items() if lane.priority == "low"]
        fullest = max(low, key=len, default=None)
        if not fullest:
            return False
        self._gone([fullest.drop_oldest()])
        metrics.SHED.inc()
        return True


def _size(event: Event) -> int:
    return len(event.payload)
