"""Constant parts stand first, so that a provider's prompt cache, which goes by beginnings, works. Pure.

Tools in another order are the same tools. Paragraphs in another order may say something else, so they
are moved only where the user has said so, only in the first message of the system and in the first of
the user, and the order among those that are constant, and among the others, stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

from seedbed.runtime.llm.requests import ChatMessage, Json

_GAP = re.compile(r"\n[ \t]*\n\s*")


def paragraphs(content: str, most: int = 0) -> list[str]:
    """The parts of a text with empty lines between them; where there are more, the last has the rest."""
    return _GAP.split(content, most)


def sorted_tools(tools: tuple[Json, ...]) -> tuple[Json, ...]:
    """Tools by name."""
    return tuple(sorted(tools, key=_name))


def constant_first(
    messages: Sequence[ChatMessage], is_constant: Callable[[str], bool]
) -> tuple[ChatMessage, ...]:
    """The messages, with constant paragraphs before others."""
    found = list(messages)
    firsts: dict[str, int] = {}
    for at, message in enumerate(messages):
        role = "system" if message.role == "developer" else message.role
        if role in ("system", "user"):
            firsts.setdefault(role, at)
    for at in firsts.values():
        content = found[at].content or ""
        moved = _moved(content, is_constant)
        if moved != content and found[at].parts is None:
            found[at] = found[at].model_copy(update={"content": moved})
    return tuple(found)


def _moved(content: str, is_constant: Callable[[str], bool]) -> str:
    blocks = paragraphs(content)
    constant = [is_constant(block) for block in blocks]
    if not any(late and not early for early, late in pairwise(constant)):
        return content
    order = sorted(range(len(blocks)), key=lambda at: not constant[at])
    return "\n\n".join(blocks[at] for at in order)


def _name(tool: Json) -> str:
    function = tool.get("function")
    return str(function.get("name") if isinstance(function, dict) else tool.get("name"))
