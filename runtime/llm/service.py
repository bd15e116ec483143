"""The HTTP side of the model service: OpenAI's protocol, on aiohttp.

    POST /v1/chat/completions    also `stream: true`, as server-sent events
    POST /v1/completions         the older form: one prompt, one text
    POST /v1/embeddings
    GET  /v1/models    and /v1/models/NAME
    POST /api/v3/outcomes        whether an answer to `auto` was good
    GET  /api/v3/prompts/patterns    what the namespace's prompts have in common
    GET  /openapi.json           what is here, for programs
    GET  /healthz /readyz
    GET  /metrics                for anybody, where the process has no other port for it

Errors have OpenAI's form, `{"error": {"message", "type", "param", "code"}}`. A caller that goes away
ends the work done for it. Every answer tells its cost and who gave it: in `X-Seedbed-*` headers, and
in the body under `seedbed` (in a stream: in its last chunk, where usage was asked for).
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

import orjson
from aiohttp import web

from seedbed.crds.errors import InvalidError, SeedbedError, UnavailableError
from seedbed.crds.money import dollars
from seedbed.runtime.llm.cache.streaming import replayed
from seedbed.runtime.llm.call import Call, Reply
from seedbed.runtime.llm.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, Endpoint, Form, Request
from seedbed.runtime.llm.failures import Failure, in_openai_form, told
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.identity import Identify, anybody
from seedbed.runtime.llm.models import Models
from seedbed.runtime.llm.providers import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Json,
    Outcome,
    parse,
)
from seedbed.runtime.llm.routing.marks import sent
from seedbed.runtime.openapi import JSON, PATH, add_described, says
from seedbed.runtime.store.outcomes import OutcomeRow

_LARGEST_BODY = 8 * 1024 * 1024
_LONGEST_CALL = 900.0
_TIMEOUT, _TASK, _QUALITY = "X-Seedbed-Timeout", "X-Seedbed-Task", "X-Seedbed-Quality"
_STREAM = "X-Seedbed-Stream"
_LONGEST_TASK = 128
_DONE = b"data: [DONE]\n\n"
_ANSWERS, _TEXT = (JSON, "text/event-stream"), ("text/plain",)
_PUBLIC = ("/healthz", "/readyz", "/metrics", PATH)
_log = logging.getLogger(__name__)


def create_app(
    gateway: Gateway,
    identify: Identify = anybody,
    routes: Sequence[web.RouteDef] = (),
    *,
    metrics: bool = True,
) -> web.Application:
    """The service over a gateway, whose models it starts and ends.

    Args:
        gateway: answers.
        identify: says on whose behalf a request comes, or refuses it.
        routes: further pages.
        metrics: whether they are shown here. They ask for no token and tell of all namespaces.
    """
    app = web.Application(client_max_size=_LARGEST_BODY, middlewares=[in_openai_form])
    service = _Service(gateway, identify)
    app.cleanup_ctx.append(service.running)
    shown = [
        web.post("/v1/chat/completions", service.chat),
        web.post("/v1/completions", service.completions),
        web.post("/v1/embeddings", service.embeddings),
        web.get("/v1/models", service.models),
        web.get("/v1/models/{name:.+}", service.model),
        web.post("/api/v3/outcomes", service.outcome),
        web.get("/api/v3/prompts/patterns", service.patterns),
        web.get("/healthz", service.alive),
        web.get("/readyz", service.ready),
        *([web.get("/metrics", service.metrics)] if metrics else ()),
        *routes,
    ]
    add_described(app, "Seedbed's model service", shown, error=Failure, public=_PUBLIC)
    return app


@asynccontextmanager
async def serving(
    models: Models,
    host: str,
    port: int,
    *,
    gateway: Gateway | None = None,
    identify: Identify = anybody,
    routes: Sequence[web.RouteDef] = (),
    metrics: bool = True,
) -> AsyncIterator[int]:
    """Serve while the context is open; gives the port, which is chosen where `port` is 0."""
    app = create_app(gateway or Gateway(models), identify, routes, metrics=metrics)
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


class _Service:
    def __init__(self, gateway: Gateway, identify: Identify) -> None:
        self._gateway = gateway
        self._identify = identify
        self._metrics = gateway.metrics
        self._ready = False

    async def running(self, _: web.Application) -> AsyncIterator[None]:
        async with self._gateway.running():
            self._ready = True
            yield
            self._ready = False

    @says(ChatRequest, gives=_ANSWERS)
    async def chat(self, http: web.Request) -> web.StreamResponse:
        """OpenAI's chat completions."""
        return await self._answered(http, CHAT)

    @says(CompletionRequest, gives=_ANSWERS)
    async def completions(self, http: web.Request) -> web.StreamResponse:
        """The older form: one prompt, one text."""
        return await self._answered(http, COMPLETIONS)

    @says(EmbeddingRequest)
    async def embeddings(self, http: web.Request) -> web.StreamResponse:
        """Vectors of texts."""
        return await self._answered(http, EMBEDDINGS)

    async def _answered(self, http: web.Request, asked: Endpoint) -> web.StreamResponse:
        began = self._gateway.now()
        outcome, name, limit = "cancelled", "?", _LONGEST_CALL
        call: Call | None = None
        begun: list[web.StreamResponse] = []
        try:
            identity = await self._identify(http)
            request, held = _held(asked.read(await http.read()), http)
            named = self._gateway.named(request.model, identity.namespace)
            # Callers may make up Agents' names: they are counted by name once they have answered.
            name = named if named in self._gateway.targets else "agent"
            limit = _limit(http)
            async with asyncio.timeout(limit):
                async with AsyncExitStack() as closing:
                    call = Call(request, identity, began + limit, closing)
                    call.task = http.headers.get(_TASK, "")[:_LONGEST_TASK]
                    call.floor = _share(http)
                    call.headers = http.headers
                    answer = await self._sent(http, call, asked.form, begun, held=held)
                if isinstance(answer, web.StreamResponse):
                    await answer.write(_DONE)
                    await answer.write_eof()
        except SeedbedError as error:
            outcome = error.code
            return await _broken_off(begun, error)
        except TimeoutError:
            outcome = "timeout"
            late = UnavailableError(f"no answer within {limit:g} s")
            return await _broken_off(begun, late)
        else:
            outcome = "ok"
            if isinstance(answer, web.StreamResponse):
                return answer
            return _json(
                {**asked.form(answer), "seedbed": account_of(call)}, headers=_headers(call)
            )
        finally:
            served = call.served_by if call is not None else ""
            self._metrics.count(served or name, outcome, self._gateway.now() - began, call)

    async def _sent(
        self,
        http: web.Request,
        call: Call,
        form: Form,
        begun: list[web.StreamResponse],
        *,
        held: bool,
    ) -> web.StreamResponse | Json:
        reply = await self._gateway.answer(call)
        if reply.whole is not None and held:
            reply = Reply(chunks=replayed(reply.whole))
        if reply.whole is not None:
            return reply.whole
        return await _streamed(http, call, reply, form, begun)

    async def models(self, http: web.Request) -> web.Response:
        """The models that are there for the caller."""
        identity = await self._identify(http)
        names = self._gateway.names(identity.namespace)
        return _json({"object": "list", "data": [_told(name) for name in names]})

    async def model(self, http: web.Request) -> web.Response:
        """One of them."""
        identity = await self._identify(http)
        name = http.match_info["name"]
        self._gateway.named(name, identity.namespace)
        return _json(_told(name))

    @says(Outcome, status=201)
    async def outcome(self, http: web.Request) -> web.Response:
        """Learns whether an answer that routing chose a model for was good."""
        identity = await self._identify(http)
        told = parse(Outcome, await http.read())
        model = self._gateway.named(told.model, identity.namespace)
        row = OutcomeRow(identity.namespace, told.task, model, told.hardness, 1.0, told.good)
        shown = b"" if told.marks is None else sent(told.marks)
        await self._gateway.learning.add(row, shown)
        return _json({}, 201)

    async def patterns(self, http: web.Request) -> web.Response:
        """What the namespace's prompts have in common."""
        identity = await self._identify(http)
        return _json({"patterns": self._gateway.prompts.patterns(identity.namespace)})

    @says(gives=_TEXT)
    async def alive(self, _: web.Request) -> web.Response:
        """Whether it answers."""
        return web.Response(text="ok\n")

    @says(gives=_TEXT)
    async def ready(self, _: web.Request) -> web.Response:
        """Whether it is ready for calls."""
        return web.Response(
            text="ok\n" if self._ready else "stopping\n", status=200 if self._ready else 503
        )

    @says(gives=_TEXT)
    async def metrics(self, _: web.Request) -> web.Response:
        """What Prometheus reads."""
        return web.Response(
            body=self._metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4"}
        )


async def _broken_off(
    begun: Sequence[web.StreamResponse], error: SeedbedError
) -> web.StreamResponse:
    """Raises the error; where a stream has begun there is no other answer, so an event tells it."""
    if not begun:
        raise error
    (response,) = begun
    await response.write(_event(told(error)[1]))
    await response.write(_DONE)
    await response.write_eof()
    return response


async def _streamed(
    http: web.Request, call: Call, reply: Reply, form: Form, begun: list[web.StreamResponse]
) -> web.StreamResponse:
    """Server-sent events, but the last one; `begun` is told the response.

    It begins with the first chunk, so that a refusal before it is an ordinary error.
    """
    assert reply.chunks is not None
    assert isinstance(call.request, ChatRequest)
    options = call.request.stream_options
    wanted = options is not None and options.include_usage
    response = web.StreamResponse(
        headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store", **_headers(call)}
    )
    await response.prepare(http)
    begun.append(response)
    last: Json | None = None
    async for chunk in reply.chunks:
        if chunk.get("choices"):
            shown = chunk if wanted else {k: v for k, v in chunk.items() if k != "usage"}
            await response.write(_event(form(shown)))
        if chunk.get("usage"):
            last = chunk
    if wanted and last is not None:
        await response.write(_event(form({**last, "choices": [], "seedbed": account_of(call)})))
    return response


def _told(name: str) -> Json:
    return {"id": name, "object": "model", "created": 0, "owned_by": "seedbed"}


def account_of(call: Call) -> Json:
    """What the caller is told of how the answer came about."""
    return {
        "model": call.served_by,
        "cost_dollars": dollars(call.cost),
        "cost_estimated": any(each.estimated for each in call.spent),
        "attempts": [{"model": each.model, "outcome": each.outcome} for each in call.attempts],
        **{name.lower(): value for name, value in call.notes.items()},
    }


def _headers(call: Call) -> dict[str, str]:
    found = {
        "X-Seedbed-Attempts": ",".join(map(str, call.attempts)),
        "X-Seedbed-Model": call.served_by or (call.candidates[0] if call.candidates else ""),
        **{f"X-Seedbed-{name.replace('_', '-')}": value for name, value in call.notes.items()},
    }
    if call.served_by:
        found["X-Seedbed-Cost"] = dollars(call.cost)
    return {name: value for name, value in found.items() if value}


def _limit(http: web.Request) -> float:
    """Seconds that the caller gives, at most what a call may take."""
    try:
        given = float(http.headers.get(_TIMEOUT, _LONGEST_CALL))
    except ValueError:
        given = math.nan
    if math.isnan(given):
        raise InvalidError(_TIMEOUT, "must be a number of seconds")
    return min(_LONGEST_CALL, max(0.0, given))


def _held(request: Request, http: web.Request) -> tuple[Request, bool]:
    """The request, and whether its stream is to begin only once the whole answer is there.

    Then the model is asked for a whole answer, so that another one can give it until the very end.
    """
    given = http.headers.get(_STREAM, "")
    if given not in ("", "whole"):
        raise InvalidError(_STREAM, "must be whole")
    if not given or not isinstance(request, ChatRequest) or not request.stream:
        return request, False
    if request.n > 1:
        raise InvalidError("n", "a stream that is sent whole has one answer")
    return request.model_copy(update={"stream": False}), True


def _share(http: web.Request) -> float | None:
    """The quality that the caller wants, from 0 to 1."""
    given = http.headers.get(_QUALITY)
    if given is None:
        return None
    try:
        found = float(given)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise InvalidError(_QUALITY, "must be a number from 0 to 1")
    return found


def _event(body: Json) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"


def _json(body: Json, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(
        body=orjson.dumps(body), status=status, content_type="application/json", headers=headers
    )
