"""The HTTP side of the model service: OpenAI's chat completions, on aiohttp.

    POST /v1/chat/completions    also `stream: true`, as server-sent events
    GET  /v1/models
    GET  /healthz /readyz /metrics

Errors have OpenAI's form, `{"error": {"message", "type", "param", "code"}}`. A caller that goes away
ends the work done for it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager

import orjson
from aiohttp import web

from seedbed.crds.errors import (
    InvalidError,
    NotFoundError,
    QueueFullError,
    RetryableError,
    SeedbedError,
    UnavailableError,
)
from seedbed.runtime.llm.litellm_provider import LiteLLMModel
from seedbed.runtime.llm.local import LocalModel
from seedbed.runtime.llm.metrics import ModelMetrics
from seedbed.runtime.llm.models import DEFAULT, ModelEntry, Models
from seedbed.runtime.llm.providers import ChatRequest, Json, Provider, RefusedError, parse_request

_LARGEST_BODY = 8 * 1024 * 1024
_LONGEST_CALL = 900.0
_STATUS: tuple[tuple[type[SeedbedError], int, str], ...] = (
    (InvalidError, 400, "invalid_request_error"),
    (NotFoundError, 404, "invalid_request_error"),
    (QueueFullError, 429, "rate_limit_error"),
    (UnavailableError, 503, "server_error"),
    (RefusedError, 502, "server_error"),
    (SeedbedError, 500, "server_error"),
)
_log = logging.getLogger(__name__)


def provider_of(entry: ModelEntry) -> Provider:
    """What answers for an entry of the models file; not started yet."""
    return LocalModel(entry) if entry.provider == "local" else LiteLLMModel(entry)


def providers_of(models: Models) -> dict[str, Provider]:
    """Providers by the name callers ask for; `default` is there too."""
    found = {entry.name: provider_of(entry) for entry in models.models}
    return {**found, DEFAULT: found[models.default]}


def create_app(providers: Mapping[str, Provider]) -> web.Application:
    """The service over these providers, which it starts and closes. One may stand under two names."""
    app = web.Application(client_max_size=_LARGEST_BODY, middlewares=[_in_openai_form])
    service = _Service(providers)
    app.cleanup_ctx.append(service.running)
    app.add_routes(
        [
            web.post("/v1/chat/completions", service.chat),
            web.get("/v1/models", service.models),
            web.get("/healthz", service.alive),
            web.get("/readyz", service.ready),
            web.get("/metrics", service.metrics),
        ]
    )
    return app


@asynccontextmanager
async def serving(models: Models, host: str, port: int) -> AsyncIterator[int]:
    """Serve while the context is open; gives the port, which is chosen where `port` is 0."""
    app = create_app(providers_of(models))
    # Without handler_cancellation a request goes on after its caller has left.
    runner = web.AppRunner(app, handler_cancellation=True, access_log=None, shutdown_timeout=5.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
        bound: int = runner.addresses[0][1]
        _log.info(
            "serving models", extra={"port": bound, "models": [m.name for m in models.models]}
        )
        yield bound
    finally:
        await runner.cleanup()


async def serve(models: Models, host: str, port: int) -> None:
    """Serve until cancelled."""
    async with serving(models, host, port):
        await asyncio.Event().wait()


class _Service:
    def __init__(self, providers: Mapping[str, Provider]) -> None:
        self._providers = providers
        self._ready = False
        self._metrics = ModelMetrics()
        self._metrics.watch(providers)

    async def running(self, _: web.Application) -> AsyncIterator[None]:
        async with AsyncExitStack() as started:
            for provider in dict.fromkeys(self._providers.values()):
                started.push_async_callback(provider.close)
                await provider.start()
            self._ready = True
            yield
            self._ready = False

    async def chat(self, http: web.Request) -> web.StreamResponse:
        began = time.monotonic()
        outcome, usage, name = "cancelled", None, "?"
        try:
            request = parse_request(await http.read())
            provider = self._provider(request.model)
            name = provider.name
            async with asyncio.timeout(_LONGEST_CALL):
                if request.stream:
                    answer, usage = await _streamed(http, provider, request)
                else:
                    body = await provider.complete(request)
                    answer, usage = _json(body), body.get("usage")
        except SeedbedError as error:
            outcome = error.code
            raise
        except TimeoutError as error:
            outcome = "timeout"
            raise UnavailableError(f"no answer within {_LONGEST_CALL:.0f} s") from error
        else:
            outcome = "ok"
            return answer
        finally:
            self._metrics.count(name, outcome, time.monotonic() - began, usage)

    def _provider(self, name: str) -> Provider:
        if name not in self._providers:
            raise _UnknownModelError(name, sorted(self._providers))
        return self._providers[name]

    async def models(self, _: web.Request) -> web.Response:
        entries = [
            {"id": name, "object": "model", "created": 0, "owned_by": "seedbed"}
            for name in sorted(self._providers)
        ]
        return _json({"object": "list", "data": entries})

    async def alive(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def ready(self, _: web.Request) -> web.Response:
        return web.Response(
            text="ok\n" if self._ready else "stopping\n", status=200 if self._ready else 503
        )

    async def metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"}
        )


class _UnknownModelError(NotFoundError):
    code = "model_not_found"

    def __init__(self, name: str, known: list[str]) -> None:
        super().__init__("model", name)
        self.message = f"{self.message}; there are {', '.join(known)}"


async def _streamed(
    http: web.Request, provider: Provider, request: ChatRequest
) -> tuple[web.StreamResponse, Json | None]:
    """Server-sent events.

    The response begins with the first chunk, so that a refusal before it is an ordinary error; a
    failure later is an event of its own.
    """
    usage: Json | None = None
    wanted = request.stream_options is not None and request.stream_options.include_usage
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
    )
    async with aclosing(provider.stream(request)) as chunks:
        try:
            async for chunk in chunks:
                if not response.prepared:
                    await response.prepare(http)
                usage = chunk.get("usage") or usage
                if chunk.get("choices") or wanted:
                    await response.write(_event(chunk))
        except SeedbedError as error:
            if not response.prepared:
                raise
            await response.write(_event(_error_body(error)[1]))
    if not response.prepared:
        await response.prepare(http)
    await response.write(b"data: [DONE]\n\n")
    await response.write_eof()
    return response, usage


def _event(body: Json) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _json(body: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(body), status=status, content_type="application/json", headers=headers
    )


def _error_body(error: SeedbedError) -> tuple[int, Json]:
    status, kind = next((s, k) for form, s, k in _STATUS if isinstance(error, form))
    param = error.field if isinstance(error, InvalidError) else None
    body = {"message": error.message, "type": kind, "param": param, "code": error.code}
    return status, {"error": body}


@web.middleware
async def _in_openai_form(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except SeedbedError as error:
        status, body = _error_body(error)
        wait = error.retry_after if isinstance(error, RetryableError) else None
        return _json(body, status, {"Retry-After": f"{wait:.0f}"} if wait else None)
    except web.HTTPException as error:
        if error.status < 400:  # noqa: PLR2004 - HTTP's first error
            raise
        body = {
            "message": error.reason,
            "type": "invalid_request_error",
            "param": None,
            "code": None,
        }
        return _json({"error": body}, error.status)
