"""What each entry has taught: how sure a likeness must be before the entry serves it. Pure.

The idea of vCache (Schroeder et al., 2025): the user states the share of wrong answers that is
accepted, and each entry learns from verified outcomes how alike a prompt must be. Here the likeness
is the verifier's probability as log-odds, and an entry learns how far its own prompts are easier or
harder than that says: a normal prior around nought, the outcomes' logistic likelihood, and of the
result the cautious end.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

KEPT = 32
"""Outcomes that an entry keeps, the newest ones."""
_SPREAD = 1.0
"""Standard deviation of entries around the verifier, in log-odds."""
_CAUTION = 0.5
"""Standard deviations below the middle that an entry with outcomes is judged at."""
_STEPS = 8


@dataclass(frozen=True, slots=True)
class Outcome:
    """A verified use of an entry: the verifier's log-odds then, and whether the answer was right."""

    score: float
    correct: bool


@dataclass(frozen=True, slots=True)
class Learnt:
    """What one entry has taught."""

    outcomes: tuple[Outcome, ...] = field(default=())

    def with_outcome(self, score: float, *, correct: bool) -> Learnt:
        """One more; the oldest one that was right goes first where there are too many."""
        outcomes = [*self.outcomes, Outcome(score, correct)]
        while len(outcomes) > KEPT:
            right = (place for place, each in enumerate(outcomes) if each.correct)
            outcomes.pop(next(right, 0))
        return Learnt(tuple(outcomes))

    def dump(self) -> list[list[float]]:
        """As JSON keeps it."""
        return [[round(each.score, 4), float(each.correct)] for each in self.outcomes]

    @staticmethod
    def load(value: Sequence[Sequence[float]]) -> Learnt:
        """From what `dump` gave."""
        return Learnt(tuple(Outcome(float(score), bool(correct)) for score, correct in value))


def proven_wrong(learnt: Learnt, score: float) -> bool:
    """Whether a likeness as high as this one has already been wrong for the entry."""
    return any(not each.correct and score <= each.score for each in learnt.outcomes)


def judged(learnt: Learnt, score: float) -> float:
    """Log-odds that the entry's answer is right, with what it has taught.

    Newton's steps find the middle and the width of the entry's own offset (Laplace).
    """
    if not learnt.outcomes:
        return score
    offset, precision = 0.0, 1 / _SPREAD**2
    for _ in range(_STEPS):
        slope, precision = -offset / _SPREAD**2, 1 / _SPREAD**2
        for each in learnt.outcomes:
            likely = 1 / (1 + math.exp(-max(-30.0, min(30.0, each.score + offset))))
            slope += float(each.correct) - likely
            precision += likely * (1 - likely)
        offset += slope / precision
    doubt = _SPREAD - 1 / math.sqrt(precision)
    return score + offset - _CAUTION * max(0.0, _SPREAD - doubt) * (offset < 0)
