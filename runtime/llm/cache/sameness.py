"""Whether two answers say the same, to know whether a semantic hit was right.

Equal but for case, spaces and the marks at the ends is the same. In JSON each value is compared with
its counterpart. Texts of few words have to be equal, because vectors do not tell a yes from a no;
longer ones must agree in their facts and be at least as close as the settings say.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson

from seedbed.runtime.llm.cache.embedder import Embeds
from seedbed.runtime.llm.cache.facts import facts
from seedbed.runtime.llm.cache.guard import difference
from seedbed.runtime.llm.requests import Json

FEW = 6
"""Words up to which texts have to be equal."""
_MARKS = string.punctuation + string.whitespace


class _DifferentError(Exception):
    """The answers say something different."""


async def same_answers(one: Json, other: Json, embeds: Embeds, close: float) -> bool:
    """Whether two chat completions say the same.

    Args:
        one: in OpenAI's form.
        other: likewise.
        embeds: makes the vectors, where they are needed.
        close: cosine from which on longer texts say the same.

    Raises:
        UnavailableError: where the embedding model is away.
    """
    texts = [_text(each) for each in (one, other)]
    try:
        pairs = list(_compared(_read(texts[0]), _read(texts[1])))
    except _DifferentError:
        return False
    if not pairs:
        return True
    found = await embeds.embed([text for pair in pairs for text in pair])
    vectors = [each.vector for each in found]
    return all(
        float(np.dot(vectors[at], vectors[at + 1])) >= close for at in range(0, len(vectors), 2)
    )


def _text(answer: Json) -> str:
    return str(answer["choices"][0]["message"].get("content") or "")


def _read(text: str) -> Any:
    """JSON as what it holds, anything else as its text."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text


def _compared(one: Any, other: Any) -> Iterator[tuple[str, str]]:
    """Pairs of texts that are not equal and may say the same; raises where something differs."""
    if isinstance(one, str) and isinstance(other, str):
        if _plain(one) == _plain(other):
            return
        few = min(len(one.split()), len(other.split())) <= FEW
        if few or difference(facts(one), facts(other)) is not None:
            raise _DifferentError
        yield one, other
    elif isinstance(one, dict) and isinstance(other, dict) and one.keys() == other.keys():
        for name in one:
            yield from _compared(one[name], other[name])
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for mine, theirs in zip(one, other, strict=True):
            yield from _compared(mine, theirs)
    elif one != other or isinstance(one, bool) != isinstance(other, bool):
        raise _DifferentError


def _plain(text: str) -> str:
    return " ".join(text.casefold().split()).strip(_MARKS)
