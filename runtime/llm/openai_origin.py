"""Where a provider that speaks OpenAI's protocol is, with which key, and what its refusals mean.

What the far side says is passed on only after the key is taken out of it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import orjson

from seedbed.crds.errors import InvalidError, SeedbedError, UnavailableError
from seedbed.runtime.llm.models import ModelEntry
from seedbed.runtime.llm.providers import RateLimitedError, RefusedError

_OPENAI = "https://api.openai.com/v1"
_LONGEST_REASON = 300
_KEY_REFUSED, _REQUEST_REFUSED, _NOT_FOUND, _TOO_MANY = (401, 403), (400, 413, 422), 404, 429


class Origin:
    """One provider; reads the key when it is made.

    Raises:
        InvalidError: where the environment variable for the key is not set.
    """

    def __init__(self, entry: ModelEntry) -> None:
        self.name = entry.name
        self.url = (entry.api_base or _OPENAI).rstrip("/")
        self._source = entry.api_key_env
        self._key = os.environ.get(entry.api_key_env, "") if entry.api_key_env else ""
        field = f"models[{entry.name}].apiKeyEnv"
        if entry.api_key_env and not self._key:
            raise InvalidError(field, f"{entry.api_key_env} is not set or empty")
        if not self._key.isprintable():
            raise InvalidError(field, f"{entry.api_key_env} holds a line break or the like")

    def headers(self) -> dict[str, str]:
        """Of each request."""
        return {"Authorization": f"Bearer {self._key}"} if self._key else {}

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> SeedbedError:
        """What an answer that is none means; `headers` by lower-case name."""
        if status in _KEY_REFUSED:
            source = self._source or "no variable"
            return RefusedError(self.name, f"the provider refuses the key from {source}")
        reason = self.without_key(_message(body) or f"HTTP {status}")
        if status in _REQUEST_REFUSED:
            return InvalidError("request", reason)
        wait = _seconds(headers.get("retry-after"))
        if status == _TOO_MANY:
            return RateLimitedError(self.name, reason, wait)
        if status == _NOT_FOUND:
            return RefusedError(self.name, reason)
        return UnavailableError(f"model {self.name!r}: {reason}", wait)

    def without_key(self, text: str) -> str:
        """A short text without the key."""
        if self._key:
            text = text.replace(self._key, "[key]")
        return " ".join(text.split())[:_LONGEST_REASON]


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
