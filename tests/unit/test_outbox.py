"""Events on their way out: groups by number or time, a bound, and what happens at the bound."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from seedbed.crds.errors import QueueFullError, UnavailableError
from seedbed.runtime.bus.batching import Batcher
from seedbed.runtime.bus.event_metrics import SHED
from seedbed.runtime.bus.events import Event, EventSettings, Lane, Priority
from seedbed.runtime.bus.outbox import Outbox
from tests.conftest import run_async

SMALL = EventSettings(size=10, wait=0.01, buffered=100)


class Log:
    """Takes batches while its gate is open."""

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.got: list[tuple[Lane, list[Event]]] = []

    async def send(self, lane: Lane, events: Sequence[Event]) -> None:
        await self.gate.wait()
        self.got.append((lane, list(events)))

    def of(self, priority: Priority) -> list[bytes]:
        return [
            event.payload
            for lane, events in self.got
            for event in events
            if lane.priority == priority
        ]


def event(number: int, priority: Priority = "normal") -> Event:
    return Event("run", "k", 0.0, b"%d" % number, priority)


def test_what_no_policy_may_drop_is_refused_aloud() -> None:
    async def body() -> None:
        for overflow in ("Reject", "Wait"):
            log = Log()
            outbox = Outbox(log.send, replace(SMALL, overflow=overflow, patience=0.01))
            for number in range(100):
                outbox.put(event(number, "low"))
            with pytest.raises(QueueFullError):
                outbox.put(event(100, "low"))
            with pytest.raises(QueueFullError):
                await outbox.emit(event(100, "normal"))
            for number in range(10):
                outbox.put(event(number, "critical"))
            with pytest.raises(QueueFullError):
                outbox.put(event(10, "critical"))
            with pytest.raises(UnavailableError):
                await outbox.flush(0.01)
            log.gate.set()
            await outbox.flush(5.0)
            assert log.of("low") == [b"%d" % number for number in range(100)]
            assert log.of("critical") == [b"%d" % number for number in range(10)]
            await outbox.close()

    run_async(body())


@pytest.mark.req("COG-2.4.2")
def test_a_critical_event_waits_for_no_others() -> None:
    async def body() -> None:
        log = Log()
        log.gate.set()
        outbox = Outbox(log.send, replace(SMALL, wait=3600.0))
        for priority in ("low", "normal", "critical"):
            outbox.put(event(1, priority))
        async with asyncio.timeout(10):
            while not log.got:
                await asyncio.sleep(0)
        assert (log.of("critical"), log.of("normal"), log.of("low")) == ([b"1"], [], [])
        await outbox.flush(5.0)
        assert (log.of("normal"), log.of("low")) == ([b"1"], [b"1"])
        await outbox.close()

    run_async(body())


def test_who_waits_goes_on_when_there_is_room() -> None:
    async def body() -> None:
        log = Log()
        outbox = Outbox(log.send, replace(SMALL, overflow="Wait", patience=30.0))
        for number in range(100):
            outbox.put(event(number))
        waiting = asyncio.create_task(outbox.emit(event(100)))
        await asyncio.sleep(0)
        assert not waiting.done()
        log.gate.set()
        await waiting
        await outbox.flush(5.0)
        assert log.of("normal") == [b"%d" % number for number in range(101)]
        await outbox.close()

    run_async(body())


def test_low_events_make_room_oldest_first_and_are_counted() -> None:
    async def body() -> None:
        log, shed = Log(), SHED._value.get()
        outbox = Outbox(log.send, SMALL)
        for number in range(100):
            outbox.put(event(number, "low"))
        for number in range(30):
            outbox.put(event(number, "normal"))
        outbox.put(event(100, "low"))
        log.gate.set()
        await outbox.flush(5.0)
        assert log.of("low") == [b"%d" % number for number in range(30, 100)]
        assert len(log.of("normal")) == 30
        assert SHED._value.get() - shed == 31
        await outbox.close()

    run_async(body())


@settings(max_examples=60, deadline=None)
@given(
    some.lists(some.integers(0, 400), min_size=1, max_size=120),
    some.integers(1, 20),
    some.integers(1, 40),
)
def test_groups_keep_the_order_and_their_bounds(
    weights: list[int], size: int, largest: int
) -> None:
    async def body() -> None:
        groups: list[list[tuple[int, int]]] = []

        async def send(group: list[tuple[int, int]]) -> None:
            await asyncio.sleep(0)
            groups.append(group)

        batcher = Batcher(
            send, size=size, wait=60.0, largest=largest, heaviest=1000, weigh=lambda item: item[1]
        )
        for item in enumerate(weights):
            batcher.put(item)
            if item[1] % 3 == 0:
                await asyncio.sleep(0)
        await batcher.flush()
        assert [item for group in groups for item in group] == list(enumerate(weights))
        for group in groups:
            assert len(group) <= largest
            assert len(group) == 1 or sum(weight for _, weight in group) <= 1000
        await batcher.close()

    run_async(body())
