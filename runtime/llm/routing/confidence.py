"""How sure one may be of an answer that is there. Pure.

Two things are known: how likely it was that the model would answer well, and what the model says of its
own answer when it is asked. Models are often too sure of themselves, so their word counts for as much as
it has been worth: from answers that were judged by others, the log-odds of a good one are

    start + trust * log-odds of what was predicted + worth * log-odds of the model's word

as a logistic regression with a normal prior about 0, 1 and 0: what was predicted holds, the word says
nothing. Before there are enough judged answers nobody knows better than the mean of the two.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ENOUGH = 50
"""Judged answers of one model whose word is known, from which on they are fitted."""
PRECISION = 4.0
"""Of the prior."""
_STEPS = 25
_SURE = 0.02
"""Nothing counts as surer than this, nor as its opposite."""

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Judged:
    """One answer: how likely it was to be good, what its model said of it, how good it was; from 0 to 1."""

    predicted: float
    word: float
    good: float


@dataclass(frozen=True, slots=True)
class Confidence:
    """What was learnt of one model's word; the mean of prediction and word before anything was.

    Attributes:
        judged: answers that it was learnt from.
        weights: `start`, `trust` and `worth`.
    """

    judged: int = 0
    weights: tuple[float, float, float] = (0.0, 1.0, 0.0)

    def of(self, predicted: float, word: float) -> float:
        """The probability that the answer is good."""
        if self.judged < ENOUGH:
            return (predicted + word) / 2
        start, trust, worth = self.weights
        odds = start + trust * float(_odds(predicted)) + worth * float(_odds(word))
        return float(1 / (1 + np.exp(-odds)))


def learnt(judged: Sequence[Judged]) -> Confidence:
    """Fit to judged answers, by Newton's method."""
    if len(judged) < ENOUGH:
        return Confidence(len(judged))
    design = np.column_stack(
        [
            np.ones(len(judged)),
            _odds(np.array([each.predicted for each in judged])),
            _odds(np.array([each.word for each in judged])),
        ]
    )
    good = np.array([each.good for each in judged])
    prior = np.array([0.0, 1.0, 0.0])
    weights = prior.copy()
    for _ in range(_STEPS):
        chance = 1 / (1 + np.exp(-(design @ weights)))
        slope = design.T @ (good - chance) - PRECISION * (weights - prior)
        curve = (design.T * (chance * (1 - chance))) @ design + PRECISION * np.eye(3)
        weights = weights + np.linalg.solve(curve, slope)
    start, trust, worth = weights.tolist()
    return Confidence(len(judged), (start, trust, worth))


def _odds(share: Array | float) -> Array:
    held = np.clip(share, _SURE, 1 - _SURE)
    found: Array = np.log(held / (1 - held))
    return found
