"""What an answer says of its tokens, as far as it can be believed. Pure.

Money follows from it, so what a provider tells is read here and nowhere else. Usage that makes no sense
counts as none: then the worst case is taken.
"""

from __future__ import annotations

from typing import Any

from seedbed.runtime.llm.requests import Json

MOST = 2**31 - 1
"""Tokens of one call that the ledger can hold."""
_LARGEST_TOLD = 1_000_000_000
_COUNTS = ("prompt_tokens", "completion_tokens", "cache_creation_input_tokens")
_DETAILS = ("cached_tokens", "audio_tokens")


def believable(usage: Any) -> Json | None:
    """The usage where each number that counts is one, else None."""
    if not isinstance(usage, dict) or not _numbers(usage, _COUNTS):
        return None
    details = usage.get("prompt_tokens_details")
    if details is not None and not (isinstance(details, dict) and _numbers(details, _DETAILS)):
        return None
    return usage


def cached_tokens(usage: Json, prompt: int) -> tuple[int, int]:
    """Tokens of a prompt that the provider had kept, and that it keeps now."""
    details = usage.get("prompt_tokens_details") or {}
    cached, kept = details.get("cached_tokens") or 0, usage.get("cache_creation_input_tokens") or 0
    return min(int(cached), prompt), min(int(kept), prompt)


def audio_tokens(usage: Json, most: int) -> int:
    """Tokens of a prompt that are sound: as many as may be, where the provider does not say."""
    told = (usage.get("prompt_tokens_details") or {}).get("audio_tokens")
    return min(told, most) if isinstance(told, int) else most


def _numbers(told: Json, names: tuple[str, ...]) -> bool:
    return all(_number(told.get(name)) for name in names)


def _number(value: Any) -> bool:
    return value is None or (isinstance(value, int) and 0 <= value <= _LARGEST_TOLD)
