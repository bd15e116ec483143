"""What a service tells about itself over HTTP, on a port of its own.

GET /healthz (also /livez)   200 while the process answers
GET /readyz                  200, or 503 with what it waits for
GET /metrics                 Prometheus' text or OpenMetrics form
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import hdrs, web
from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.exposition import choose_encoder

from seedbed.crds.errors import UnavailableError

Waiting = Callable[[], str]
"""What a service waits for before it can work, as `the database`; empty when it is ready."""


def _ready_always() -> str:
    return ""


def health_app(
    waiting: Waiting = _ready_always, registry: CollectorRegistry = REGISTRY
) -> web.Application:
    """The three pages as an application."""

    async def alive(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(_: web.Request) -> web.Response:
        reason = waiting()
        if reason:
            return web.Response(status=503, text=f"waiting for {reason}\n")
        return web.Response(text="ok\n")

    async def metrics(request: web.Request) -> web.Response:
        encode, form = choose_encoder(request.headers.get(hdrs.ACCEPT, ""))
        return web.Response(body=encode(registry), headers={hdrs.CONTENT_TYPE: form})

    app = web.Application()
    app.add_routes(
        [
            web.get("/healthz", alive),
            web.get("/livez", alive),
            web.get("/readyz", ready),
            web.get("/metrics", metrics),
        ]
    )
    return app


@asynccontextmanager
async def serving_health(
    waiting: Waiting = _ready_always,
    *,
    host: str = "0.0.0.0",  # noqa: S104  # the kubelet asks from outside the pod
    port: int = 8080,
    registry: CollectorRegistry = REGISTRY,
) -> AsyncIterator[int]:
    """Serve the pages while the context is open; gives the port, which is chosen where it is 0.

    Raises:
        UnavailableError: where the port is taken.
    """
    async with serving_app(health_app(waiting, registry), host, port) as bound:
        yield bound


@asynccontextmanager
async def serving_app(app: web.Application, host: str, port: int) -> AsyncIterator[int]:
    """Serve an application while the context is open; gives the port.

    Raises:
        UnavailableError: where the port is taken.
    """
    runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=5.0)
    await runner.setup()
    try:
        try:
            await web.TCPSite(runner, host, port).start()
        except OSError as error:
            raise UnavailableError(f"cannot listen on {host}:{port}: {error}") from error
        bound: int = runner.addresses[0][1]
        yield bound
    finally:
        await runner.cleanup()
