"""A model of a provider that speaks OpenAI's protocol, reached directly over HTTP.

The shortest way: one connection pool a model, JSON in and out, nothing between. As with the other
providers, what the far side says about a wrong key is passed on only after the key is taken out.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import orjson

from seedbed.crds.errors import InvalidError, SeedbedError, UnavailableError
from seedbed.runtime.llm.http_client import Answer, BrokenOffError, HttpClient
from seedbed.runtime.llm.models import ModelEntry
from seedbed.runtime.llm.providers import (
    ChatRequest,
    EmbeddingRequest,
    Json,
    MalformedError,
    RateLimitedError,
    RefusedError,
)

_OPENAI = "https://api.openai.com/v1"
_LONGEST_REASON = 300
_LONGEST_LINE = 4 * 1024 * 1024
_DATA, _END = b"data:", b"[DONE]"
_OK, _KEY_REFUSED, _REQUEST_REFUSED, _NOT_FOUND, _TOO_MANY = (
    200,
    (401, 403),
    (400, 413, 422),
    404,
    429,
)

Heard = Callable[[Mapping[str, str]], None]


class OpenAIModel:
    """A `Provider` that asks over HTTP."""

    def __init__(self, entry: ModelEntry, heard: Heard = lambda _: None) -> None:
        """Reads the key. `heard` is told the headers of each answer, which carry rate limits.

        Raises:
            InvalidError: where the environment variable for the key is not set.
        """
        self.name = entry.name
        self.waiting = 0
        self.heard = heard
        self._entry = entry
        self._url = (entry.api_base or _OPENAI).rstrip("/")
        self._key = os.environ.get(entry.api_key_env, "") if entry.api_key_env else ""
        self._client: HttpClient | None = None
        field = f"models[{entry.name}].apiKeyEnv"
        if entry.api_key_env and not self._key:
            raise InvalidError(field, f"{entry.api_key_env} is not set or empty")
        if not self._key.isprintable():
            raise InvalidError(field, f"{entry.api_key_env} holds a line break or the like")

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name!r}, {self._entry.model!r})"

    async def start(self) -> None:
        """See `Provider`."""
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        self._client = HttpClient(self._url, headers)

    async def complete(self, request: ChatRequest) -> Json:
        """See `Provider`."""
        answer = await self._json("/chat/completions", self._asked(request))
        choices = answer.get("choices")
        if not isinstance(choices, list) or not choices:
            raise MalformedError(self.name, "the answer has no choices")
        if not all(
            isinstance(each, dict) and isinstance(each.get("message"), dict) for each in choices
        ):
            raise MalformedError(self.name, "a choice has no message")
        return answer

    def _asked(self, request: ChatRequest) -> Json:
        """What it is asked. OpenAI itself has another name for the limit by now, and refuses the old."""
        asked = request.parameters()
        if self._entry.api_base is None and "max_tokens" in asked:
            asked["max_completion_tokens"] = asked.pop("max_tokens")
        return asked

    async def complete_all(self, prompts: Sequence[str], parameters: Json) -> Json:
        """See `ListsPrompts`."""
        answer = await self._json("/completions", {**parameters, "prompt": list(prompts)})
        if not isinstance(answer.get("choices"), list):
            raise MalformedError(self.name, "the answer has no choices")
        return answer

    async def embed(self, request: EmbeddingRequest) -> Json:
        """See `Provider`."""
        fields = request.model_dump(mode="json", exclude={"model", "user"}, exclude_none=True)
        answer = await self._json("/embeddings", fields)
        if not isinstance(answer.get("data"), list):
            raise MalformedError(self.name, "the answer has no data")
        return answer

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Json, None]:
        """See `Provider`."""
        asked = {**self._asked(request), "stream": True, "stream_options": {"include_usage": True}}
        async with self._asking("/chat/completions", asked, whole=False) as answer:
            async for event in _events(answer):
                if event == _END:
                    return
                yield self._chunk(event)
            raise MalformedError(self.name, "the stream broke off")

    def _chunk(self, event: bytes) -> Json:
        chunk = self._read(event)
        if error := chunk.get("error"):
            told = error.get("message") if isinstance(error, dict) else error
            raise UnavailableError(f"model {self.name!r}: {self._without_key(str(told))}")
        choices = chunk.get("choices") or ()
        if not all(isinstance(each, dict) for each in choices):
            raise MalformedError(self.name, "a choice is no object")
        return {**chunk, "model": self.name}

    async def _json(self, path: str, asked: Json) -> Json:
        async with self._asking(path, asked) as answer:
            return {**self._read(await answer.read()), "model": self.name}

    def _read(self, data: bytes) -> Json:
        try:
            found = orjson.loads(data)
        except orjson.JSONDecodeError:
            raise MalformedError(self.name, "the answer is no JSON") from None
        if not isinstance(found, dict):
            raise MalformedError(self.name, "the answer is no JSON object")
        if not isinstance(found.get("usage"), dict):
            found.pop("usage", None)
        return found

    @asynccontextmanager
    async def _asking(self, path: str, asked: Json, *, whole: bool = True) -> AsyncIterator[Answer]:
        """An answer that is one: all of it, or its beginning."""
        if self._client is None:
            raise UnavailableError(f"model {self.name!r} is not ready")
        data = orjson.dumps({"model": self._entry.model, **asked})
        self.waiting += 1
        refusal: SeedbedError
        try:
            answer = await self._client.post(path, data, whole=whole)
            try:
                self.heard(answer.headers)
                if answer.status != _OK:
                    raise self._refusal(answer.status, answer.headers, await answer.read())
                yield answer
                return
            finally:
                answer.release()
        except TimeoutError:
            refusal = UnavailableError(f"model {self.name!r} cannot be reached in time")
        except BrokenOffError as error:
            refusal = MalformedError(self.name, f"the answer broke off: {error}")
        except OSError as error:
            reason = self._without_key(str(error) or type(error).__name__)
            refusal = UnavailableError(f"model {self.name!r} cannot be reached: {reason}")
        finally:
            self.waiting -= 1
        raise refusal  # outside of `except`: the original holds the request and so the key

    def _refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> SeedbedError:
        if status in _KEY_REFUSED:
            source = self._entry.api_key_env or "no variable"
            return RefusedError(self.name, f"the provider refuses the key from {source}")
        reason = self._without_key(_message(body) or f"HTTP {status}")
        if status in _REQUEST_REFUSED:
            return InvalidError("request", reason)
        if status == _TOO_MANY:
            return RateLimitedError(self.name, reason, _seconds(headers.get("retry-after")))
        if status == _NOT_FOUND:
            return RefusedError(self.name, reason)
        wait = _seconds(headers.get("retry-after"))
        return UnavailableError(f"model {self.name!r}: {reason}", wait)

    def _without_key(self, text: str) -> str:
        if self._key:
            text = text.replace(self._key, "[key]")
        return " ".join(text.split())[:_LONGEST_REASON]

    async def close(self) -> None:
        """See `Provider`."""
        if self._client is not None:
            await self._client.close()
            self._client = None


async def _events(answer: Answer) -> AsyncGenerator[bytes, None]:
    """The data of server-sent events, as they come."""
    held = b""
    async for part in answer.parts():
        *lines, held = (held + part).split(b"\n")
        for line in lines:
            if line.startswith(_DATA):
                yield line[len(_DATA) :].strip()
        if len(held) > _LONGEST_LINE:
            raise BrokenOffError("an event is too long")


def _message(body: bytes) -> str:
    try:
        told: Any = orjson.loads(body)["error"]
        return str(told["message"] if isinstance(told, dict) else told)
    except (orjson.JSONDecodeError, LookupError, TypeError):
        return ""


def _seconds(text: str | None) -> float | None:
    try:
        return max(0.0, float(text)) if text else None
    except ValueError:
        return None
