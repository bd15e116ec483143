"""Leaves out the sentences of a long text that say least, where the rest still says nearly the same.

A sentence counts by how near it is to what is asked and to what the whole text is about. What is left
has to be as similar to the whole as the user demands, by the mean of the sentences' vectors; otherwise
nothing is left out. Sentences with a number or a negation always stay: a vector hardly sees them.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from seedbed.runtime.llm.prompts.settings import Compression
from seedbed.runtime.llm.requests import ChatMessage

_SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[\"'(]?[A-Z])|\n+")
_KEPT = re.compile(
    r"\d|\b(?:no|not|never|none|without|cannot|must|only|except|unless)\b|n't", re.IGNORECASE
)
_MOST_SENTENCES = 200
_ASKED = 0.6
"""Weight of what is asked against what the text is about."""

Vectors = NDArray[np.float32]


class Vector(Protocol):
    """A text's vector."""

    @property
    def vector(self) -> Vectors:
        """Of unit length."""
        ...


class Embeds(Protocol):
    """Turns texts into vectors."""

    async def embed(self, texts: Sequence[str]) -> Sequence[Vector]:
        """All texts, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Compressed:
    """Messages with less text, and the bytes that this saves."""

    messages: tuple[ChatMessage, ...]
    saved: int = 0
    similarity: float = 1.0


async def compressed(
    messages: Sequence[ChatMessage], settings: Compression, embedder: Embeds
) -> Compressed:
    """Shorten long texts of the user and of tools; the last paragraph of all is what is asked."""
    found: list[ChatMessage] = []
    saved, similarity = 0, 1.0
    asked = (messages[-1].content or "").rstrip().rpartition("\n\n")[2]
    for at, message in enumerate(messages):
        content = message.content or ""
        body, gap, tail = content.rstrip().rpartition("\n\n")
        if at < len(messages) - 1:
            body, gap, tail = content, "", ""
        words = message.role in ("user", "tool") and message.parts is None
        short = len(body.encode()) < settings.from_bytes or not words
        sentences = [] if short else [s for s in _SENTENCE.split(body) if s.strip()]
        if not 3 <= len(sentences) <= _MOST_SENTENCES:  # noqa: PLR2004 - fewer have nothing to leave out
            found.append(message)
            continue
        vectors = np.stack([e.vector for e in await embedder.embed([*sentences, asked or body])])
        kept = chosen(vectors[:-1], vectors[-1], sentences, settings.keep)
        near = likeness(vectors[:-1], kept)
        less = " ".join(sentences[each] for each in kept) + gap + tail
        if near < settings.similarity_floor or len(less) >= len(content):
            found.append(message)
            continue
        saved += len(content.encode()) - len(less.encode())
        similarity = min(similarity, near)
        found.append(message.model_copy(update={"content": less}))
    return Compressed(tuple(found), saved, similarity)


def chosen(vectors: Vectors, asked: Vectors, sentences: Sequence[str], keep: float) -> list[int]:
    """Places of the sentences that stay, in order."""
    about = vectors.mean(axis=0)
    about = about / max(float(np.linalg.norm(about)), 1e-9)
    worth = _ASKED * (vectors @ asked) + (1 - _ASKED) * (vectors @ about)
    always = {at for at, sentence in enumerate(sentences) if _KEPT.search(sentence)}
    count = max(len(always), round(keep * len(sentences)))
    by_worth = sorted(range(len(sentences)), key=lambda at: (at not in always, -float(worth[at])))
    return sorted(by_worth[:count])


def likeness(vectors: Vectors, kept: Sequence[int]) -> float:
    """Cosine between the mean of all sentences and that of those kept."""
    if not kept:
        return 0.0
    whole, part = vectors.mean(axis=0), vectors[list(kept)].mean(axis=0)
    return float(whole @ part / max(float(np.linalg.norm(whole) * np.linalg.norm(part)), 1e-9))
