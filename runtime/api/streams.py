"""Runs as they go, over HTTP, as server-sent events.

GET /api/v3/workflows/{namespace}/{name}/events                what happened in the newest run and happens
GET /api/v3/workflows/{namespace}/{name}/steps/{step}/items    what a step yields, item by item

Each event has an id, a kind (`event:`) and a JSON object (`data:`). A client that was cut off sends the
last id it has as `Last-Event-ID` and misses nothing and gets nothing twice; where the journal is not
kept that far, the event `gap` says so. An id tells its run (`PLACE@RUN`): where another one is the newest
meanwhile, that is told from its beginning. `end` is the last one; who asks again gets 204, which tells a
browser to stop. A comment goes out when there is nothing to tell. A client that does not read costs a
fixed amount of memory and is cut off after a while.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator

import orjson
from aiohttp import hdrs, web
from prometheus_client import Counter, Gauge

from seedbed.crds.errors import QueueFullError
from seedbed.runtime.api.runs import newest_run
from seedbed.runtime.openapi import says
from seedbed.runtime.store.port import Store
from seedbed.runtime.workflow.live import LiveRuns
from seedbed.runtime.workflow.run_events import RunEvent, position
from seedbed.runtime.workflow.step_items import END, StepItems, step_key

HEARTBEAT = 15.0
WRITE_SECONDS = 30.0
"""How long a client may leave what it was sent unread."""
STREAMS = 1000
"""Clients at one time."""

Following = AsyncGenerator[RunEvent | None, None]

_OPEN = Gauge("seedbed_api_streams", "Clients that follow a run now.")
_CUT = Counter("seedbed_api_streams_cut_total", "Clients that were cut off for not reading.")
_log = logging.getLogger(__name__)


class StreamPages:
    """The pages. Whoever may get the Workflow may follow its runs."""

    def __init__(
        self, store: Store, live: LiveRuns, items: StepItems, *, streams: int = STREAMS
    ) -> None:
        self._store = store
        self._live = live
        self._items = items
        self._free = streams
        self._limit = streams

    def routes(self) -> list[web.RouteDef]:
        """Where they stand."""
        base = "/api/v3/workflows/{namespace}/{name}"
        return [
            web.get(f"{base}/events", self.events),
            web.get(f"{base}/steps/{{step}}/items", self.items),
        ]

    @says(query=("after",), gives=("text/event-stream",))
    async def events(self, request: web.Request) -> web.StreamResponse:
        """The run's events, as they happen."""
        row = await newest_run(request, self._store)
        after = _after(request, row.run)
        following = self._live.follow(row.run, after, heartbeat=HEARTBEAT)
        return await self._stream(request, row.run, following, over=row.finished and bool(after))

    @says(query=("after",), gives=("text/event-stream",))
    async def items(self, request: web.Request) -> web.StreamResponse:
        """A step's items, as they are yielded; a client that reads slowly slows the step down."""
        row = await newest_run(request, self._store)
        key = step_key(request.match_info["step"])
        following = self._items.follow(row.run, key, _after(request, row.run))
        return await self._stream(request, row.run, following)

    async def _stream(
        self, request: web.Request, run: str, following: Following, *, over: bool = False
    ) -> web.StreamResponse:
        if not self._free:
            raise QueueFullError("streams", self._limit, HEARTBEAT)
        self._free -= 1
        _OPEN.inc()
        try:
            return await self._send(request, run, following, over=over)
        finally:
            self._free += 1
            _OPEN.dec()

    async def _send(
        self, request: web.Request, run: str, following: Following, *, over: bool
    ) -> web.StreamResponse:
        first = await anext(following, None) if over else None
        if over and first is None:
            return web.Response(status=204)
        response = web.StreamResponse(
            headers={
                hdrs.CONTENT_TYPE: "text/event-stream",
                hdrs.CACHE_CONTROL: "no-store",
                "X-Accel-Buffering": "no",
                "X-Seedbed-Run": run,
            }
        )
        await response.prepare(request)
        try:
            await _write(response, b"retry: 2000\n\n" + (_told(first, run) if first else b""))
            last = first
            async for last in following:
                await _write(response, _told(last, run))
            if last is None or last.kind != END:
                await _write(response, _told(RunEvent("", END, {}), run))
        except TimeoutError:
            _CUT.inc()
            _log.info("a client of %s does not read and is cut off", run)
            if request.transport is not None:
                request.transport.abort()
        except ConnectionError:
            _log.debug("a client of %s has gone", run)
        finally:
            await following.aclose()
        return response


def _after(request: web.Request, run: str) -> str:
    """The place of the last event that the client has; empty where that was of another run."""
    known = request.headers.get("Last-Event-ID") or request.query.get("after", "")
    place, _, of = known.partition("@")
    position(place)
    return place if of in ("", run) else ""


async def _write(response: web.StreamResponse, text: bytes) -> None:
    # It waits while the client's buffer is full, and nothing more is read for it meanwhile.
    async with asyncio.timeout(WRITE_SECONDS):
        await response.write(text)


def _told(event: RunEvent | None, run: str) -> bytes:
    if event is None:
        return b":\n\n"
    # JSON has no line breaks of its own, so one line of data is enough.
    data = orjson.dumps(event.data, option=orjson.OPT_NON_STR_KEYS)
    where = f"id: {event.id}@{run}\n".encode() if event.id else b""
    return b"%bevent: %b\ndata: %b\n\n" % (where, event.kind.encode(), data)
