"""A model service that a test writes the answers of, and Agents to ask it with."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

Json = dict[str, Any]
Answer = Callable[[Json, web.Request], Any]


def program(signature: str, **fields: Any) -> Json:
    """An AgentSpec as JSON, in the form a step's task carries it."""
    return {"agentName": "reader", "pool": {"name": "general"}, "signature": signature, **fields}


def said(text: str, finish: str = "stop") -> Json:
    """A chat completion that says this."""
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "fake",
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 11, "completion_tokens": 5, "total_tokens": 16},
    }


@asynccontextmanager
async def answering(answer: Answer, outcome: Answer | None = None) -> AsyncIterator[str]:
    """A server on loopback; `answer(body, request)` gives JSON, a response, or something to await.

    `outcome` likewise takes what an Agent tells of an answer.
    """

    def page(gives: Answer) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def reply(request: web.Request) -> web.StreamResponse:
            found = gives(await request.json(), request)
            if hasattr(found, "__await__"):
                found = await found
            return found if isinstance(found, web.StreamResponse) else web.json_response(found)

        return reply

    app = web.Application()
    app.router.add_post("/v1/chat/completions", page(answer))
    app.router.add_post("/v1/messages", page(answer))
    if outcome is not None:
        app.router.add_post("/api/v3/outcomes", page(outcome))
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
