"""What makes two requests equal: one form for all that a model is asked, and its hash. Pure.

In the form is whatever may change the answer: messages, tools, sampling, limit, answer schema. Left
out is who asks, how the answer travels and what is only noted: `user`, `stream`, `metadata` and such.
The order of keys within an object does not count. Ids of tool calls only say which result belongs to
which call, and differ each time; they count by their place.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import orjson

from seedbed.runtime.llm.requests import ChatMessage, ChatRequest, EmbeddingRequest

BUCKETS = 10_000
_LEFT_OUT = frozenset(
    {
        *("model", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options"),
        *("user", "metadata", "store", "prompt_cache_key", "safety_identifier"),
    }
)
_DEFAULTS = {name: field.default for name, field in ChatRequest.model_fields.items()}


def canonical(request: ChatRequest | EmbeddingRequest) -> bytes:
    """The one form of all requests that are equal."""
    asked = _embedding(request) if isinstance(request, EmbeddingRequest) else _chat(request)
    return orjson.dumps(asked, option=orjson.OPT_SORT_KEYS)


def digest(request: ChatRequest | EmbeddingRequest) -> bytes:
    """32 bytes, the same for equal requests only."""
    return hashlib.sha256(canonical(request)).digest()


def prompt_hash(request: ChatRequest | EmbeddingRequest) -> str:
    """64 hexadecimal digits, the same for equal requests only."""
    return digest(request).hex()


def bucket(prompt: str) -> float:
    """Where a prompt's hash stands from 0 to 100: below 10 is one in ten, the same ones each time."""
    return int(prompt[:8], 16) % BUCKETS * 100 / BUCKETS


def settings_of(request: ChatRequest) -> dict[str, Any]:
    """All but the messages; what is as it is when nobody sets it is left out.

    A field that this module does not know counts too: a miss too many is better than a wrong hit.
    """
    found = {
        name: value
        for name, value in request.__dict__.items()
        if name not in _LEFT_OUT and value != _DEFAULTS[name]
    }
    found |= request.model_extra or {}
    if isinstance(request.stop, str):
        found["stop"] = (request.stop,)
    if request.limit:
        found["limit"] = request.limit
    return found


def messages_of(messages: Sequence[ChatMessage]) -> list[list[Any]]:
    """The messages, each as its fields in order; tool calls are named by their place."""
    places: dict[str, int] = {}
    found = []
    for message in messages:
        calls = message.tool_calls and [
            {**call, "id": places.setdefault(str(call.get("id")), len(places))}
            for call in message.tool_calls
        ]
        answers = message.tool_call_id
        place = None if answers is None else places.setdefault(answers, len(places))
        extra = message.model_extra or None
        found.append([message.role, message.said(), message.name, calls, place, extra])
    return found


def _chat(request: ChatRequest) -> dict[str, Any]:
    return {"chat": messages_of(request.messages), **settings_of(request)}


def _embedding(request: EmbeddingRequest) -> dict[str, Any]:
    return {
        "embed": request.input,
        "dimensions": request.dimensions,
        "encoding": request.encoding_format or "float",
    }
