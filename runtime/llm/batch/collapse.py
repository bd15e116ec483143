"""The stage that lets equal calls share one answer while it is under way.

Calls are equal where the namespace, the models that may answer, the request and its way of answering
(whole or streamed) are. By default only those share whose answer would be the same anyway: embeddings,
temperature 0, or a seed. Whoever samples wants answers that differ, unless the caller says otherwise
with `X-Seedbed-Collapse: on`; with `off` a call is always made for this caller alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from seedbed.crds.errors import InvalidError
from seedbed.runtime.llm.batch.batched import SIZE
from seedbed.runtime.llm.batch.flight import Flight
from seedbed.runtime.llm.batch.settings import Batching
from seedbed.runtime.llm.cache.key import digest
from seedbed.runtime.llm.call import Call, Reply, Rest
from seedbed.runtime.llm.metrics import ModelMetrics
from seedbed.runtime.llm.requests import ChatRequest, EmbeddingRequest
from seedbed.runtime.llm.resilience.targets import Clock

HEADER = "X-Seedbed-Collapse"

Key = tuple[str, tuple[str, ...], bool, bytes]


async def _counted(rest: Rest, call: Call) -> Reply:
    """Tells the caller with how many others a provider was asked at once."""
    reply = await rest(call)
    if reply.whole is not None and (size := reply.whole.pop(SIZE, 1)) > 1:
        call.notes |= {"Batch": "gathered", "Batch_Size": str(size)}
    return reply


def repeatable(request: ChatRequest | EmbeddingRequest) -> bool:
    """Whether asking again would give the same answer."""
    if isinstance(request, EmbeddingRequest):
        return True
    return request.temperature == 0 or request.seed is not None


class CollapseStage:
    """See the module; works while `running` is open."""

    def __init__(self, settings: Batching, clock: Clock, metrics: ModelMetrics) -> None:
        self._settings = settings
        self._clock = clock
        self._metrics = metrics
        self._flights: dict[Key, Flight] = {}
        self._tasks: asyncio.TaskGroup | None = None

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Calls may be shared while the context is open; what is under way at its end is given up."""
        async with asyncio.TaskGroup() as self._tasks:
            yield
            for flight in self._flights.values():
                flight.task.cancel()

    async def __call__(self, call: Call, rest: Rest) -> Reply:
        """The stage."""
        rest = partial(_counted, rest)
        if not self._may_share(call):
            return await rest(call)
        names = call.candidates
        streamed = isinstance(call.request, ChatRequest) and call.request.stream
        key = (call.identity.namespace, names, streamed, digest(call.request))
        while True:
            flight = self._flights.get(key)
            if flight is not None and flight.open:
                flight.join(call)
                self._metrics.collapsed.labels(names[0]).inc()
            else:
                flight = self._begin(key, call, rest)
            call.closing.push_async_callback(flight.leave, call)
            try:
                return await flight.reply(call)
            except Exception:
                if not flight.spares(call, self._clock.now()):
                    raise

    def _begin(self, key: Key, call: Call, rest: Rest) -> Flight:
        assert self._tasks is not None
        flight = self._flights[key] = Flight(call)
        flight.task = self._tasks.create_task(flight.run(rest))

        def over(_: asyncio.Task[None]) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]

        flight.task.add_done_callback(over)
        return flight

    def _may_share(self, call: Call) -> bool:
        wanted = call.headers.get(HEADER, "")
        if wanted not in ("", "on", "off"):
            raise InvalidError(HEADER, "must be on or off")
        if wanted == "off" or call.refusal is not None or not call.candidates:
            return False
        how = self._settings.collapse
        return wanted == "on" or how == "all" or (how == "repeatable" and repeatable(call.request))
