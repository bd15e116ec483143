"""What tells whether two prompts mean the same, as numbers. Pure and symmetric.

Beside the cosine of the two vectors the tokens of each prompt are laid against those of the other by
the states that the model gave them (as BERTScore does): a word that finds no counterpart says more than
the mean of all. Rare words weigh more; how rare a token is comes with the fitted verifier.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from seedbed.runtime.llm.cache.embedder import Embedded
from seedbed.runtime.llm.cache.facts import Facts, facts

Row = NDArray[np.float64]
_CONTENT = 0.42
"""Rarity from which on a token carries content: 0 is in every text, 1 in none."""
_WORDS = re.compile(r"\w+")
_SELF = frozenset({"i", "my", "me"})
_PRAISE = frozenset({"best", "good", "better"})
_ASKING = ("what", "how", "why", "which", "who", "when", "where")


@dataclass(frozen=True, slots=True)
class Prompt:
    """A text with everything that comparing it needs.

    Attributes:
        units: the tokens' states, of unit length.
        rarity: of each token, from 0 to 1.
        trigrams: of the letters.
    """

    embedded: Embedded
    facts: Facts
    units: NDArray[np.float32]
    rarity: NDArray[np.float32]
    trigrams: frozenset[str]


def prompt(embedded: Embedded, rarities: NDArray[np.float32]) -> Prompt:
    """Prepare a text. `rarities`: by token id."""
    states = embedded.states.astype(np.float32)
    units = states / np.linalg.norm(states, axis=1, keepdims=True).clip(min=1e-6)
    plain = "  " + " ".join(_WORDS.findall(embedded.text.lower())) + " "
    trigrams = frozenset(plain[place : place + 3] for place in range(len(plain) - 2))
    read = facts(embedded.text)
    return Prompt(embedded, read, units, rarities[embedded.tokens], trigrams)


def features(one: Prompt, other: Prompt) -> Row:
    """One row of numbers."""
    cosine = float(one.embedded.vector @ other.embedded.vector)
    return np.concatenate(
        [[cosine], _aligned(one, other), _overlap(one, other), _stated(one.facts, other.facts)]
    )


def _aligned(one: Prompt, other: Prompt) -> Row:
    if not len(one.rarity) or not len(other.rarity):
        return np.zeros(2 * _SIDE)
    likeness = one.units @ other.units.T
    sides = np.array(
        [
            _side(likeness.max(axis=1), one, other.embedded.tokens),
            _side(likeness.max(axis=0), other, one.embedded.tokens),
        ]
    )
    return np.concatenate([sides.min(axis=0), sides.max(axis=0)])


_SIDE = 18


def _side(best: NDArray[np.float32], mine: Prompt, theirs: NDArray[np.int32]) -> list[float]:
    """How well the tokens of one prompt find counterparts. `best`: each token's highest cosine."""
    rarity, tokens = mine.rarity, mine.embedded.tokens
    shared = (tokens[:, None] == theirs).any(axis=1)  # of so few, ahead of `np.isin`
    content = rarity > _CONTENT
    ordered, lost = np.sort(best), best[~shared]
    matter = np.sort(best[content]) if content.any() else np.ones(1)
    missing = rarity * (1 - best)
    total = max(float(rarity.sum()), 1e-6)
    return [
        best.mean(),
        ordered[0],
        ordered[min(1, len(ordered) - 1)],
        matter[0],
        matter[min(1, len(matter) - 1)],
        float(rarity @ best) / total,
        missing.sum(),
        missing.max(),
        rarity[~shared].sum(),
        rarity[~shared].max(initial=0.0),
        rarity[shared].sum() / total,
        float((~shared & content).sum()),
        lost.min(initial=1.0),
        lost.mean() if len(lost) else 1.0,
        float(len(tokens)),
        rarity.max(),
        best[int(rarity.argmax())],
        shared.mean(),
    ]


def _overlap(one: Prompt, other: Prompt) -> list[float]:
    mine, theirs = one.facts, other.facts
    common = len(one.trigrams & other.trigrams)
    lengths = (len(mine.words), len(theirs.words))
    texts = (len(one.embedded.text), len(other.embedded.text))
    return [
        common / max(1, len(one.trigrams | other.trigrams)),
        common / max(1, min(len(one.trigrams), len(other.trigrams))),
        _jaccard(frozenset(mine.words), frozenset(theirs.words)),
        _jaccard(mine.content, theirs.content),
        float(len(mine.content ^ theirs.content)),
        float(bool(mine.content - theirs.content)) + float(bool(theirs.content - mine.content)),
        float(mine.words[:1] == theirs.words[:1]),
        float(mine.words[:2] == theirs.words[:2]),
        float(mine.words[-1:] == theirs.words[-1:]),
        float(sorted(mine.words) == sorted(theirs.words)),
        float(abs(texts[0] - texts[1])),
        float(min(lengths)),
        float(max(lengths)),
    ]


def _stated(one: Facts, other: Facts) -> list[float]:
    mine, theirs = frozenset(one.words), frozenset(other.words)
    lost = (len(one.names - theirs), len(other.names - mine))
    asking = [next((w for w in each.words if w in _ASKING), "") for each in (one, other)]
    numbers = ((one.numbers - other.numbers).total(), (other.numbers - one.numbers).total())
    return [
        float(sum(lost)),
        float(min(lost)),
        float(len(one.names & other.names)),
        float(max(numbers)),
        float(min(numbers)),
        float(bool(one.numbers or other.numbers)),
        float(one.negated != other.negated),
        float(one.asks != other.asks),
        float(one.whether != other.whether),
        float(one.whether and other.whether),
        float(one.question != other.question),
        float(asking[0] == asking[1]),
        *(float(word in asking) for word in ("what", "how", "why", "which", "")),
        float(bool(mine & _SELF) != bool(theirs & _SELF)),
        float(bool(mine & _PRAISE) != bool(theirs & _PRAISE)),
    ]


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    return len(one & other) / max(1, len(one | other))
