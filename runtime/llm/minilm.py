"""Embeddings in this process: MiniLM, the model of the image that needs no key.

384 numbers a text, of unit length; a text's first 256 tokens count. Meant for search and for telling
texts alike, in English. It answers no chats.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from typing import Any

from seedbed.crds.errors import InvalidError, QueueFullError
from seedbed.runtime.llm.cache.embedder import EmbeddingService
from seedbed.runtime.llm.models import ModelEntry
from seedbed.runtime.llm.providers import RefusedError
from seedbed.runtime.llm.requests import ChatRequest, EmbeddingRequest, Json

DIMENSIONS = 384
_RETRY_AFTER = 5.0
_ENDS = 2
"""Tokens that the model puts around a text."""


class MiniLmModel:
    """A `Provider` of embeddings."""

    def __init__(self, entry: ModelEntry) -> None:
        """Nothing is loaded before `start`."""
        self.name = entry.name
        self.waiting = 0
        self._entry = entry
        self._service: EmbeddingService | None = None

    async def start(self) -> None:
        """Load the model: a tenth of a second and 60 MB.

        Raises:
            UnavailableError: where a package that carries it is not installed.
        """
        self._service = EmbeddingService(self._entry.threads)
        await self._service.embed(["ready"])

    async def embed(self, request: EmbeddingRequest) -> Json:
        """See `Provider`."""
        if request.dimensions not in (None, DIMENSIONS):
            raise InvalidError("dimensions", f"model {self.name!r} gives {DIMENSIONS}")
        if request.tokens is not None:
            raise InvalidError("input", f"model {self.name!r} takes texts, not token ids")
        if self.waiting >= self._entry.queue_limit:
            raise QueueFullError(f"model/{self.name}", self._entry.queue_limit, _RETRY_AFTER)
        assert self._service is not None
        self.waiting += 1
        try:
            found = await self._service.embed(request.texts)
        finally:
            self.waiting -= 1
        data = [
            {
                "object": "embedding",
                "index": at,
                "embedding": _told(each.vector, request.encoding_format),
            }
            for at, each in enumerate(found)
        ]
        tokens = sum(len(each.tokens) + _ENDS for each in found)
        usage = {"prompt_tokens": tokens, "total_tokens": tokens}
        return {"object": "list", "data": data, "model": self.name, "usage": usage}

    async def complete(self, request: ChatRequest) -> Json:
        """See `Provider`; it has nothing to say."""
        raise RefusedError(self.name, f"answers no chats, such as one of {len(request.messages)}")

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Json, None]:
        """See `Provider`; it has nothing to say."""
        yield await self.complete(request)

    async def close(self) -> None:
        """See `Provider`."""
        if self._service is not None:
            await self._service.__aexit__(None, None, None)
            self._service = None


def _told(vector: Any, form: str | None) -> list[float] | str:
    if form == "base64":
        return base64.b64encode(vector.astype("<f4").tobytes()).decode()
    return [float(number) for number in vector]
