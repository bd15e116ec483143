"""A model of any provider that LiteLLM knows.

LiteLLM is imported when the first such model starts, because it takes seconds and 200 MiB. Keys come
from environment variables and go nowhere but into the request: what a provider says about a wrong
key often quotes it, so no message of theirs is passed on before the key is taken out of it, and the
original exception, whose frames hold the key, is never chained.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncGenerator
from types import ModuleType
from typing import Any

from seedbed.crds.errors import InvalidError, SeedbedError, UnavailableError
from seedbed.runtime.llm.models import ModelEntry
from seedbed.runtime.llm.providers import RateLimitedError, RefusedError
from seedbed.runtime.llm.requests import ChatRequest, EmbeddingRequest, Json

_LONGEST_REASON = 300
_MARKS = [{"location": "message", "role": "system"}]
"""Where a provider is told to keep the prompt up to, for requests that begin alike."""
_KEY_REFUSED = (401, 403)
_REQUEST_REFUSED = (400, 413, 422)
_NOT_FOUND = 404
_TOO_MANY = 429


class LiteLLMModel:
    """A `Provider` that asks a provider over the network."""

    def __init__(self, entry: ModelEntry) -> None:
        """Reads the key.

        Raises:
            InvalidError: where the environment variable for the key is not set.
        """
        self.name = entry.name
        self.waiting = 0
        self._entry = entry
        self._library: ModuleType | None = None
        self._key = os.environ.get(entry.api_key_env) if entry.api_key_env else None
        if entry.api_key_env and not self._key:
            raise InvalidError(
                f"models[{entry.name}].apiKeyEnv", f"{entry.api_key_env} is not set or empty"
            )

    def __repr__(self) -> str:
        return f"LiteLLMModel({self.name!r}, {self._entry.model!r})"

    async def start(self) -> None:
        """See `Provider`."""
        self._library = await asyncio.to_thread(_import_litellm)

    async def complete(self, request: ChatRequest) -> Json:
        """See `Provider`."""
        answer = await self._ask(request, stream=False)
        return {**answer.model_dump(mode="json", exclude_none=True), "model": self.name}

    async def stream(self, request: ChatRequest) -> AsyncGenerator[Json, None]:
        """See `Provider`."""
        chunks = await self._ask(request, stream=True, stream_options={"include_usage": True})
        refusal: SeedbedError | None = None
        try:
            async for chunk in chunks:
                yield {**chunk.model_dump(mode="json", exclude_none=True), "model": self.name}
        except Exception as error:  # noqa: BLE001 - LiteLLM's errors share no root; all are translated
            refusal = self._translated(error)
        if refusal is not None:
            raise refusal

    async def embed(self, request: EmbeddingRequest) -> Json:
        """See `Provider`."""
        fields = request.model_dump(exclude={"model", "user"}, exclude_none=True)
        answer = await self._call("aembedding", **{**fields, "input": list(request.input)})
        return {**answer.model_dump(mode="json", exclude_none=True), "model": self.name}

    async def _ask(self, request: ChatRequest, **options: Any) -> Any:
        if self._entry.prompt_cache == "marks":
            options["cache_control_injection_points"] = _MARKS
        return await self._call("acompletion", **request.parameters(), **options)

    async def _call(self, function: str, **options: Any) -> Any:
        if self._library is None:
            raise UnavailableError(f"model {self.name!r} is not ready")
        self.waiting += 1
        try:
            return await getattr(self._library, function)(
                model=self._entry.model,
                api_base=self._entry.api_base,
                api_key=self._key,
                timeout=self._entry.timeout_seconds,
                num_retries=0,
                max_retries=0,
                drop_params=True,
                **options,
            )
        except Exception as error:  # noqa: BLE001 - LiteLLM's errors share no root; all are translated
            refusal = self._translated(error)
        finally:
            self.waiting -= 1
        raise refusal  # outside of `except`, so that the original is not chained

    def _translated(self, error: Exception) -> SeedbedError:
        status = getattr(error, "status_code", None)
        if status in _KEY_REFUSED:
            source = self._entry.api_key_env or "the provider's own variable"
            return RefusedError(self.name, f"the provider refuses the key from {source}")
        reason = self._without_key(error)
        if status in _REQUEST_REFUSED:
            return InvalidError("request", reason)
        if status == _NOT_FOUND:
            return RefusedError(self.name, reason)
        if status == _TOO_MANY:
            return RateLimitedError(self.name, reason, _wait_of(error))
        return UnavailableError(f"model {self.name!r}: {reason}", _wait_of(error))

    def _without_key(self, error: Exception) -> str:
        text = f"{type(error).__name__}: {error}"
        if self._key:
            text = text.replace(self._key, "[key]")
        return " ".join(text.split())[:_LONGEST_REASON]

    async def close(self) -> None:
        """See `Provider`."""
        if self._library is not None:
            await self._library.close_litellm_async_clients()


def _wait_of(error: Exception) -> float | None:
    """Seconds that the provider asks to wait, where it says so."""
    headers = getattr(error, "litellm_response_headers", None) or {}
    try:
        return float(headers["retry-after"])
    except (KeyError, ValueError):
        return None


def _import_litellm() -> ModuleType:
    # Prices come with the package; without this it would ask the network for newer ones.
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import litellm  # noqa: PLC0415 - heavy, and needed only where such a model is served

    litellm.telemetry = False
    litellm.suppress_debug_info = True
    litellm.turn_off_message_logging = True
    library: ModuleType = litellm
    return library
