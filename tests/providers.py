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

from tests.batch_provider import FakeBatches

Json = dict[str, Any]


@dataclass(slots=True)
class FakeProvider:
    """Speaks OpenAI's protocol; keeps count of what it would bill.

    Attributes:
        say: gives the text of an answer from the request's body.
        latency: seconds before an answer; with `jitter`, up to so much more by the seed.
        fail: statuses to answer with instead, in order, before all is well.
        error_share: of further requests that fail with a 500, by the seed.
        calls: gives the tool calls of an answer, in place of its text.
        breaks: how an answer goes wrong: `stream` ends early, `json` is no JSON, `hang` never comes,
            `empty` has no choices, `drop` ends the connection, `event` is a stream that tells of an
            error, `noise` one with an event that is no JSON.
        slow: seconds between two chunks of a stream.
        headers: sent with every answer.
        whole: the answer to all that is asked, where there is anything in it.
        chunk: sent in the middle of each stream, where there is anything in it.
        cached: tokens of each prompt that it says it had kept.
        sound: tokens of each prompt that it says are sound.
        held: whether answers wait until `let_go`.
        held_after: words of a stream after which it waits until `let_go`; 0 for none.
        waiting: answers under way.
        embedded: requests for embeddings.
        billed: prompt and answer tokens of every request that was answered.
        left: requests whose caller went away before their end.
        batches: its batch API.
    """

    say: Callable[[Json], str] = lambda _: "hello there"
    calls: Callable[[Json], list[Json]] = lambda _: []
    latency: float = 0.0
    jitter: float = 0.0
    fail: list[int] = field(default_factory=list)
    error_share: float = 0.0
    breaks: str = ""
    slow: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    whole: Json = field(default_factory=dict)
    chunk: Json = field(default_factory=dict)
    cached: int = 0
    sound: int = 0
    held: bool = False
    held_after: int = 0
    waiting: int = 0
    seed: int = 1
    seen: list[Json] = field(default_factory=list)
    embedded: list[Json] = field(default_factory=list)
    billed: list[tuple[int, int]] = field(default_factory=list)
    left: int = 0
    batches: FakeBatches = field(default_factory=FakeBatches)
    url: str = ""
    _chance: random.Random = field(init=False)
    _free: asyncio.Event = field(default_factory=asyncio.Event)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)

    def let_go(self) -> None:
        """Answers wait no more."""
        self._free.set()

    def cost(self, prompt: int, completion: int) -> int:
        """Nano-dollars of all that was answered, at dollars for a million tokens."""
        return sum(p * prompt * 1000 + c * completion * 1000 for p, c in self.billed)

    async def chat(self, request: web.Request) -> web.StreamResponse:
        try:
            return await self._chat(request)
        except asyncio.CancelledError:
            self.left += 1
            raise

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.seen.append(body)
        self.waiting += 1
        try:
            return await self._answered(request, body)
        finally:
            self.waiting -= 1

    async def _answered(self, request: web.Request, body: Json) -> web.StreamResponse:
        if self.held:
            await self._free.wait()
        await asyncio.sleep(self.latency + self.jitter * self._chance.random())
        status = self.fail.pop(0) if self.fail else 200
        if status == 200 and self._chance.random() < self.error_share:
            status = 500
        if self.breaks == "hang":
            await asyncio.Event().wait()
        if self.breaks == "drop" and request.transport is not None:
            request.transport.abort()
        if status != 200:
            error = {"error": {"message": f"told to fail with {status}", "type": "t"}}
            return web.json_response(error, status=status, headers=self.headers)
        if self.breaks == "json":
            return web.Response(body=b'{"choices": [', content_type="application/json")
        if self.whole:
            return web.json_response(self.whole)
        words = _cut(self.say(body), body).split(" ")[: body.get("max_tokens") or 1000]
        prompt = self.sound + sum(_words(m.get("content")) for m in body["messages"])
        answered = len(words) * body.get("n", 1)
        usage: Json = {
            "prompt_tokens": prompt,
            "completion_tokens": answered,
            "total_tokens": prompt + answered,
        }
        if self.cached or self.sound:
            details = {"cached_tokens": self.cached, "audio_tokens": self.sound}
            usage["prompt_tokens_details"] = {k: v for k, v in details.items() if v}
        self.billed.append((prompt, answered))
        head = {"id": "c-1", "created": 1, "model": body["model"]}
        if body.get("stream"):
            return await self._streamed(request, body, head, words, usage)
        message: Json = {"role": "assistant", "content": " ".join(words), "refusal": None}
        choice: Json = {"message": message, "finish_reason": "stop"}
        if calls := self.calls(body):
            message |= {"content": None, "tool_calls": calls}
            choice["finish_reason"] = "tool_calls"
        if body.get("logprobs"):
            choice["logprobs"] = {"content": [_logprob(word) for word in words]}
        count = 0 if self.breaks == "empty" else body.get("n", 1)
        choices = [{"index": at, **choice} for at in range(count)]
        whole = {**head, "object": "chat.completion", "choices": choices, "usage": usage}
        return web.json_response(whole, headers=self.headers)

    async def _streamed(
        self, request: web.Request, body: Json, head: Json, words: list[str], usage: Json
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", **self.headers})
        await response.prepare(request)
        head = {**head, "object": "chat.completion.chunk"}
        deltas: list[Json] = [
            {"content": word if at == 0 else f" {word}"} for at, word in enumerate(words)
        ]
        reason = "stop"
        if calls := self.calls(body):
            deltas = [{"tool_calls": [{"index": at, **call}]} for at, call in enumerate(calls)]
            reason = "tool_calls"
        for at, delta in enumerate(deltas):
            if at == len(deltas) // 2 and await self._breaks_off(response):
                return response
            if self.chunk and at == len(deltas) // 2:
                await response.write(_event(self.chunk))
            if self.held_after and at == self.held_after:
                await self._free.wait()
            choices = [
                {"index": each, "delta": delta, "finish_reason": None}
                for each in range(body.get("n", 1))
            ]
            await response.write(_event({**head, "choices": choices}))
            await asyncio.sleep(self.slow)
        last = {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}
        for chunk in (last, {**head, "choices": [], "usage": usage}):
            await response.write(_event(chunk))
        await response.write(b"data: [DONE]\n\n")
        return response

    async def _breaks_off(self, response: web.StreamResponse) -> bool:
        if self.breaks == "event":
            await response.write(_event({"error": {"message": "it went wrong", "type": "t"}}))
        if self.breaks == "noise":
            await response.write(b'data: {"choices": [\n\n')
        return self.breaks in ("stream", "event")

    async def completions(self, request: web.Request) -> web.Response:
        """A list of prompts at once; `bad` in one refuses them all, as real ones do."""
        body = await request.json()
        self.seen.append(body)
        await asyncio.sleep(self.latency + self.jitter * self._chance.random())
        if self.fail:
            error = {"error": {"message": "told to fail", "type": "t"}}
            return web.json_response(error, status=self.fail.pop(0), headers=self.headers)
        prompts: list[str] = body["prompt"]
        if any("bad" in prompt for prompt in prompts):
            return web.json_response({"error": {"message": "a bad prompt"}}, status=400)
        texts = [self.say({"messages": [{"content": prompt}]}) for prompt in prompts]
        choices = [
            {"index": at, "text": text, "finish_reason": "stop"} for at, text in enumerate(texts)
        ]
        asked = sum(len(prompt.split()) for prompt in prompts)
        said = sum(len(text.split()) for text in texts)
        self.billed.append((asked, said))
        usage: Json = {
            "prompt_tokens": asked,
            "completion_tokens": said,
            "total_tokens": asked + said,
        }
        head = {"id": "b-1", "object": "text_completion", "created": 1, "model": body["model"]}
        return web.json_response({**head, "choices": choices, "usage": usage})

    async def embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.embedded.append(body)
        if any("bad" in text for text in body["input"]):
            return web.json_response({"error": {"message": "a bad text"}}, status=400)
        data = [
            {"object": "embedding", "index": at, "embedding": [float(len(text)), 1.0]}
            for at, text in enumerate(body["input"])
        ]
        tokens = sum(_size(each) for each in body["input"])
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return web.json_response({"object": "list", "data": data, "model": "e", "usage": usage})


def _event(body: Json) -> bytes:
    return b"data: " + json.dumps(body).encode() + b"\n\n"


def _size(given: str | list[int]) -> int:
    """Tokens of a text, or of token ids."""
    return len(given.split() if isinstance(given, str) else given)


def _words(content: str | list[Json] | None) -> int:
    """Tokens of a message: its words, and a hundred for each picture."""
    if not isinstance(content, list):
        return len((content or "").split())
    texts = sum(len(str(part["text"]).split()) for part in content if part["type"] == "text")
    return texts + 100 * sum(1 for part in content if part["type"] == "image_url")


def _cut(text: str, body: Json) -> str:
    """The text up to the first of the request's stop sequences."""
    stop = body.get("stop") or []
    for end in [stop] if isinstance(stop, str) else stop:
        text = text.partition(end)[0].rstrip()
    return text


def _logprob(word: str) -> Json:
    return {"token": word, "logprob": -0.5, "bytes": list(word.encode()), "top_logprobs": []}


@asynccontextmanager
async def provider(**settings: Any) -> AsyncIterator[FakeProvider]:
    """A provider on loopback while the context is open."""
    found = FakeProvider(**settings)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", found.chat)
    app.router.add_post("/v1/completions", found.completions)
    app.router.add_post("/v1/embeddings", found.embeddings)
    app.add_routes(found.batches.routes())
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1, handler_cancellation=True)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        found.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield found
    finally:
        await runner.cleanup()
