"""The Bus port: work queues that are pulled, requests that are answered, topics that are heard.

The bus is transport only. What it loses, its users send again: the engine knows from its journal
which steps have no result, and asks `on_restore` to be told when messages may have been lost.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

from seedbed.runtime.bus.events import EventLog

Handler = Callable[[bytes], Awaitable[bytes]]
"""Answers one request. A SeedbedError it raises reaches the requester as the same error.

One that only hands the request on, and gives a future, costs a requester in the same process no task;
the future is cancelled where the requester gives up.
"""


Unwanted = Callable[[bytes], Awaitable[bool]]
"""Says whether nobody wants a work item any more."""


class Delivery(Protocol):
    """One work item in a worker's hands."""

    @property
    def payload(self) -> bytes:
        """The item."""

    @property
    def redelivered(self) -> bool:
        """Whether some worker has had it before."""

    async def ack(self) -> None:
        """The work is done and its result is safe: never deliver it again."""

    async def working(self) -> None:
        """Still at it: start the redelivery clock again."""

    async def give_back(self, delay: float = 0.0) -> None:
        """Deliver it again, to anybody, after `delay` seconds."""


class Pull(Protocol):
    """Takes items of an open queue."""

    async def __call__(self, wait: float) -> Delivery | None:
        """The next item, or None after `wait` seconds."""

    async def many(self, wait: float, most: int) -> Sequence[Delivery]:
        """What is there, up to `most` items; waits up to `wait` seconds for the first one."""


@dataclass(frozen=True, slots=True)
class Message:
    """One event heard on a topic."""

    topic: str
    payload: bytes


class Bus(Protocol):
    """Every method may raise UnavailableError when the server does not answer in time."""

    @property
    def local(self) -> bool:
        """Whether all of it is in this process, so that to put and to publish waits for nothing."""

    @property
    def events(self) -> EventLog:
        """The event log."""

    async def put_work(self, queue: str, item_id: str, payload: bytes) -> None:
        """Queue an item durably. The same id within two minutes is queued once.

        An item belongs to what stands before the first `/` of its id. Items of one owner come in their
        order; owners take turns where the bus is in one process, and elsewhere come as they came.

        Raises:
            QueueFullError: where the queue holds its limit.
        """

    async def put_all(self, queue: str, items: Sequence[tuple[str, bytes]]) -> None:
        """Queue items, given by id and payload, durably and in one go; see `put_work`.

        When it raises, any of them may be queued; putting all again is safe for two minutes.

        Raises:
            QueueFullError: where the queue does not take all of them.
        """

    def pull_work(
        self, queue: str, *, redeliver_after: float = 30.0
    ) -> AbstractAsyncContextManager[Pull]:
        """Open a queue for pulling.

        Any number of pullers, in any process, share a queue; each item goes to one of them, and to
        another one when it is neither acknowledged nor `working` for `redeliver_after` seconds.
        """

    async def queues(self) -> Sequence[str]:
        """Names of the queues that somebody has opened and nobody has dropped."""

    async def drop_queue(self, queue: str, unwanted: Unwanted) -> bool:
        """Take items out of a queue, and the queue away where nothing is left; gives whether it went.

        A queue that somebody pulls from, or that holds an item somebody wants, stays. What is put into one
        that went is kept, for whoever opens it next.

        Args:
            queue: its name.
            unwanted: asked of items, by their payload; the rest is asked next time where they are many.
        """

    async def request(self, address: str, payload: bytes, *, wait: float = 5.0) -> bytes:
        """Ask whoever serves the address.

        Raises:
            UnavailableError: where nobody serves it, or no answer came within `wait` seconds.
            SeedbedError: what the handler raised.
        """

    def serve(self, address: str, handler: Handler) -> AbstractAsyncContextManager[None]:
        """Answer requests to the address while the context is open."""

    async def publish(self, topic: str, payload: bytes) -> None:
        """Tell all who hear the topic now; nobody else will ever know."""

    def hear(self, pattern: str) -> AbstractAsyncContextManager[AsyncIterator[Message]]:
        """Hear a topic, or several: `*` stands for one part, a final `>` for all further parts.

        A listener that falls 10,000 messages behind loses the oldest.
        """

    def on_restore(self, callback: Callable[[], None]) -> None:
        """Call back after the connection was lost and restored: messages may be gone."""

    async def close(self) -> None:
        """Flush and disconnect."""
