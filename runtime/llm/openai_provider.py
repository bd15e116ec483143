"""A model of a provider that speaks OpenAI's protocol, reached directly over HTTP.

The shortest way: one connection pool a model, JSON in and out, nothing between.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager

import orjson

from seedbed.crds.errors import SeedbedError, UnavailableError
from seedbed.runtime.llm.http_client import Answer, BrokenOffError, HttpClient
from seedbed.runtime.llm.models import ModelEntry
from seedbed.runtime.llm.openai_origin import Origin
from seedbed.runtime.llm.providers import MalformedError
from seedbed.runtime.llm.requests import ChatRequest, EmbeddingRequest, Json
from seedbed.runtime.llm.usage import believable

_LONGEST_LINE = 4 * 1024 * 1024
_DATA, _END = b"data:", b"[DONE]"
_OK = 200

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
        self._origin = Origin(entry)
        self._client: HttpClient | None = None

    def __repr__(self) -> str:
        return f"OpenAIModel({self.name!r}, {self._entry.model!r})"

    async def start(self) -> None:
        """See `Provider`."""
        headers = {"Content-Type": "application/json", **self._origin.headers()}
        self._client = HttpClient(self._origin.url, headers)

    async def complete(self, request: ChatRequest) -> Json:
        """See `Provider`."""
        answer = await self._json("/chat/completions", chat_body(self._entry, request))
        if wrong := wrong_chat(answer):
            raise MalformedError(self.name, wrong)
        return answer

    async def complete_all(self, prompts: Sequence[str], parameters: Json) -> Json:
        """See `ListsPrompts`."""
        answer = await self._json("/completions", {**parameters, "prompt": list(prompts)})
        if not isinstance(answer.get("choices"), list):
            raise MalformedError(self.name, "the answer has no choices")
        return answer

    async def embed(self, request: EmbeddingRequest) -> Json:
        """See `Provider`."""
        answer = await self._json("/embeddings", embedding_body(request))
        if wrong := wrong_vectors(answer):
            raise MalformedError(self.name, wrong)
        return answer

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Json, None]:
        """See `Provider`."""
        asked = chat_body(self._entry, request)
        asked |= {"stream": True, "stream_options": {"include_usage": True}}
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
            raise UnavailableError(f"model {self.name!r}: {self._origin.without_key(str(told))}")
        choices = chunk.get("choices") or ()
        if not isinstance(choices, list | tuple) or not all(map(_is_choice, choices)):
            raise MalformedError(self.name, "a choice is none")
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
        if believable(found.get("usage")) is None:
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
                    body = await answer.read()
                    raise self._origin.refusal(answer.status, answer.headers, body)
                yield answer
                return
            finally:
                answer.release()
        except TimeoutError:
            refusal = UnavailableError(f"model {self.name!r} cannot be reached in time")
        except BrokenOffError as error:
            refusal = MalformedError(self.name, f"the answer broke off: {error}")
        except OSError as error:
            reason = self._origin.without_key(str(error) or type(error).__name__)
            refusal = UnavailableError(f"model {self.name!r} cannot be reached: {reason}")
        finally:
            self.waiting -= 1
        raise refusal  # outside of `except`: the original holds the request and so the key

    async def close(self) -> None:
        """See `Provider`."""
        if self._client is not None:
            await self._client.close()
            self._client = None


def wrong_chat(answer: Json) -> str:
    """Why it is no chat completion, empty where it is."""
    choices = answer.get("choices")
    if not isinstance(choices, list) or not choices:
        return "the answer has no choices"
    messages = (each.get("message") if isinstance(each, dict) else None for each in choices)
    return "" if all(isinstance(each, dict) for each in messages) else "a choice has no message"


def wrong_vectors(answer: Json) -> str:
    """Why there are no vectors in it, empty where there are."""
    return "" if isinstance(answer.get("data"), list) else "the answer has no data"


def _is_choice(found: object) -> bool:
    """Whether it is one of a stream's: text, pieces of calls, or nothing."""
    delta = found.get("delta") if isinstance(found, dict) else ""
    if delta is None:
        return True
    if not isinstance(delta, dict) or not isinstance(delta.get("content") or "", str):
        return False
    calls = delta.get("tool_calls") or []
    return isinstance(calls, list) and all(
        isinstance(each, dict) and isinstance(each.get("index", 0), int) for each in calls
    )


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


def chat_body(entry: ModelEntry, request: ChatRequest) -> Json:
    """What a provider is asked, but the model.

    OpenAI itself has another name for the limit by now, and refuses the old.
    """
    asked = request.parameters()
    if entry.api_base is None and "max_tokens" in asked:
        asked["max_completion_tokens"] = asked.pop("max_tokens")
    return asked


def embedding_body(request: EmbeddingRequest) -> Json:
    """What a provider is asked for vectors, but the model."""
    return request.model_dump(mode="json", exclude={"model", "user"}, exclude_none=True)
