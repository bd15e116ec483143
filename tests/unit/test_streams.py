"""Server-sent events: what a client that does not read costs, and how many clients there may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import pytest

from seedbed.runtime.api import streams
from seedbed.runtime.api.answers import ACCESS, errors_as_answers, with_caller
from seedbed.runtime.api.streams import StreamPages
from seedbed.runtime.store.port import RunRow
from seedbed.runtime.telemetry.health import serving_app
from seedbed.runtime.workflow.run_events import RunEvent
from tests.callers import AllowAll
from tests.conftest import run_async

PATH = "/api/v3/workflows/team/plan/events"


class Endless:
    """A run with 10 KiB of news at any time."""

    def __init__(self) -> None:
        self.told = 0
        self.ended = asyncio.Event()

    async def runs(self, namespace: str, workflow: str | None = None) -> list[RunRow]:
        return [RunRow("run-1", 0, namespace, str(workflow), b"{}", b"{}", False)]

    async def follow(self, run: str, after: str, **_: Any) -> AsyncGenerator[RunEvent | None, None]:
        try:
            while True:
                self.told += 1
                yield RunEvent(f"{self.told}.0", "step.succeeded", {"output": "x" * 10_240})
        finally:
            self.ended.set()


@asynccontextmanager
async def serving(run: Endless, **options: Any) -> AsyncGenerator[int, None]:
    app = aiohttp.web.Application(middlewares=[errors_as_answers, with_caller])
    app[ACCESS] = AllowAll()
    some: Any = cast("Any", run)
    app.add_routes(StreamPages(some, some, some, **options).routes())
    async with serving_app(app, "127.0.0.1", 0) as port:
        yield port


@pytest.mark.req("DSX-22")
def test_a_client_that_does_not_read_stops_the_stream_and_is_cut_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "WRITE_SECONDS", 0.3)

    async def body() -> None:
        run = Endless()
        cut = streams._CUT._value.get()
        async with serving(run) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
            writer.write(
                f"GET {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer t\r\n\r\n".encode()
            )
            await reader.readline()
            await run.ended.wait()
            # The sockets' buffers took some megabytes; nothing was prepared beyond them.
            assert run.told * 10_240 < 64 * 1024 * 1024
            assert streams._CUT._value.get() == cut + 1
            writer.close()

    run_async(body(), limit=30)


def test_a_client_that_goes_ends_its_stream_and_frees_its_place() -> None:
    async def body() -> None:
        run = Endless()
        async with serving(run, streams=1) as port, aiohttp.ClientSession() as http:
            url = f"http://127.0.0.1:{port}{PATH}"
            async with http.get(url) as first:
                await first.content.readline()
                async with http.get(url) as second:
                    assert second.status == 429
            await run.ended.wait()
            while True:
                async with http.get(url) as third:
                    if third.status == 200:
                        break
                await asyncio.sleep(0.01)

    run_async(body(), limit=30)
