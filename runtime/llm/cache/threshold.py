"""What each entry has taught: how sure a likeness must be before the entry serves it. Pure.

The idea of vCache (Schroeder et al., 2025): the user states the share of wrong answers that is
accepted, and each entry learns from verified outcomes how alike a prompt must be. Here the likeness
is the verifier's log-odds, and an entry learns how far its own prompts are easier or harder than that
says: a normal prior around nought, the outcomes' logistic likelihood, and of a result below nought the
cautious end. What was wrong once is never served again at the same likeness or a lower one.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from seedbed.runtime.llm.cache.index import Vector

KEPT = 16
"""Outcomes that an entry keeps, the newest ones."""
SURE = 30.0
"""Log-odds of certainty. An outcome at -SURE tells of its place only: nothing but facts was compared."""
_SPREAD = 0.5
"""Standard deviation of entries around the verifier, in log-odds."""
_STEPS = 8
_BYTE = 127


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verified use of an entry.

    Attributes:
        cosine: of the two prompts.
        score: the verifier's log-odds then.
        correct: whether the answer was right.
        place: the other prompt's vector, in bytes.
        informed: whether the score knew what was proven around.
    """

    cosine: float
    score: float
    correct: bool
    place: bytes = b""
    informed: bool = False

    def vector(self) -> Vector:
        """The other prompt's vector."""
        rough = np.frombuffer(self.place, np.int8).astype(np.float32)
        return rough / np.float32(np.linalg.norm(rough))


def placed(vector: Vector) -> bytes:
    """A unit vector as `Outcome.place`."""
    rough = (vector / np.abs(vector).max() * _BYTE).round().astype(np.int8)
    return bytes(rough.tobytes())


@dataclass(frozen=True, slots=True)
class Learnt:
    """What one entry has taught."""

    outcomes: tuple[Outcome, ...] = field(default=())

    def having(self, outcome: Outcome) -> Learnt:
        """One more; where there are too many, first goes what tells least of the entry."""
        outcomes = [*self.outcomes, outcome]
        while len(outcomes) > KEPT:
            spare = (place for place, each in enumerate(outcomes) if each.score <= -SURE)
            right = (place for place, each in enumerate(outcomes) if each.correct)
            outcomes.pop(next(spare, next(right, 0)))
        return Learnt(tuple(outcomes))

    def dump(self) -> list[list[float | str]]:
        """As JSON keeps it."""
        return [
            [
                round(each.cosine, 4),
                round(each.score, 4),
                float(each.correct),
                base64.b64encode(each.place).decode(),
                float(each.informed),
            ]
            for each in self.outcomes
        ]

    @staticmethod
    def load(value: Sequence[Sequence[float | str]]) -> Learnt:
        """From what `dump` gave."""
        return Learnt(
            tuple(
                Outcome(
                    float(cosine),
                    float(score),
                    bool(correct),
                    base64.b64decode(str(place)),
                    bool(later and later[0]),
                )
                for cosine, score, correct, place, *later in value
            )
        )


def proven_wrong(learnt: Learnt, score: float) -> bool:
    """Whether a likeness as high as this one has already been wrong for the entry."""
    return any(not each.correct and score <= each.score for each in learnt.outcomes)


def judged(learnt: Learnt, score: float) -> float:
    """Log-odds that the entry's answer is right, with what it has taught.

    Newton's steps find the middle and the width of the entry's own offset (Laplace).
    """
    outcomes = [each for each in learnt.outcomes if each.score > -SURE]
    if not outcomes:
        return score
    offset, precision = 0.0, 1 / _SPREAD**2
    for _ in range(_STEPS):
        slope, precision = -offset / _SPREAD**2, 1 / _SPREAD**2
        for each in outcomes:
            likely = 1 / (1 + math.exp(-max(-SURE, min(SURE, each.score + offset))))
            slope += float(each.correct) - likely
            precision += likely * (1 - likely)
        offset += slope / precision
    return score + offset - (1 / math.sqrt(precision) if offset < 0 else 0.0)
