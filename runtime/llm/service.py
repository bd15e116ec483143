"""The HTTP side of the model service: OpenAI's protocol, on aiohttp.

    POST /v1/chat/completions    also `stream: true`, as server-sent events
    POST /v1/completions         the older form: prompts, and a text for each
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
from typing import Any

import orjson
from aiohttp import web

from seedbed.crds.errors import InvalidError, SeedbedError, UnavailableError
from seedbed.runtime.llm.answers import (
    ChatAnswer,
    ModelsTold,
    ModelTold,
    PatternsTold,
    TextAnswer,
    VectorAnswer,
)
from seedbed.runtime.llm.cache.streaming import replayed
from seedbed.runtime.llm.call import Call, Identity, Reply
from seedbed.runtime.llm.company import Company
from seedbed.runtime.llm.endpoints import CHAT, COMPLETIONS, EMBEDDINGS, Endpoint, Request
from seedbed.runtime.llm.failures import Failure, in_openai_form
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.identity import Identify, anybody
from seedbed.runtime.llm.models import Models
from seedbed.runtime.llm.requests import (
    ChatRequest,
    CompletionRequest,
    EmbeddingRequest,
    Json,
    Outcome,
    parse,
)
from seedbed.runtime.llm.routing.marks import sent
from seedbed.runtime.llm.sending import Stream, account_of, headers_of
from seedbed.runtime.llm.several import merged, moved, with_usage
from seedbed.runtime.openapi import JSON, PATH, Nothing, add_described, says
from seedbed.runtime.store.outcomes import OutcomeRow

_LARGEST_BODY = 8 * 1024 * 1024
_LONGEST_CALL = 900.0
_TIMEOUT, _TASK, _QUALITY = "X-Seedbed-Timeout", "X-Seedbed-Task", "X-Seedbed-Quality"
_STREAM = "X-Seedbed-Stream"
_LONGEST_TASK = 128
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

    @says(ChatRequest, gives=_ANSWERS, answers=ChatAnswer)
    async def chat(self, http: web.Request) -> web.StreamResponse:
        """OpenAI's chat completions."""
        return await self._answered(http, CHAT)

    @says(CompletionRequest, gives=_ANSWERS, answers=TextAnswer)
    async def completions(self, http: web.Request) -> web.StreamResponse:
        """The older form: prompts, and a text for each."""
        return await self._answered(http, COMPLETIONS)

    @says(EmbeddingRequest, answers=VectorAnswer)
    async def embeddings(self, http: web.Request) -> web.StreamResponse:
        """Vectors of texts."""
        return await self._answered(http, EMBEDDINGS)

    async def _answered(self, http: web.Request, asked: Endpoint) -> web.StreamResponse:
        began = self._gateway.now()
        outcome, name, limit = "cancelled", "?", _LONGEST_CALL
        calls: list[Call] = []
        stream: Stream | None = None
        response: web.StreamResponse
        try:
            identity = await self._identify(http)
            requests, held = _held(asked.read_all(await http.read()), http)
            named = self._gateway.named(requests[0].model, identity.namespace)
            # Callers may make up Agents' names: they are counted by name once they have answered.
            name = named if named in self._gateway.targets else "agent"
            limit = _limit(http)
            async with asyncio.timeout(limit):
                calls += [_call(http, each, identity, began + limit) for each in requests]
                stream = Stream(http, calls, asked.form)
                answer = await self._answer(calls, stream, held=held)
                if answer is None:
                    response = await stream.end()
                else:
                    told = {**asked.form(answer), "seedbed": account_of(*calls)}
                    response = _json(told, headers=headers_of(*calls))
        except SeedbedError as error:
            outcome = error.code
            return await _broken_off(stream, error)
        except TimeoutError:
            outcome = "timeout"
            late = UnavailableError(f"no answer within {limit:g} s")
            return await _broken_off(stream, late)
        else:
            outcome = "ok"
            return response
        finally:
            seconds = self._gateway.now() - began
            for call in calls:
                self._metrics.count(call.served_by or name, outcome, seconds, call)
            if not calls:
                self._metrics.count(name, outcome, seconds, None)

    async def _answer(self, calls: Sequence[Call], stream: Stream, *, held: bool) -> Json | None:
        """The answer, or None where it was sent as a stream."""
        if len(calls) > 1:
            return await self._merged(calls, stream, held=held)
        (call,) = calls
        async with call.closing:
            reply = await self._gateway.answer(call)
            if reply.whole is not None and not held:
                return reply.whole
            await stream.account(await stream.send(_chunks(reply)))
            return None

    async def _merged(self, calls: Sequence[Call], stream: Stream, *, held: bool) -> Json | None:
        """Answers side by side as one."""
        company = Company(calls)
        request = calls[0].request
        choices = request.n if isinstance(request, ChatRequest) else 1
        streamed = held or (isinstance(request, ChatRequest) and request.stream)

        async def one(at: int, call: Call) -> Json | None:
            call.company = company
            async with call.closing:
                reply = await self._gateway.answer(call)
                company.leaves(call)
                if not streamed:
                    return reply.whole
                return await stream.send(
                    _chunks(reply), lambda chunk: {**moved(chunk, at, choices), **stream.head}
                )

        try:
            async with asyncio.TaskGroup() as tasks:
                asked = [tasks.create_task(one(at, call)) for at, call in enumerate(calls)]
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None
        found = [task.result() for task in asked]
        if streamed:
            await stream.account(with_usage(found[0] or {}, found))
            return None
        return merged([answer or {} for answer in found], choices)

    @says(answers=ModelsTold)
    async def models(self, http: web.Request) -> web.Response:
        """The models that are there for the caller."""
        identity = await self._identify(http)
        names = self._gateway.names(identity.namespace)
        told: ModelsTold = {"object": "list", "data": [_told(name) for name in names]}
        return _json(told)

    @says(answers=ModelTold)
    async def model(self, http: web.Request) -> web.Response:
        """One of them."""
        identity = await self._identify(http)
        name = http.match_info["name"]
        self._gateway.named(name, identity.namespace)
        return _json(_told(name))

    @says(Outcome, status=201, answers=Nothing)
    async def outcome(self, http: web.Request) -> web.Response:
        """Learns whether an answer that routing chose a model for was good."""
        identity = await self._identify(http)
        told = parse(Outcome, await http.read())
        model = self._gateway.named(told.model, identity.namespace)
        row = OutcomeRow(identity.namespace, told.task, model, told.hardness, 1.0, told.good)
        shown = b"" if told.marks is None else sent(told.marks)
        await self._gateway.learning.add(row, shown)
        return _json({}, 201)

    @says(answers=PatternsTold)
    async def patterns(self, http: web.Request) -> web.Response:
        """What the namespace's prompts have in common."""
        identity = await self._identify(http)
        found: PatternsTold = {"patterns": self._gateway.prompts.patterns(identity.namespace)}
        return _json(found)

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


async def _broken_off(stream: Stream | None, error: SeedbedError) -> web.StreamResponse:
    """Raises the error; where a stream has begun there is no other answer, so an event tells it."""
    if stream is None or not stream.begun:
        raise error
    return await stream.break_off(error)


def _chunks(reply: Reply) -> AsyncIterator[Json]:
    if reply.chunks is not None:
        return reply.chunks
    assert reply.whole is not None
    return replayed(reply.whole)


def _call(http: web.Request, request: Request, identity: Identity, deadline: float) -> Call:
    return Call(
        request,
        identity,
        deadline,
        AsyncExitStack(),
        task=http.headers.get(_TASK, "")[:_LONGEST_TASK],
        floor=_share(http),
        headers=http.headers,
    )


def _told(name: str) -> ModelTold:
    return {"id": name, "object": "model", "created": 0, "owned_by": "seedbed"}


def _limit(http: web.Request) -> float:
    """Seconds that the caller gives, at most what a call may take."""
    try:
        given = float(http.headers.get(_TIMEOUT, _LONGEST_CALL))
    except ValueError:
        given = math.nan
    if math.isnan(given):
        raise InvalidError(_TIMEOUT, "must be a number of seconds")
    return min(_LONGEST_CALL, max(0.0, given))


def _held(requests: tuple[Request, ...], http: web.Request) -> tuple[tuple[Request, ...], bool]:
    """The requests, and whether their stream is to begin only once the whole answer is there.

    Then the model is asked for a whole answer, so that another one can give it until the very end.
    """
    given, first = http.headers.get(_STREAM, ""), requests[0]
    if given not in ("", "whole"):
        raise InvalidError(_STREAM, "must be whole")
    if not given or not isinstance(first, ChatRequest) or not first.stream:
        return requests, False
    if first.n > 1:
        raise InvalidError("n", "a stream that is sent whole has one answer")
    return tuple(each.model_copy(update={"stream": False}) for each in requests), True


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


def _json(
    body: Mapping[str, Any], status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    return web.Response(
        body=orjson.dumps(body), status=status, content_type="application/json", headers=headers
    )
