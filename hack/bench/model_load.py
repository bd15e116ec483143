"""A provider of model answers and a load of clients, both as cheap as Python can be.

    python -m hack.bench.model_load provide
    python -m hack.bench.model_load load URL --clients 32 --seconds 5

Each is a process of its own. They speak HTTP/1.1 over kept connections and understand of it what this
benchmark needs and no more, so that what is measured is what stands between them. The provider
answers at once: `stream: true` with 16 server-sent events, else with one JSON object. Each request
carries a number of its own in its prompt, so that no cache can answer it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from typing import cast
from urllib.parse import urlsplit

import orjson
import uvloop

HEAD_END = b"\r\n\r\n"
STREAM_END = b"0\r\n\r\n"
USAGE = {"prompt_tokens": 120, "completion_tokens": 16, "total_tokens": 136}
WORDS = ["word"] * 16
WARM_SECONDS = 1.0
_NUMBER = b"0" * 18


def ask(*, stream: bool) -> bytes:
    """The body of a request; `_NUMBER` in it is replaced each time."""
    prompt = "Say which licence this is. " * 20 + _NUMBER.decode()
    body = {"model": "m", "messages": [{"role": "user", "content": prompt}], "max_tokens": 64}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return orjson.dumps(body)


def _whole() -> bytes:
    message = {"role": "assistant", "content": " ".join(WORDS)}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    head = {"id": "c-1", "object": "chat.completion", "created": 1, "model": "m"}
    body = orjson.dumps({**head, "choices": choices, "usage": USAGE})
    return b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (
        len(body),
        body,
    )


def _events() -> bytes:
    head = {"id": "c-1", "object": "chat.completion.chunk", "created": 1, "model": "m"}
    chunks = [
        {**head, "choices": [{"index": 0, "delta": {"content": f"{word} "}, "finish_reason": None}]}
        for word in WORDS
    ]
    chunks.append({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
    chunks.append({**head, "choices": [], "usage": USAGE})
    events = [*(b"data: %b\n\n" % orjson.dumps(each) for each in chunks), b"data: [DONE]\n\n"]
    parts = b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in events)
    return (
        b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n%b%b" % (parts, STREAM_END)
    )


class _Provider(asyncio.Protocol):
    """One connection of the provider."""

    whole = _whole()
    events = _events()

    def __init__(self) -> None:
        self._held = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # libuv's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._held += data
        while (head := self._held.find(HEAD_END)) >= 0:
            lines = self._held[:head].lower()
            at = lines.find(b"content-length:")
            length = 0 if at < 0 else int(lines[at + 15 :].split(b"\r\n", 1)[0])
            end = head + len(HEAD_END) + length
            if len(self._held) < end:
                return
            body, self._held = self._held[head:end], self._held[end:]
            streams = b'"stream":true' in body or b'"stream": true' in body
            self._transport.write(self.events if streams else self.whole)


async def provide() -> None:
    """The provider's process: prints its port and answers until it is ended."""
    server = await asyncio.get_running_loop().create_server(_Provider, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()


class _Client(asyncio.Protocol):
    """One client: asks, waits for the whole answer, asks again."""

    def __init__(self, load: _Load, number: int) -> None:
        self._load = load
        self._number = load.first + number * 10_000_000
        self._held = b""
        self._began = 0.0
        self._wanted = -1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # libuv's transports are no subclasses of asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def connection_lost(self, error: Exception | None) -> None:  # noqa: ARG002  # asyncio's form
        self._load.gone(self._held)

    def _ask(self) -> None:
        self._held, self._wanted = b"", -1
        self._number += 1
        self._began = time.perf_counter()
        before, after = self._load.request
        self._transport.write(b"%b%018d%b" % (before, self._number, after))

    def data_received(self, data: bytes) -> None:
        self._held += data
        if self._wanted < 0:
            head = self._held.find(HEAD_END)
            if head < 0:
                return
            lines = self._held[:head].lower()
            at = lines.find(b"content-length:")
            self._wanted = 0
            if at >= 0:
                length = int(lines[at + 15 :].split(b"\r\n", 1)[0])
                self._wanted = head + len(HEAD_END) + length
        if self._wanted and len(self._held) < self._wanted:
            return
        if not self._wanted and not self._held.endswith(STREAM_END):
            return
        now = time.perf_counter()
        if not self._load.answered(self._held, self._began, now):
            self._transport.close()
            return
        self._ask()


class _Load:
    """All clients of one run."""

    def __init__(self, request: bytes, seconds: float) -> None:
        before, _, after = request.partition(_NUMBER)
        self.request = (before, after)
        # Nobody else's numbers, of this run or another.
        self.first = random.randrange(10**7) * 10**10
        self.times: list[float] = []
        self.wrong: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._from = time.perf_counter() + WARM_SECONDS
        self._until = self._from + seconds

    def answered(self, answer: bytes, began: float, now: float) -> bool:
        """Note an answer; whether there is to be another."""
        if answer[9:12] != b"200" or b'"error"' in answer:
            self.gone(answer)
            return False
        if self._from <= began and now <= self._until:
            self.times.append(now - began)
        return now < self._until

    def gone(self, answer: bytes) -> None:
        """A client has ended: too early, or because the time is over."""
        if not self.wrong.done():
            early = time.perf_counter() < self._until
            self.wrong.set_result(answer[-300:].decode(errors="replace") if early else "")


async def load(
    url: str, clients: int, seconds: float, headers: Sequence[str], *, stream: bool
) -> list[float]:
    """Seconds of each answer, with so many clients that ask one after the other.

    Raises:
        RuntimeError: with the answer that was none.
    """
    parts = urlsplit(url)
    body = ask(stream=stream)
    lines = [
        "POST /v1/chat/completions HTTP/1.1",
        f"Host: {parts.netloc}",
        "Content-Type: application/json",
        f"Content-Length: {len(body)}",
        *headers,
    ]
    run = _Load("\r\n".join(lines).encode() + HEAD_END + body, seconds)
    loop = asyncio.get_running_loop()
    made = [
        await loop.create_connection(
            lambda number=number: _Client(run, number),  # type: ignore[misc]  # a bound number
            parts.hostname or "127.0.0.1",
            parts.port or 80,
        )
        for number in range(clients)
    ]
    wrong = await run.wrong
    for transport, _ in made:
        transport.abort()
    if wrong:
        raise RuntimeError(f"an answer was none: {wrong}")
    return run.times


def main() -> None:
    """Be one of the two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    kinds.add_parser("provide")
    loading = kinds.add_parser("load")
    loading.add_argument("url")
    loading.add_argument("--clients", type=int, default=32)
    loading.add_argument("--seconds", type=float, default=5.0)
    loading.add_argument("--header", action="append", default=[])
    loading.add_argument("--stream", action="store_true")
    options = parser.parse_args()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        if options.kind == "provide":
            runner.run(provide())
            return
        times = runner.run(
            load(
                options.url,
                options.clients,
                options.seconds,
                options.header,
                stream=options.stream,
            )
        )
    json.dump([round(each, 6) for each in times], sys.stdout)


if __name__ == "__main__":
    main()
