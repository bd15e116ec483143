"""A provider over real HTTP that costs nothing: its latency, errors and answers follow from a seed."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Json = dict[str, Any]


@dataclass(slots=True)
class FakeProvider:
    """Speaks OpenAI's protocol; keeps count of what it would bill.

    Attributes:
        say: gives the text of an answer from the request's body.
        latency: seconds before an answer; with `jitter`, up to so much more by the seed.
        fail: statuses to answer with instead, in order, before all is well.
        error_share: of further requests that fail with a 500, by the seed.
        breaks: how an answer goes wrong: `stream` ends early, `json` is no JSON, `hang` never comes.
        headers: sent with every answer.
        billed: prompt and answer tokens of every request that was answered.
    """

    say: Callable[[Json], str] = lambda _: "hello there"
    latency: float = 0.0
    jitter: float = 0.0
    fail: list[int] = field(default_factory=list)
    error_share: float = 0.0
    breaks: str = ""
    headers: dict[str, str] = field(default_factory=dict)
    seed: int = 1
    seen: list[Json] = field(default_factory=list)
    billed: list[tuple[int, int]] = field(default_factory=list)
    url: str = ""
    _chance: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def cost(self, prompt: int, completion: int) -> int:
        """Nano-dollars of all that was answered, at dollars for a million tokens."""
        return sum(p * prompt * 1000 + c * completion * 1000 for p, c in self.billed)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(body)
        await asyncio.sleep(self.latency + self.jitter * self._chance.random())
        status = self.fail.pop(0) if self.fail else 200
        if status == 200 and self._chance.random() < self.error_share:
            status = 500
        if self.breaks == "hang":
            await asyncio.Event().wait()
        if status != 200:
            error = {"error": {"message": f"told to fail with {status}", "type": "t"}}
            return web.json_response(error, status=status, headers=self.headers)
        if self.breaks == "json":
            return web.Response(body=b'{"choices": [', content_type="application/json")
        words = self.say(body).split(" ")[: body.get("max_tokens") or 1000]
        prompt = sum(len((m.get("content") or "").split()) for m in body["messages"])
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": len(words),
            "total_tokens": prompt + len(words),
        }
        self.billed.append((prompt, len(words)))
        head = {"id": "c-1", "created": 1, "model": body["model"]}
        if body.get("stream"):
            return await self._streamed(request, head, words, usage)
        message = {"role": "assistant", "content": " ".join(words)}
        choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
        whole = {**head, "object": "chat.completion", "choices": choices, "usage": usage}
        return web.json_response(whole, headers=self.headers)

    async def _streamed(
        self, request: web.Request, head: Json, words: list[str], usage: Json
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        head = {**head, "object": "chat.completion.chunk"}
        for at, word in enumerate(words):
            if self.breaks == "stream" and at == len(words) // 2:
                return response
            delta = {"content": word if at == 0 else f" {word}"}
            choice = {"index": 0, "delta": delta, "finish_reason": None}
            await response.write(b"data: " + json.dumps({**head, "choices": [choice]}).encode())
            await response.write(b"\n\n")
        last = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
        for chunk in (last, {**head, "choices": [], "usage": usage}):
            await response.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")
        await response.write(b"data: [DONE]\n\n")
        return response

    async def embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        data = [
            {"object": "embedding", "index": at, "embedding": [float(len(text)), 1.0]}
            for at, text in enumerate(body["input"])
        ]
        tokens = sum(len(text.split()) for text in body["input"])
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return web.json_response({"object": "list", "data": data, "model": "e", "usage": usage})


@asynccontextmanager
async def provider(**settings: Any) -> AsyncIterator[FakeProvider]:
    """A provider on loopback while the context is open."""
    found = FakeProvider(**settings)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", found.chat)
    app.router.add_post("/v1/embeddings", found.embeddings)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield found
    finally:
        await runner.cleanup()
