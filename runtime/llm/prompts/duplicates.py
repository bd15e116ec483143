"""Texts that stand twice in one request: the first stays, the others become references to it. Pure.

Only whole paragraphs and whole messages count, only those that are equal but for spaces at the ends
of lines, and only in what the user and tools say: instructions of the system and the model's own words
stay as they are. Paragraphs that follow each other both times become one reference. The last message
keeps at least one paragraph of its own, because it says what is wanted.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from seedbed.runtime.llm.requests import ChatMessage

_PARAGRAPHS = re.compile(r"(\n[ \t]*\n\s*)")
_BEGINNING = 48
_CHANGED = ("user", "tool")


@dataclass(frozen=True, slots=True)
class Thinned:
    """Messages without duplicates, and the bytes that this saves."""

    messages: tuple[ChatMessage, ...]
    saved: int = 0


def without_duplicates(messages: Sequence[ChatMessage], least: int) -> Thinned:
    """Replace what stands in the request before.

    Args:
        messages: of the request.
        least: bytes of a text from which on it is replaced.
    """
    seen: dict[str, int] = {}
    found: list[ChatMessage] = []
    saved = 0
    for at, message in enumerate(messages):
        content = message.content or ""
        blocks = _PARAGRAPHS.split(content)
        keys = [_key(block) for block in blocks[::2]]
        is_last = at == len(messages) - 1
        words = message.role in _CHANGED and message.parts is None
        if words and not (is_last and _all_seen(keys, seen)):
            thinned = _replaced(blocks, keys, seen, least)
            if (less := len(content.encode()) - len(thinned.encode())) > 0:
                saved += less
                message = message.model_copy(update={"content": thinned})  # noqa: PLW2901 - the new form of the same
        for key in keys:
            if key:
                seen.setdefault(key, len(seen))
        found.append(message)
    return Thinned(tuple(found), saved)


def _key(block: str) -> str:
    return "\n".join(line.rstrip() for line in block.strip().splitlines())


def _all_seen(keys: Sequence[str], seen: dict[str, int]) -> bool:
    return all(key in seen for key in keys if key)


def _replaced(blocks: list[str], keys: list[str], before: dict[str, int], least: int) -> str:
    """The text of a message with references; `blocks` alternate with the gaps between them."""
    seen = dict(before)
    parts: list[str] = []
    at = 0
    while at < len(keys):
        end = _run(keys, at, seen)
        size = sum(len(key.encode()) for key in keys[at:end])
        if end > at and size >= least:
            parts.append(_reference(keys[at], end - at))
        else:
            end = max(end, at + 1)
            parts.append("".join(blocks[2 * at : 2 * end - 1]))
        for key in keys[at:end]:
            seen.setdefault(key, len(seen))
        if 2 * end - 1 < len(blocks):
            parts.append(blocks[2 * end - 1])
        at = end
    return "".join(parts)


def _run(keys: list[str], at: int, seen: dict[str, int]) -> int:
    """Where the paragraphs end that stood together before as well."""
    end = at
    while end < len(keys) and keys[end] in seen:
        if end > at and seen[keys[end]] != seen[keys[end - 1]] + 1:
            break
        end += 1
    return end


def _reference(key: str, count: int) -> str:
    beginning = " ".join(key.split())
    if len(beginning) > _BEGINNING:
        beginning = beginning[:_BEGINNING].rsplit(" ", 1)[0] + " ..."
    what = "the text" if count == 1 else f"the {count} paragraphs"
    return f'[Repeated: {what} above that begin{"s" if count == 1 else ""} "{beginning}"]'
