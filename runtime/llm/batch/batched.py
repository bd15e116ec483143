"""A provider that is asked for many at once: texts to embed, and prompts where it takes lists of them.

To those who ask nothing changes: each asks for itself, with its own time limit, retries and money, and
gets its own answer or its own error.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Hashable, Sequence
from functools import partial
from typing import Protocol, TypeVar, runtime_checkable

import orjson

from seedbed.crds.errors import InvalidError
from seedbed.runtime.llm.batch.gatherer import Gatherer
from seedbed.runtime.llm.batch.prompt_form import as_prompt
from seedbed.runtime.llm.batch.settings import Batching
from seedbed.runtime.llm.batch.shares import usages
from seedbed.runtime.llm.models import ModelEntry
from seedbed.runtime.llm.providers import MalformedError, Provider
from seedbed.runtime.llm.requests import ChatRequest, EmbeddingRequest, Json

SIZE = "seedbed_batch_size"
"""Field of an answer that tells with how many others it was asked for; the stage takes it out."""
_NOT_OF_PROMPTS = frozenset(
    {"messages", "metadata", "store", "prompt_cache_key", "safety_identifier"}
)
_MOST_INPUTS = 2048
Item = TypeVar("Item")
Gathered = Callable[[str, int, float], None]
"""Told the model's name, the size of a group and the longest wait of one of it, in seconds."""


@runtime_checkable
class ListsPrompts(Protocol):
    """A provider that takes lists of prompts."""

    async def complete_all(self, prompts: Sequence[str], parameters: Json) -> Json:
        """The texts, in the form of OpenAI's older completions."""
        ...


def batched(entry: ModelEntry, inner: Provider, settings: Batching, gathered: Gathered) -> Provider:
    """The provider as it should be asked: for many at once where it can."""
    many = entry.batch == "prompts" or "embeddings" in entry.facts().able
    if settings.window_milliseconds == 0 or not many:
        return inner
    return BatchedModel(entry, inner, settings, gathered)


class BatchedModel:
    """A `Provider` before another one; see the module."""

    def __init__(
        self, entry: ModelEntry, inner: Provider, settings: Batching, gathered: Gathered
    ) -> None:
        self.name = entry.name
        self._entry = entry
        self._inner = inner
        window = settings.window_milliseconds / 1000
        tell = partial(gathered, entry.name)
        self._texts = Gatherer[EmbeddingRequest, Json](
            self._embed_all, window=window, largest=_MOST_INPUTS, gathered=tell
        )
        self._prompts = Gatherer[tuple[str, Json], Json](
            self._complete_all, window=window, largest=settings.largest, gathered=tell
        )

    def __repr__(self) -> str:
        return f"BatchedModel({self._inner!r})"

    @property
    def waiting(self) -> int:
        """See `Provider`."""
        return self._inner.waiting + len(self._texts) + len(self._prompts)

    async def start(self) -> None:
        """See `Provider`."""
        await self._inner.start()

    async def complete(self, request: ChatRequest) -> Json:
        """See `Provider`."""
        if self._entry.batch != "prompts":
            return await self._inner.complete(request)
        prompt = as_prompt(request, self._entry.prompt_form)
        if prompt is None:
            return await self._inner.complete(request)
        asked = request.parameters()
        parameters = {name: value for name, value in asked.items() if name not in _NOT_OF_PROMPTS}
        parameters.setdefault("max_tokens", self._entry.facts().longest_answer)
        kind = orjson.dumps(parameters, option=orjson.OPT_SORT_KEYS)
        return await self._prompts.ask(kind, (prompt, parameters))

    async def embed(self, request: EmbeddingRequest) -> Json:
        """See `Provider`."""
        kind = (request.dimensions, request.encoding_format, request.tokens is None)
        return await self._texts.ask(kind, request, len(request.input))

    def stream(self, request: ChatRequest) -> AsyncGenerator[Json, None]:
        """See `Provider`; a stream is one answer's."""
        return self._inner.stream(request)

    async def close(self) -> None:
        """See `Provider`."""
        await self._texts.close()
        await self._prompts.close()
        await self._inner.close()

    async def _embed_all(
        self, _: Hashable, requests: Sequence[EmbeddingRequest]
    ) -> Sequence[Json | Exception]:
        texts = tuple(text for request in requests for text in request.input)
        asked = requests[0].model_copy(update={"input": texts})
        try:
            answer = await self._inner.embed(asked)
        except InvalidError as error:
            return await _halves(error, requests, partial(self._embed_all, _))
        data = sorted(answer["data"], key=lambda each: int(each["index"]))
        if len(data) != len(texts):
            raise MalformedError(self.name, f"{len(data)} vectors for {len(texts)} texts")
        weights = [request.prompt_bytes() for request in requests]
        counted = usages(answer.get("usage"), weights, [0] * len(requests))
        found: list[Json] = []
        at = 0
        for request, usage in zip(requests, counted, strict=True):
            mine = data[at : at + len(request.input)]
            at += len(request.input)
            vectors = [{**vector, "index": index} for index, vector in enumerate(mine)]
            told = {} if usage is None else {"usage": usage}
            found.append({**answer, "data": vectors, **told, SIZE: len(requests)})
        return found

    async def _complete_all(
        self, _: Hashable, items: Sequence[tuple[str, Json]]
    ) -> Sequence[Json | Exception]:
        prompts = [prompt for prompt, _ in items]
        assert isinstance(self._inner, ListsPrompts)
        try:
            answer = await self._inner.complete_all(prompts, items[0][1])
        except InvalidError as error:
            return await _halves(error, items, partial(self._complete_all, _))
        texts = {int(choice.get("index", 0)): choice for choice in answer["choices"]}
        asked = [len(prompt.encode()) for prompt in prompts]
        said = [len((texts.get(at) or {}).get("text", "").encode()) for at in range(len(items))]
        counted = usages(answer.get("usage"), asked, said)
        found: list[Json | Exception] = []
        for at, usage in enumerate(counted):
            if at not in texts:
                found.append(MalformedError(self.name, "the batch's answer leaves this one out"))
                continue
            found.append(_as_chat(answer, at, texts[at], usage, len(items)))
        return found


async def _halves(
    error: InvalidError,
    items: Sequence[Item],
    ask: Callable[[Sequence[Item]], Awaitable[Sequence[Json | Exception]]],
) -> Sequence[Json | Exception]:
    """Something in a batch is wrong, and only the provider knows what: each half is asked again."""
    if len(items) == 1:
        return [error]
    half = len(items) // 2
    first, second = await asyncio.gather(ask(items[:half]), ask(items[half:]))
    return [*first, *second]


def _as_chat(answer: Json, at: int, choice: Json, usage: Json | None, size: int) -> Json:
    message = {"role": "assistant", "content": choice.get("text") or ""}
    finish = choice.get("finish_reason") or "stop"
    return {
        "id": f"{answer.get('id', 'batch')}-{at}",
        "object": "chat.completion",
        "created": answer.get("created", 0),
        "model": answer["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        **({} if usage is None else {"usage": usage}),
        SIZE: size,
    }
