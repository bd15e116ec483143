"""What the neighbourhood of a prompt has been proven right or wrong in. In memory.

An outcome says how much better or worse a likeness turned out than its cosine alone lets expect. It is
kept at both prompts' places, and of each prompt is told what its nearest places have seen: of some
subjects people ask the same in a hundred ways, in others one word decides. This carries the idea of a
threshold for each entry over to entries that have seen nothing yet.
"""

from __future__ import annotations

import math
from collections import OrderedDict

import numpy as np
from numpy.typing import NDArray

from seedbed.runtime.llm.cache.index import Index, Vector

NEIGHBOURS = 128
MOST = 60_000
"""Places kept; the oldest goes first."""
_RINGS = (0.6, 0.7, 0.8, 0.88, 0.94, 0.985)
_FAR = 0.5
_SLOPE, _KNEE, _STEEPER, _OFFSET = 10.28, 0.9, 1.37, -8.376
SIZE = 3 * (len(_RINGS) + 1)


def expected(cosine: float) -> float:
    """The share of pairs at this cosine that mean the same; fitted on question pairs."""
    steep = _SLOPE * cosine + _STEEPER * max(0.0, cosine - _KNEE)
    return 1 / (1 + math.exp(-(steep + _OFFSET)))


class Evidence:
    """Outcomes by place."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._index = Index()
        self._surprise: OrderedDict[int, float] = OrderedDict()
        self._owned: dict[int, list[int]] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._surprise)

    def add(self, owner: int, place: Vector, cosine: float, *, correct: bool) -> None:
        """One outcome of a pair, at the place of one of its prompts; `owner` is its entry."""
        if len(self._surprise) >= MOST:
            oldest, _ = self._surprise.popitem(last=False)
            self._index.remove(oldest)
        self._surprise[self._next] = float(correct) - expected(cosine)
        self._index.add(self._next, place)
        self._owned.setdefault(owner, []).append(self._next)
        self._next += 1

    def forget(self, owner: int) -> None:
        """Drop what an entry has brought."""
        for key in self._owned.pop(owner, ()):
            if self._surprise.pop(key, None) is not None:
                self._index.remove(key)

    def around(self, place: Vector) -> NDArray[np.float64]:
        """For rings of growing cosine: outcomes, their sum of surprises, and its mean."""
        found = self._index.nearest(place, NEIGHBOURS)
        cosines = np.array([cosine for _, cosine in found])
        surprises = np.array([self._surprise[key] for key, _ in found])
        return summed(cosines, surprises)


def summed(cosines: NDArray[np.float64], surprises: NDArray[np.float64]) -> NDArray[np.float64]:
    """The numbers that `around` gives, from the nearest outcomes."""
    weights = [(cosines > ring).astype(np.float64) for ring in _RINGS]
    weights.append(np.where(cosines > _FAR, np.exp(12 * (cosines - 1)), 0.0))
    counts = np.array([each.sum() for each in weights])
    sums = np.array([float(each @ surprises) for each in weights])
    return np.concatenate([counts, sums, sums / (counts + 2)])
