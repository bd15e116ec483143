"""Following the event log in JetStream: one tap for each lane, a bounded number of batches in hand."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import MsgAlreadyAckdError
from nats.js.api import AckPolicy, ConsumerConfig, ConsumerInfo, DeliverPolicy
from nats.js.errors import NotFoundError as StreamNotFoundError

from seedbed.crds.errors import InvalidError
from seedbed.runtime.bus import event_metrics as metrics
from seedbed.runtime.bus.event_wire import Batch, decode_batch
from seedbed.runtime.bus.events import Delivered, Lane, Start
from seedbed.runtime.bus.nats_work import ANSWER_SECONDS, answering, drain, status_of

WINDOW = 16
"""Batches of a lane that a follower holds at most."""

_ASK_SECONDS = 30.0
_ACK_SECONDS = 120.0
_FORGET_SECONDS = 60.0
"""After which the server drops the place of a follower without a name that has gone."""
_REPAIR_SECONDS = 0.2
_SOURCES = 1000

_log = logging.getLogger(__name__)


def consumer_name(name: str, lane: Lane) -> str:
    """The durable consumer of a name in a lane."""
    return f"{name}-{lane.partition}-{lane.priority}"


class Tap:
    """The batches of one lane as they come, in order, at most a window of them.

    What the server delivers a second time to the same tap is still in hand here, or its acknowledgement
    was lost: it is not handed out again.
    """

    def __init__(
        self,
        client: Client,
        name: str,
        stream: str,
        subject: str,
        lane: Lane,
        ensure_stream: Callable[[], Awaitable[None]],
    ) -> None:
        self.lane = lane
        self._ensure_stream = ensure_stream
        self._client = client
        self._js = client.jetstream(timeout=ANSWER_SECONDS)
        self._name = name
        self._stream = stream
        self._subject = subject
        self._consumer = consumer_name(name, lane) if name else client.new_inbox().split(".")[-1]
        self._start = Start()
        self._tries = 1
        self._skipped: list[Msg] = []
        self._wake = asyncio.Event()
        self._waiting: deque[Msg] = deque()
        self._hand: dict[int, Msg] = {}
        self._newest = 0
        self._asked = 0
        self._asked_until = 0.0
        self._numbers: OrderedDict[str, int] = OrderedDict()
        self._repair: asyncio.Task[None] | None = None

    async def open(self, start: Start, wake: asyncio.Event) -> None:
        """Find the name's place or make it; `wake` is set whenever something has come."""
        self._start, self._wake = start, wake
        await self._ensure_stream()
        await self._find(start)
        self._inbox = self._client.new_inbox()
        self._subscription = await self._client.subscribe(self._inbox, cb=self._arrived)
        await self.ask()

    async def close(self) -> None:
        """Stop; what is in hand is delivered again when the name comes back."""
        if self._repair is not None:
            self._repair.cancel()
            await asyncio.wait({self._repair})
        await drain(self._subscription)
        if not self._name:
            with suppress(NatsError, TimeoutError):
                await self._js.delete_consumer(self._stream, self._consumer)

    def ask_again(self) -> None:
        """The server forgot what it was asked with the connection."""
        self._asked = 0
        self._wake.set()

    async def ask(self) -> None:
        """Let the server send as many as there is room for; it does so as they come."""
        while self._skipped:
            await self._skipped.pop().ack()
        if self._asked and time.monotonic() > self._asked_until:
            self._asked = 0
        room = WINDOW - len(self._hand) - self._asked
        if self._repair is not None or room < WINDOW // 2 or not self._client.is_connected:
            return
        self._asked += room
        self._asked_until = time.monotonic() + _ASK_SECONDS + 1.0
        ask = {"batch": room, "expires": int(_ASK_SECONDS * 1e9)}
        await self._client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}",
            json.dumps(ask).encode(),
            self._inbox,
        )

    def take(self) -> Delivered | None:
        """The next batch that is here, or None."""
        while self._waiting:
            message = self._waiting.popleft()
            sequence = message.metadata.sequence.stream
            try:
                batch = decode_batch(message.data, self.lane.priority)
            except InvalidError as error:
                _log.warning("%s: batch %d is left out: %s", self._subject, sequence, error)
                batch = Batch("", 0, ())
            if batch.events and batch.only in ("", self._name):
                deliveries, self._tries = self._tries, 1
                missed = 0 if batch.only else self._missed(batch)
                return Delivered(self.lane, sequence, batch.events, deliveries, missed)
            self._skipped.append(self._hand.pop(sequence))
        return None

    async def ack(self, sequence: int) -> None:
        """It is handled."""
        message = self._hand.pop(sequence, None)
        if message is not None:
            with answering("ack"), suppress(MsgAlreadyAckdError):
                await message.ack()

    def _missed(self, batch: Batch) -> int:
        """How many of the source's batches were gone before this one."""
        before = self._numbers.pop(batch.source, None)
        self._numbers[batch.source] = batch.number
        while len(self._numbers) > _SOURCES:
            self._numbers.popitem(last=False)
        missed = 0 if before is None else max(0, batch.number - before - 1)
        if missed:
            metrics.MISSED.labels(self.lane.priority).inc(missed)
        return missed

    async def _arrived(self, message: Msg) -> None:
        status = status_of(message)
        if status:
            if status != "100":
                self._asked = 0
                if status not in ("404", "408"):
                    self._mend()
                self._wake.set()
            return
        self._asked = max(0, self._asked - 1)
        sequence = message.metadata.sequence.stream
        if sequence > self._newest:
            self._newest = sequence
            self._hand[sequence] = message
            self._waiting.append(message)
            self._wake.set()
        elif sequence not in self._hand:
            with suppress(NatsError):
                await message.ack()

    def _mend(self) -> None:
        """The consumer is gone, or its server: make it again, with some air for the server."""

        async def mend() -> None:
            await asyncio.sleep(_REPAIR_SECONDS)
            try:
                await self._recover()
            except (NatsError, TimeoutError) as error:
                _log.info("%s: its consumer is not back yet: %s", self._subject, error)
            finally:
                self._repair = None
                self._wake.set()

        if self._repair is None:
            self._repair = asyncio.create_task(mend())

    async def _find(self, start: Start) -> None:
        """Find the name's place, where it begins with what was not acknowledged, or make it."""
        try:
            found = await self._js.consumer_info(self._stream, self._consumer)
        except StreamNotFoundError:
            await self._make(start)
        else:
            if found.num_ack_pending:
                await self._begin_again(found)

    async def _recover(self) -> None:
        """Make the place again, behind what has come, where it is gone."""
        await self._ensure_stream()
        with suppress(StreamNotFoundError):
            await self._js.consumer_info(self._stream, self._consumer)
            return
        state = (await self._js.stream_info(self._stream)).state
        if state.last_seq < self._newest:  # another stream, on an empty disk
            self._newest = 0
            await self._make(Start())
        elif self._newest:
            await self._make(Start(sequence=self._newest + 1))
        else:
            await self._make(self._start)

    async def _begin_again(self, found: ConsumerInfo) -> None:
        # Whoever had the name before is gone with batches in hand. JetStream would send newer ones
        # first and those later; a consumer made anew behind the last acknowledged one keeps the order.
        assert found.ack_floor is not None
        floor = found.ack_floor.stream_seq + 1
        known = found.config.metadata or {}
        again = known.get("floor") == str(floor)
        self._tries = int(known.get("tries", "1")) + 1 if again else 2
        with suppress(StreamNotFoundError):
            await self._js.delete_consumer(self._stream, self._consumer)
        await self._make(Start(sequence=floor))

    async def _make(self, start: Start) -> None:
        config = ConsumerConfig(
            name=self._consumer,
            durable_name=self._consumer if self._name else None,
            filter_subject=self._subject,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=_ACK_SECONDS,
            max_deliver=-1,
            max_ack_pending=2 * WINDOW,
            deliver_policy=DeliverPolicy.ALL,
            inactive_threshold=None if self._name else _FORGET_SECONDS,
        )
        if start.new:
            config.deliver_policy = DeliverPolicy.NEW
        elif start.sequence is not None:
            config.deliver_policy = DeliverPolicy.BY_START_SEQUENCE
            config.opt_start_seq = start.sequence
            config.metadata = {"floor": str(start.sequence), "tries": str(self._tries)}
        elif start.at is not None:
            config.deliver_policy = DeliverPolicy.BY_START_TIME
            config.opt_start_time = datetime.fromtimestamp(start.at, UTC)
        await self._js.add_consumer(self._stream, config)


@dataclass(slots=True)
class NatsFollower:
    """See the port; `taps` in order of priority."""

    name: str
    taps: list[Tap] = field(default_factory=list)
    wake: asyncio.Event = field(default_factory=asyncio.Event)

    async def next(self, wait: float) -> Delivered | None:
        """See the port."""
        deadline = time.monotonic() + wait
        while True:
            self.wake.clear()
            with answering("events"):
                for tap in self.taps:
                    await tap.ask()
            for tap in self.taps:
                if (delivered := tap.take()) is not None:
                    return delivered
            left = min(deadline - time.monotonic(), _ASK_SECONDS)
            try:
                async with asyncio.timeout(left):
                    await self.wake.wait()
            except TimeoutError:
                if time.monotonic() >= deadline:
                    return None

    async def ack(self, delivered: Delivered) -> None:
        """See the port."""
        for tap in self.taps:
            if tap.lane == delivered.lane:
                await tap.ack(delivered.sequence)
