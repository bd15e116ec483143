"""Seedbed's API on a port of its own, for tests that ask it over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from aiohttp import web

from seedbed.runtime.api.access import Access
from seedbed.runtime.api.answers import ACCESS, Failure, errors_as_answers, with_caller
from seedbed.runtime.api.app import Pages, serve
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.openapi import add_described
from seedbed.runtime.store.port import Store
from seedbed.runtime.telemetry.health import serving_app
from seedbed.runtime.workflow.history import StoredHistory
from tests.callers import AllowAll


@asynccontextmanager
async def serving_api(
    store: Store, access: Access | None = None, **given: Any
) -> AsyncIterator[str]:
    """The API over a store, as `serve` in runtime.api.app makes it; gives its URL.

    Where nothing else is given, everybody may do everything and there are no live settings.
    """
    ports: asyncio.Queue[int] = asyncio.Queue()
    known = {"history": StoredHistory(store), "coordinator": MemoryCoordinator(), **given}
    serving = asyncio.create_task(
        serve(
            store=store,
            access=access or AllowAll(),
            host="127.0.0.1",
            port=0,
            started=ports.put_nowait,
            **known,
        )
    )
    try:
        yield f"http://127.0.0.1:{await ports.get()}"
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


@asynccontextmanager
async def serving_pages(
    pages: Pages, access: Access | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """Some of its pages alone; gives a session that asks below `/api/v3/`."""
    app = web.Application(middlewares=[errors_as_answers, with_caller])
    app[ACCESS] = access or AllowAll()
    add_described(app, "Some pages", pages.routes(), error=Failure)
    async with (
        serving_app(app, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}/api/v3/") as session,
    ):
        yield session
