"""Answering requests: many at a time, never more than a limit, and to the end when serving stops."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any, TypeVar

from seedbed.crds.errors import SeedbedError
from seedbed.runtime.bus.port import Handler
from seedbed.runtime.bus.wire import decode_error, encode_error

CONCURRENT_REQUESTS = 256
DRAIN_SECONDS = 10.0

_log = logging.getLogger(__name__)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler made of a request: its value, or an encoded error where `failed`."""

    payload: bytes
    failed: bool = False

    def value(self) -> bytes:
        """The value.

        Raises:
            SeedbedError: what the handler raised.
        """
        if self.failed:
            raise decode_error(self.payload)
        return self.payload


class Answering:
    """Runs a handler for each request of one address."""

    def __init__(self, address: str, handler: Handler) -> None:
        self._address = address
        self._handler = handler
        self._free = asyncio.Semaphore(CONCURRENT_REQUESTS)
        self._tasks: set[asyncio.Task[Any]] = set()

    def ask(self, payload: bytes) -> asyncio.Future[bytes]:
        """Answer somebody in this process.

        Where the handler gives a future, as one does that only hands on, no task stands in between.

        Raises:
            SeedbedError: the handler refused at once; what it raises later, the future has.
        """
        begun = self._handler(payload)
        if isinstance(begun, asyncio.Future):
            return begun
        # Who gives up does not stop the handler, here as on a network.
        return asyncio.shield(self._spawn(self._in_turn(begun)))

    async def take(self, payload: bytes, reply: Callable[[Answer], Awaitable[None]]) -> None:
        """Answer a request in a task of its own; waits only while the limit is reached."""
        await self._free.acquire()

        async def whole() -> None:
            await reply(await self._answer(self._called(payload)))

        self._spawn(whole()).add_done_callback(self._sent)

    async def drain(self) -> None:
        """Let the requests that were taken finish; cancel those that do not within the limit."""
        if not self._tasks:
            return
        _, late = await asyncio.wait(set(self._tasks), timeout=DRAIN_SECONDS)
        for task in late:
            task.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _sent(self, task: asyncio.Task[None]) -> None:
        self._free.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.warning("an answer of %s was not sent: %s", self._address, error)

    async def _in_turn(self, begun: Awaitable[bytes]) -> bytes:
        async with self._free:
            return (await self._answer(begun)).value()

    async def _called(self, payload: bytes) -> bytes:
        return await self._handler(payload)

    async def _answer(self, begun: Awaitable[bytes]) -> Answer:
        try:
            return Answer(await begun)
        except SeedbedError as error:
            return Answer(encode_error(error), failed=True)
        except Exception as error:  # noqa: BLE001  # the edge between a service and its handler
            # A defect in one handler must neither end the service nor leave the requester waiting.
            _log.exception("the handler of %s failed", self._address)
            hidden = SeedbedError(f"{self._address} failed with {type(error).__name__}")
            return Answer(encode_error(hidden), failed=True)
