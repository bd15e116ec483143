"""The Bus on NATS: work queues in JetStream, requests and topics on the core protocol.

All work lies in one work-queue stream, one subject and one durable pull consumer per queue. Neither is
configured by anybody: whoever finds them missing makes them, so a server that comes back with an empty
disk is usable at once. What was lost with it, the engine sends again (see `on_restore`).
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Self

from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from seedbed.crds.errors import UnavailableError
from seedbed.runtime.bus.answering import Answer, Answering
from seedbed.runtime.bus.events import EventSettings
from seedbed.runtime.bus.hearing import Listener
from seedbed.runtime.bus.nats_client import PatientClient
from seedbed.runtime.bus.nats_events import NatsEvents
from seedbed.runtime.bus.nats_sweep import drop_queue, queues
from seedbed.runtime.bus.nats_work import (
    ANSWER_SECONDS,
    Puller,
    WorkStream,
    answering,
    drain,
    subject_of,
)
from seedbed.runtime.bus.port import Handler, Message, Pull, Unwanted

QUEUE_LIMIT = 1_000_000

_RECONNECT_SECONDS = 0.2
_PING_SECONDS = 5
_BUFFERED_BYTES = 32 * 1024 * 1024
_FAILED = "Seedbed-Failed"
_PATTERN = re.compile(r"([A-Za-z0-9_/=-]+|\*)(\.([A-Za-z0-9_/=-]+|\*))*(\.>)?|>")

_log = logging.getLogger(__name__)


class NatsBus:
    """NATS behind the Bus port; make one with `open`."""

    def __init__(self, queue_limit: int, events: EventSettings) -> None:
        self._client = PatientClient()
        self._work = WorkStream(self._client, queue_limit)
        self._events = NatsEvents(self._client, self._work.connected, events)
        self._closing = False
        self._restored: list[Callable[[], None]] = []

    @classmethod
    async def open(
        cls,
        url: str,
        *,
        name: str = "seedbed",
        queue_limit: int = QUEUE_LIMIT,
        wait: float = 30.0,
        events: EventSettings | None = None,
    ) -> Self:
        """Connect.

        Args:
            url: address such as `nats://host:4222`; several are parted by commas.
            name: shown in the server's monitoring.
            queue_limit: items that one queue takes.
            wait: seconds to wait for the server.
            events: how the event log is written and kept.

        Raises:
            UnavailableError: where no server answers in time.
        """
        bus = cls(queue_limit, events or EventSettings())
        try:
            async with asyncio.timeout(wait):
                await bus._client.connect(
                    url.split(","),
                    name=name,
                    connect_timeout=2,
                    reconnect_time_wait=_RECONNECT_SECONDS,  # type: ignore[arg-type]  # any number
                    max_reconnect_attempts=-1,
                    ping_interval=_PING_SECONDS,
                    max_outstanding_pings=2,
                    pending_size=_BUFFERED_BYTES,
                    error_cb=bus._on_error,
                    disconnected_cb=bus._on_disconnected,
                    reconnected_cb=bus._on_reconnected,
                )
        except (NatsError, TimeoutError, OSError) as error:
            raise UnavailableError(f"no NATS server answers within {wait:g} s") from error
        bus._work.connected.set()
        return bus

    @property
    def connected(self) -> bool:
        """Whether the connection stands now; for readiness."""
        return self._work.connected.is_set()

    local = False

    @property
    def events(self) -> NatsEvents:
        """See the port."""
        return self._events

    async def put_work(self, queue: str, item_id: str, payload: bytes) -> None:
        """See the port."""
        await self._work.put_all(queue, [(item_id, payload)])

    async def put_all(self, queue: str, items: Sequence[tuple[str, bytes]]) -> None:
        """See the port."""
        await self._work.put_all(queue, items)

    @asynccontextmanager
    async def pull_work(self, queue: str, *, redeliver_after: float = 30.0) -> AsyncIterator[Pull]:
        """See the port."""
        puller = Puller(self._work, queue, redeliver_after)
        with answering(f"queue {queue}"):
            await puller.open()
        try:
            yield puller
        finally:
            await puller.close()

    async def queues(self) -> Sequence[str]:
        """See the port."""
        with answering("queues"):
            return await queues(self._work.stream)

    async def drop_queue(self, queue: str, unwanted: Unwanted) -> bool:
        """See the port."""
        with answering(f"queue {queue}"):
            return await drop_queue(self._work.stream, queue, unwanted)

    async def request(self, address: str, payload: bytes, *, wait: float = 5.0) -> bytes:
        """See the port."""
        subject = subject_of("serve", address)
        with answering(address):
            message = await self._client.request(subject, payload, timeout=wait)
        failed = bool(message.headers and message.headers.get(_FAILED))
        return Answer(message.data, failed).value()

    @asynccontextmanager
    async def serve(self, address: str, handler: Handler) -> AsyncIterator[None]:
        """See the port."""
        served = Answering(address, handler)

        async def take(message: Msg) -> None:
            async def reply(answer: Answer) -> None:
                headers = {_FAILED: "1"} if answer.failed else None
                with answering(address):
                    await self._client.publish(message.reply, answer.payload, headers=headers)

            await served.take(message.data, reply)

        with answering(address):
            subject = subject_of("serve", address)
            # Not a queue group: a former owner that is paused would get a share of the requests and
            # leave them unanswered. Here all get them and the first answer counts.
            subscription = await self._client.subscribe(subject, cb=take)
            # From here on the server knows of it: a request sent now is answered.
            await self._flush()
        try:
            yield
        finally:
            await drain(subscription)
            await served.drain()

    async def publish(self, topic: str, payload: bytes) -> None:
        """See the port."""
        with answering(topic):
            await self._client.publish(subject_of("topic", topic), payload)

    @asynccontextmanager
    async def hear(self, pattern: str) -> AsyncIterator[AsyncIterator[Message]]:
        """See the port."""
        listener = Listener()

        async def tell(message: Msg) -> None:
            listener.tell(Message(message.subject.removeprefix("topic."), message.data))

        with answering(pattern):
            subject = subject_of("topic", pattern, _PATTERN)
            subscription = await self._client.subscribe(subject, cb=tell)
            await self._flush()
        try:
            yield listener
        finally:
            with suppress(NatsError):
                await subscription.unsubscribe()
            listener.close()

    def on_restore(self, callback: Callable[[], None]) -> None:
        """See the port."""
        self._restored.append(callback)

    async def close(self) -> None:
        """See the port."""
        self._closing = True
        await self._events.close()
        if self._work.connected.is_set():
            with suppress(NatsError, TimeoutError):
                await self._flush()
        # Without a connection there is nothing to end in good order.
        with suppress(NatsError, OSError):
            await self._client.close()

    async def _flush(self) -> None:
        await self._client.flush(timeout=int(ANSWER_SECONDS))

    async def _on_error(self, error: Exception) -> None:
        _log.info("nats: %s", error or type(error).__name__)

    async def _on_disconnected(self) -> None:
        self._work.connected.clear()
        if not self._closing:
            _log.warning("the connection to NATS was lost; connecting again")

    async def _on_reconnected(self) -> None:
        _log.info("the connection to NATS is restored")
        self._work.connected.set()
        self._work.restored()
        self._events.restored()
        for callback in self._restored:
            callback()


def _consumer(queue: str) -> str:
    return queue.replace(".", "_")
