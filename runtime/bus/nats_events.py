"""The event log in JetStream: a stream for each priority and one for dead letters.

A lane is a subject, a batch is a message. A follower's name is one durable pull consumer for each lane.
As with work queues, whoever finds a stream or a consumer missing makes it; a server that comes back
with an empty disk has lost what it held, and the log goes on.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Collection, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial

from nats.aio.client import Client
from nats.js.api import Header, RawStreamMsg, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError, NoStreamResponseError
from nats.js.errors import NotFoundError as StreamNotFoundError

from seedbed.crds.addresses import PARTITIONS
from seedbed.crds.errors import InvalidError, UnavailableError
from seedbed.runtime.bus import event_metrics as metrics
from seedbed.runtime.bus.event_wire import (
    Batch,
    decode_letter,
    encode_batch,
    encode_letter,
)
from seedbed.runtime.bus.events import (
    FIRST,
    PRIORITIES,
    DeadLetter,
    Event,
    EventSettings,
    Lane,
    Limits,
    Priority,
    Start,
    checked_follow,
)
from seedbed.runtime.bus.nats_follow import NatsFollower, Tap, consumer_name
from seedbed.runtime.bus.nats_work import ANSWER_SECONDS, DUPLICATE_SECONDS, answering
from seedbed.runtime.bus.outbox import Outbox

DEAD = "SEEDBED_EVENTS_DEAD"

_ATTEMPT_SECONDS = 2.0
_FIRST_RETRY = 0.05
_LONGEST_RETRY = 2.0
_STREAM_DIFFERS = 10058

_log = logging.getLogger(__name__)


def stream_of(priority: Priority) -> str:
    """The stream that holds a priority."""
    return f"SEEDBED_EVENTS_{priority.upper()}"


def subject_of(lane: Lane) -> str:
    """The subject of a lane."""
    return f"event.{lane.partition}.{lane.priority}"


class NatsEvents:
    """An `EventLog` over one connection.

    Args:
        connected: set while the connection stands.
    """

    def __init__(self, client: Client, connected: asyncio.Event, settings: EventSettings) -> None:
        self._client = client
        self._connected = connected
        self._settings = settings
        self._stream = client.jetstream(timeout=ANSWER_SECONDS)
        self._outbox = Outbox(self._send, settings)
        self._source = uuid.uuid4().hex[:12]
        self._numbers: Counter[Lane] = Counter()
        self._taps: set[Tap] = set()

    def put(self, event: Event) -> None:
        """See the port."""
        self._outbox.put(event)

    async def emit(self, event: Event) -> None:
        """See the port."""
        await self._outbox.emit(event)

    async def flush(self, wait: float = ANSWER_SECONDS) -> None:
        """See the port."""
        await self._outbox.flush(wait)

    async def prepare(self) -> None:
        """See the port."""
        with answering("events"):
            for priority in PRIORITIES:
                await self._ensure(priority)
            await self._make(DEAD, "dead.>", self._settings.dead)

    async def close(self) -> None:
        """Bring what waits into the log where the server answers, and stop."""
        if self._connected.is_set():
            with suppress(UnavailableError):
                await self._outbox.flush(ANSWER_SECONDS)
        await self._outbox.close()

    def restored(self) -> None:
        """The connection is back: what was asked over the old one will not be answered."""
        for tap in self._taps:
            tap.ask_again()

    @asynccontextmanager
    async def follow(
        self,
        name: str,
        partition: int,
        priorities: Sequence[Priority] = PRIORITIES,
        *,
        start: Start = FIRST,
    ) -> AsyncIterator[NatsFollower]:
        """See the port."""
        checked_follow(name, priorities, start)
        follower = NatsFollower(name)
        async with AsyncExitStack() as stack:
            for priority in sorted(priorities, key=PRIORITIES.index):
                lane = Lane(partition, priority)
                stream, subject = stream_of(priority), subject_of(lane)
                ensure = partial(self._ensure, priority)
                tap = Tap(self._client, name, stream, subject, lane, ensure)
                with answering(subject):
                    await tap.open(start, follower.wake)
                stack.push_async_callback(tap.close)
                self._taps.add(tap)
                stack.callback(self._taps.discard, tap)
                follower.taps.append(tap)
            yield follower

    async def forget(self, name: str) -> None:
        """See the port."""
        with answering(f"events of {name}"):
            for priority in PRIORITIES:
                for partition in range(PARTITIONS):
                    with suppress(StreamNotFoundError):
                        consumer = consumer_name(name, Lane(partition, priority))
                        await self._stream.delete_consumer(stream_of(priority), consumer)

    async def bury(self, letter: DeadLetter) -> None:
        """See the port."""
        lane = letter.event.lane
        subject = f"dead.{lane.partition}.{lane.priority}"
        with answering("dead letters"):
            try:
                await self._stream.publish(subject, encode_letter(letter))
            except NoStreamResponseError:
                await self._make(DEAD, "dead.>", self._settings.dead)
                await self._stream.publish(subject, encode_letter(letter))

    async def dead_letters(self, *, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        """See the port."""
        found: list[DeadLetter] = []
        with answering("dead letters"):
            while len(found) < limit:
                message = await self._letter(after + 1, following=True)
                if message is None or not message.seq:
                    break
                after = message.seq
                try:
                    found.append(decode_letter(message.data or b"", after))
                except InvalidError as error:
                    _log.warning("dead letter %d cannot be read: %s", after, error)
        return found

    async def replay(self, numbers: Collection[int]) -> int:
        """See the port."""
        done = 0
        for number in sorted(numbers):
            with answering("dead letters"):
                message = await self._letter(number)
            if message is None:
                continue
            letter = decode_letter(message.data or b"", number)
            lane = letter.event.lane
            source = f"replay-{number}"
            batch = Batch(source, 1, (letter.event,), letter.follower)
            # The id makes a replay that is tried again, because its answer was lost, count once.
            await self._publish(lane, batch)
            done += await self.discard((number,))
        return done

    async def discard(self, numbers: Collection[int]) -> int:
        """See the port."""
        done = 0
        with answering("dead letters"):
            for number in set(numbers):
                with suppress(APIError):
                    done += await self._stream.delete_msg(DEAD, number)
        return done

    async def _letter(self, number: int, *, following: bool = False) -> RawStreamMsg | None:
        """The dead letter of a number, or with `following` the next one there is from it on."""
        try:
            if following:
                return await self._stream.get_msg(DEAD, seq=number, subject="dead.>", next=True)
            return await self._stream.get_msg(DEAD, seq=number)
        except StreamNotFoundError:
            return None

    async def _send(self, lane: Lane, events: Sequence[Event]) -> None:
        """Bring a batch into the log, for as long as it takes."""
        self._numbers[lane] += 1
        batch = Batch(self._source, self._numbers[lane], events)
        wait = _FIRST_RETRY
        while True:
            try:
                return await self._publish(lane, batch)
            except UnavailableError as error:
                _log.info("%s: %s; sending again", subject_of(lane), error)
            await asyncio.sleep(wait)
            wait = min(_LONGEST_RETRY, wait * 2)

    async def _publish(self, lane: Lane, batch: Batch) -> None:
        """One attempt. The batch's id makes it count once, also when an answer is lost."""
        data = encode_batch(batch)
        subject = subject_of(lane)
        headers = {Header.MSG_ID.value: f"{batch.source}/{subject}/{batch.number}"}
        with answering(subject):
            async with asyncio.timeout(ANSWER_SECONDS):
                await self._connected.wait()
            try:
                await self._stream.publish(subject, data, timeout=_ATTEMPT_SECONDS, headers=headers)
            except NoStreamResponseError:
                await self._ensure(lane.priority)
                raise
        metrics.BATCH_BYTES.observe(len(data))

    async def _ensure(self, priority: Priority) -> None:
        limits = self._settings.limits(priority)
        await self._make(stream_of(priority), f"event.*.{priority}", limits)

    async def _make(self, name: str, subject: str, limits: Limits) -> None:
        config = StreamConfig(
            name=name,
            subjects=[subject],
            retention=RetentionPolicy.LIMITS,
            storage=StorageType.FILE,
            duplicate_window=min(DUPLICATE_SECONDS, limits.seconds),
            max_age=limits.seconds,
            max_bytes=limits.size,
            num_replicas=self._settings.replicas,
        )
        try:
            await self._stream.add_stream(config)
        except APIError as error:
            if error.err_code != _STREAM_DIFFERS:
                raise
            if self._settings.governs:
                await self._stream.update_stream(config)
