"""Streams and whole answers are one thing to the cache: one is made from the other. Pure.

A stream that has come to its end is kept as the whole answer it says; a kept answer is sent as a
stream in pieces.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from typing import Any

from seedbed.runtime.llm.requests import Json

_HEAD = ("id", "created", "model", "system_fingerprint")
PIECE = 48
"""Characters in a chunk of a replayed answer."""


class Assembled:
    """A whole answer out of the chunks of a stream."""

    def __init__(self) -> None:
        self._head: Json = {}
        self._texts: dict[str, list[str]] = {}
        self._calls: dict[int, Json] = {}
        self._finish: str | None = None
        self._usage: Json | None = None

    def add(self, chunk: Json) -> None:
        """The next chunk."""
        self._head = self._head or {k: chunk[k] for k in _HEAD if k in chunk}
        self._usage = chunk.get("usage") or self._usage
        for choice in chunk.get("choices") or ():
            self._finish = choice.get("finish_reason") or self._finish
            for name, value in (choice.get("delta") or {}).items():
                if name == "tool_calls":
                    for call in value or ():
                        _join(self._calls.setdefault(call.get("index", 0), {}), call)
                elif isinstance(value, str) and name != "role":
                    self._texts.setdefault(name, []).append(value)

    def whole(self) -> Json | None:
        """The answer; None where the stream did not say that it is over."""
        if self._finish is None:
            return None
        said = {name: "".join(texts) for name, texts in self._texts.items()}
        message: Json = {"role": "assistant", "content": None, **said}
        if self._calls:
            message["tool_calls"] = [self._calls[at] for at in sorted(self._calls)]
            message["content"] = message["content"] or None
        choice = {"index": 0, "message": message, "finish_reason": self._finish}
        usage = {"usage": self._usage} if self._usage else {}
        return {**self._head, "object": "chat.completion", "choices": [choice], **usage}


def _join(call: Json, delta: Json) -> None:
    """Add what a chunk says to a tool call: its name comes once, its arguments in pieces."""
    for name, value in delta.items():
        if name == "index":
            continue
        if isinstance(value, dict):
            _join(call.setdefault(name, {}), value)
        elif name == "arguments" and isinstance(value, str):
            call[name] = call.get(name, "") + value
        elif value is not None:
            call[name] = value


def pieces(whole: Json) -> Iterator[Json]:
    """The chunks that say what a whole answer says; the last one carries the usage."""
    head = {name: whole[name] for name in _HEAD if name in whole}
    head["object"] = "chat.completion.chunk"
    choice = whole["choices"][0]
    message = choice["message"]
    text = message.get("content") or ""
    more = {k: v for k, v in message.items() if v and k not in ("role", "content", "tool_calls")}
    yield _chunk(head, {"role": "assistant", "content": text[:PIECE], **more})
    for start in range(PIECE, len(text), PIECE):
        yield _chunk(head, {"content": text[start : start + PIECE]})
    if calls := message.get("tool_calls"):
        yield _chunk(head, {"tool_calls": [{"index": at, **call} for at, call in enumerate(calls)]})
    yield _chunk(head, {}, choice.get("finish_reason"))
    if usage := whole.get("usage"):
        yield {**head, "choices": [], "usage": usage}


async def replayed(whole: Json) -> AsyncGenerator[Json, None]:
    """`pieces`, as whoever sends streams reads them."""
    for chunk in pieces(whole):
        yield chunk


def _chunk(head: Json, delta: dict[str, Any], finish: str | None = None) -> Json:
    return {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}
