"""What a worker has in hand: items it works on, and results that their engines have not journalled yet.

Results of one partition go in one request; while it is under way the next ones collect. So a busy
worker sends few large reports, and one that is idle reports at once. Only an item whose result is
journalled is acknowledged, so a worker that dies loses nothing but time.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from contextlib import suppress

from msgspec import Struct

from seedbed.crds.addresses import engine_address, partition_of
from seedbed.crds.engine_requests import Reported
from seedbed.crds.errors import InvalidError, NotFoundError, RetryableError, SeedbedError
from seedbed.crds.messages import StepResult
from seedbed.crds.wire import decode, encode
from seedbed.runtime.bus.port import Bus, Delivery

REPORT_WAIT = 2.0
"""Seconds after which a report is sent again; as long a dead engine's successor waits for results."""
REPORT_BYTES = 1024 * 1024
"""Bytes of results that go into one report; a single result may be larger."""
REPORT_MOST = 500
"""Results that go into one report: its partition does nothing else while it takes them in."""
UNREPORTED = 1000
UNREPORTED_BYTES = 16 * 1024 * 1024
"""How many results, and bytes of them, may wait for engines before no further item is taken."""

ENDED_SECONDS = 60.0
"""How long it is remembered that a run has ended: its items come within this time of each other."""

log = logging.getLogger(__name__)


class _Done(Struct):
    delivery: Delivery
    result: StepResult
    encoded: bytes


class Hands:
    """The items that one worker has in hand.

    Args:
        name: the worker's id, for the log.
        redeliver_after: seconds after which the bus gives an item to somebody else.
    """

    def __init__(self, bus: Bus, name: str, redeliver_after: float) -> None:
        self._bus = bus
        self._name = name
        self._often = redeliver_after / 3
        self._held: dict[Delivery, float] = {}
        self._waiting: dict[int, list[_Done]] = {}
        self._unreported = 0
        self._bytes = 0
        self._changed = asyncio.Event()
        self._ended: dict[str, float] = {}

    def is_over(self, run: str) -> bool:
        """Whether an engine has said that the run has ended, so that no step of it is of use."""
        said = self._ended.get(run)
        return said is not None and time.monotonic() < said + ENDED_SECONDS

    def take(self, delivery: Delivery) -> None:
        """An item has come."""
        self._held[delivery] = time.monotonic()

    async def done(self, delivery: Delivery, result: StepResult, *, alone: bool = True) -> None:
        """An item's step has ended: report it, then acknowledge.

        Where the partition has a report under way, whoever sent that reports this result next, and
        nothing is waited for here.

        Args:
            delivery: the item.
            result: what became of its step.
            alone: whether no other step starts now; those that end at once go into one report.
        """
        done = _Done(delivery, result, encode(result))
        self._unreported += 1
        self._bytes += len(done.encoded)
        partition = partition_of(result.run)
        waiting = self._waiting.get(partition)
        if waiting is not None:
            waiting.append(done)
            return
        self._waiting[partition] = [done]
        await self._report_all(partition, alone=alone)

    async def drop(self, delivery: Delivery) -> None:
        """An item is of no use to anybody."""
        self._held.pop(delivery, None)
        self._changed.set()
        await self._ack(delivery)

    @property
    def full(self) -> bool:
        """Whether so much waits for engines that no further item should be taken."""
        return self._unreported >= UNREPORTED or self._bytes >= UNREPORTED_BYTES

    async def until_not_full(self) -> None:
        """Wait until some results are journalled."""
        while self.full:
            self._changed.clear()
            await self._changed.wait()

    async def until_empty(self) -> None:
        """Wait until every item is acknowledged."""
        while self._held:
            self._changed.clear()
            await self._changed.wait()

    async def keep(self) -> None:
        """Tell the bus again and again that the items are in good hands."""
        while True:
            await asyncio.sleep(self._often)
            late = time.monotonic() - self._often
            for delivery in [each for each, since in self._held.items() if since <= late]:
                with suppress(SeedbedError):
                    await delivery.working()

    async def give_all_back(self) -> None:
        """Leave to others what is in hand."""
        held, self._held = self._held, {}
        for delivery in held:
            with suppress(SeedbedError):
                await delivery.give_back()

    async def _report_all(self, partition: int, *, alone: bool) -> None:
        try:
            if not alone:
                await asyncio.sleep(0)
            while waiting := self._waiting[partition]:
                batch = _first(waiting)
                self._waiting[partition] = waiting[len(batch) :]
                again = await self._report(partition, batch)
                self._waiting[partition][:0] = again
                if again:
                    await asyncio.sleep(0.1)
        finally:
            del self._waiting[partition]

    async def _report(self, partition: int, batch: Sequence[_Done]) -> list[_Done]:
        """Tell the engine, for as long as it takes: the results exist only here."""
        message = _message(batch)
        wait = 0.05
        while True:
            try:
                answer = await self._bus.request(
                    engine_address(partition), message, wait=REPORT_WAIT
                )
            except RetryableError as error:
                log.info("%s: the engine does not answer: %s", self._name, error)
                await asyncio.sleep(wait)
                wait = min(2.0, wait * 2)
            except NotFoundError:
                log.info("%s: the runs of %d results are gone", self._name, len(batch))
                return await self._settle(batch, ())
            except InvalidError:
                if len(batch) == 1:
                    raise
                # An engine of an earlier version takes one result at a time.
                for done in batch:
                    await self._report(partition, [done])
                return []
            else:
                reported = decode(Reported, answer)
                self._note_ended(reported.ended)
                return await self._settle(batch, reported.again)

    def _note_ended(self, runs: Sequence[str]) -> None:
        now = time.monotonic()
        for run in runs:
            self._ended.pop(run, None)
            self._ended[run] = now
        # The oldest stand first.
        while self._ended and next(iter(self._ended.values())) < now - ENDED_SECONDS:
            del self._ended[next(iter(self._ended))]

    async def _settle(self, batch: Sequence[_Done], again: Sequence[int]) -> list[_Done]:
        left = [batch[position] for position in again]
        asked = frozenset(again)
        for position, done in enumerate(batch):
            if position in asked:
                continue
            self._unreported -= 1
            self._bytes -= len(done.encoded)
            await self._ack(done.delivery)
            self._held.pop(done.delivery, None)
        self._changed.set()
        return left

    async def _ack(self, delivery: Delivery) -> None:
        try:
            await delivery.ack()
        except SeedbedError as error:
            # The result is journalled; the engine drops it where the item comes a second time.
            log.info("%s: an item cannot be acknowledged: %s", self._name, error)


def _first(waiting: list[_Done]) -> list[_Done]:
    """As many as go into one report."""
    size = 0
    for at, done in enumerate(waiting[:REPORT_MOST]):
        size += len(done.encoded)
        if size > REPORT_BYTES:
            return waiting[: max(1, at)]
    return waiting[:REPORT_MOST]


def _message(batch: Sequence[_Done]) -> bytes:
    if len(batch) == 1:
        return b'{"op":"report","result":%b}' % batch[0].encoded
    return b'{"op":"report_many","results":[%b]}' % b",".join(done.encoded for done in batch)
