"""Work queues in JetStream: one work-queue stream, one subject and one durable consumer per queue.

Whoever finds the stream or a consumer missing makes it, so a server that comes back with an empty disk
is usable at once.
"""

from __future__ import annotations

import asyncio
import json
import logging
import re
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import Error as NatsError
from nats.errors import MaxPayloadError, MsgAlreadyAckdError, NoRespondersError
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    DiscardPolicy,
    Header,
    RetentionPolicy,
    StorageType,
    StreamConfig,
)
from nats.js.errors import APIError
from nats.js.errors import NotFoundError as StreamNotFoundError

from seedbed.crds.errors import InvalidError, QueueFullError, UnavailableError
from seedbed.runtime.bus.nats_put import Acknowledged
from seedbed.runtime.bus.port import Delivery

STREAM = "SEEDBED_WORK"
DUPLICATE_SECONDS = 120.0
ANSWER_SECONDS = 5.0
"""How long the server may take to answer, restarts included."""

_ATTEMPT_SECONDS = 2.0
_REPAIR_SECONDS = 0.1
_MAX_WAITING = 16_384
_PARTS = re.compile(r"[A-Za-z0-9_/=-]+(\.[A-Za-z0-9_/=-]+)*")

# JetStream's error numbers.
_STREAM_DIFFERS = 10058

_log = logging.getLogger(__name__)


def subject_of(space: str, name: str, form: re.Pattern[str] = _PARTS) -> str:
    """The NATS subject of a queue, address or topic.

    Raises:
        InvalidError: where the name would change the subject's meaning.
    """
    if not form.fullmatch(name):
        raise InvalidError(space, f"expected letters, digits, - and _ parted by dots, not {name!r}")
    return f"{space}.{name}"


@contextmanager
def answering(what: str) -> Iterator[None]:
    """Turn the client's errors into the port's.

    The client waits by `asyncio.wait_for`, which before Python 3.12 forgets a cancellation that comes at the
    moment of the answer. The task would go on for ever and whoever cancelled it wait for ever.
    """
    task = asyncio.current_task()
    before = task.cancelling() if task else 0
    try:
        yield
        if task and task.cancelling() > before:
            raise asyncio.CancelledError
    except MaxPayloadError:
        raise InvalidError("payload", f"larger than the bus takes: {what}") from None
    except NoRespondersError:
        raise UnavailableError(f"nobody serves {what}") from None
    except (NatsError, TimeoutError, OSError) as error:
        raise UnavailableError(f"the bus did not answer: {what}: {error}") from error


class _Delivery:
    """A JetStream message in a worker's hands."""

    __slots__ = ("_message",)

    def __init__(self, message: Msg) -> None:
        self._message = message

    @property
    def payload(self) -> bytes:
        return self._message.data

    @property
    def redelivered(self) -> bool:
        return self._message.metadata.num_delivered > 1

    async def ack(self) -> None:
        with answering("ack"), suppress(MsgAlreadyAckdError):
            await self._message.ack()

    async def working(self) -> None:
        with answering("working"):
            await self._message.in_progress()

    async def give_back(self, delay: float = 0.0) -> None:
        with answering("give back"), suppress(MsgAlreadyAckdError):
            await self._message.nak(delay or None)


class WorkStream:
    """The stream that holds all work, over one connection.

    Attributes:
        connected: set while the connection stands.
        stream: what the server is asked about the stream through.
    """

    def __init__(self, client: Client, queue_limit: int) -> None:
        self.client = client
        self.connected = asyncio.Event()
        self._queue_limit = queue_limit
        self.stream = client.jetstream(timeout=ANSWER_SECONDS)
        self._acknowledged = Acknowledged(client)
        self._pullers: set[Puller] = set()

    async def put_all(self, queue: str, items: Sequence[tuple[str, bytes]]) -> None:
        """Queue items; see the port."""
        subject = subject_of("work", queue)
        left = [(f"{queue}/{item_id}", payload) for item_id, payload in items]
        deadline = time.monotonic() + ANSWER_SECONDS
        # An attempt that was lost with a connection is safe to repeat: the id makes it count once.
        while left:
            with answering(f"queue {queue}"):
                async with asyncio.timeout(deadline - time.monotonic()):
                    await self.connected.wait()
                    outcome = await self._acknowledged.put(subject, left, _ATTEMPT_SECONDS)
                    if outcome.full:
                        raise QueueFullError(queue, self._queue_limit)
                    if outcome.refused:
                        raise UnavailableError(f"queue {queue}: {outcome.refused}")
                    if outcome.missing:
                        await self._ensure_stream()
                    elif outcome.left:
                        _log.info("queue %s: no acknowledgement yet; sending again", queue)
                    left = outcome.left

    def restored(self) -> None:
        """The connection is back: what was asked over the old one will not be answered."""
        for puller in self._pullers:
            puller.ask_again()

    def enter(self, puller: Puller) -> None:
        """Tell the puller of restored connections from now on."""
        self._pullers.add(puller)

    def leave(self, puller: Puller) -> None:
        """The puller has closed."""
        self._pullers.discard(puller)

    async def ensure_queue(self, queue: str, redeliver_after: float) -> None:
        """Make the queue, and the stream, where they are missing."""
        config = ConsumerConfig(
            name=consumer_of(queue),
            durable_name=consumer_of(queue),
            filter_subject=subject_of("work", queue),
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=redeliver_after,
            max_deliver=-1,
            max_ack_pending=-1,
            max_waiting=_MAX_WAITING,
        )
        try:
            await self.stream.add_consumer(STREAM, config)
        except StreamNotFoundError:
            await self._ensure_stream()
            await self.stream.add_consumer(STREAM, config)

    async def _ensure_stream(self) -> None:
        config = StreamConfig(
            name=STREAM,
            subjects=["work.>"],
            retention=RetentionPolicy.WORK_QUEUE,
            storage=StorageType.FILE,
            duplicate_window=DUPLICATE_SECONDS,
            discard=DiscardPolicy.NEW,
            discard_new_per_subject=True,
            max_msgs_per_subject=self._queue_limit,
        )
        try:
            await self.stream.add_stream(config)
        except APIError as error:
            if error.err_code != _STREAM_DIFFERS:
                raise
            await self.stream.update_stream(config)


def consumer_of(queue: str) -> str:
    """Name of a queue's consumer."""
    return queue.replace(".", "_")


class Puller:
    """One open pull on a queue.

    The server answers a pull request at the moment items arrive. At most one request is out. What it
    brings beyond the call that sent it is kept for the next call, which a caller that asked for many
    makes at once; an item that comes when nobody waits for it any more goes back to the queue.
    """

    def __init__(self, stream: WorkStream, queue: str, redeliver_after: float) -> None:
        self._stream = stream
        self._queue = queue
        self._redeliver_after = redeliver_after
        self._turn = asyncio.Lock()
        self._arrived: deque[Msg] = deque()
        self._changed = asyncio.Event()
        self._wanted = 0
        self._ended = ""
        self._request = 0
        self._waiting = False

    async def open(self) -> None:
        """Make the queue where it is missing, and a place where its items arrive."""
        await self._stream.ensure_queue(self._queue, self._redeliver_after)
        self._inbox = self._stream.client.new_inbox()
        self._subscription = await self._stream.client.subscribe(
            f"{self._inbox}.*", cb=self._arrive, pending_msgs_limit=16 * 1024
        )
        self._stream.enter(self)

    async def close(self) -> None:
        """Stop: without interest in the inbox, the server drops the request that may be out."""
        self._stream.leave(self)
        self._waiting = False
        # Draining gives back what is on its way here.
        await drain(self._subscription)
        with suppress(UnavailableError):
            await self._give_back()

    def ask_again(self) -> None:
        """The server forgot the request with the connection: ask again."""
        self._end("again")

    async def __call__(self, wait: float) -> Delivery | None:
        """The next item, or None after `wait` seconds."""
        found = await self.many(wait, 1)
        return found[0] if found else None

    async def many(self, wait: float, most: int) -> list[Delivery]:
        """The next items, or none after `wait` seconds."""
        deadline = time.monotonic() + wait
        try:
            async with asyncio.timeout(max(wait, 0.0) + ANSWER_SECONDS):
                async with self._turn:
                    self._waiting = True
                    await self._next(deadline, most)
        except TimeoutError:
            pass
        except asyncio.CancelledError:
            await self._leave()
            raise
        found = self._take(most)
        if not found:
            await self._leave()
        return found

    def _take(self, most: int) -> list[Delivery]:
        count = min(most, len(self._arrived))
        return [_Delivery(self._arrived.popleft()) for _ in range(count)]

    async def _leave(self) -> None:
        """Nobody waits any more: what still comes goes back."""
        self._waiting = False
        await self._give_back()

    async def _give_back(self) -> None:
        while self._arrived:
            with answering("give back"), suppress(MsgAlreadyAckdError):
                await self._arrived.popleft().nak()

    async def _next(self, deadline: float, most: int) -> None:
        """Wait until something has arrived, or it is too late."""
        while not self._arrived:
            if not self._stream.connected.is_set():
                try:
                    async with asyncio.timeout(deadline - time.monotonic()):
                        await self._stream.connected.wait()
                except TimeoutError:
                    return
            left = deadline - time.monotonic()
            if self._wanted <= 0:
                await self._ask(left, most)
            self._changed.clear()
            with suppress(TimeoutError):
                # The server ends the request itself; the second more is for when it does not.
                async with asyncio.timeout(max(left, 0.0) + 1.0):
                    await self._changed.wait()
            if self._arrived:
                return
            if self._ended not in ("", "404", "408", "again"):
                await self._repair()
            if time.monotonic() >= deadline:
                self._wanted = 0
                return

    async def _ask(self, left: float, most: int) -> None:
        """Send a request for items."""
        ask: dict[str, object] = {"batch": most, "no_wait": True}
        if left > 0:
            ask = {"batch": most, "expires": int(left * 1e9)}
        self._request += 1
        self._wanted, self._ended = most, ""
        with answering(f"queue {self._queue}"):
            await self._stream.client.publish(
                f"$JS.API.CONSUMER.MSG.NEXT.{STREAM}.{consumer_of(self._queue)}",
                json.dumps(ask).encode(),
                f"{self._inbox}.{self._request}",
            )

    def _end(self, status: str) -> None:
        self._wanted, self._ended = 0, status
        self._changed.set()

    async def _arrive(self, message: Msg) -> None:
        status = status_of(message)
        if status:
            current = message.subject == f"{self._inbox}.{self._request}"
            if current and status != "100":
                self._end(status)
        elif self._waiting:
            self._wanted -= 1
            self._arrived.append(message)
            self._changed.set()
        else:
            await message.nak()

    async def _repair(self) -> None:
        """The consumer is gone, or its server: make it again and leave the server some air."""
        try:
            await self._stream.ensure_queue(self._queue, self._redeliver_after)
        except (NatsError, TimeoutError) as error:
            _log.info("queue %s is not back yet: %s", self._queue, error)
        await asyncio.sleep(_REPAIR_SECONDS)


async def drain(subscription: Subscription) -> None:
    """End a subscription once what the server has sent it is processed."""
    with suppress(NatsError, TimeoutError):
        async with asyncio.timeout(ANSWER_SECONDS):
            await subscription.drain()  # type: ignore[no-untyped-call]  # nats-py leaves it untyped


def status_of(message: Msg) -> str:
    """The status of a message from the server itself; empty for an item."""
    if message.reply or not message.headers:
        return ""
    return str(message.headers.get(Header.STATUS.value, ""))
