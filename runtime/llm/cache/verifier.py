"""How likely two prompts mean the same: boosted trees over a row of numbers, in plain numpy.

The trees were fitted by `hack/bench/fit_verifier.py` on seven of ten of half of the labelled real question
pairs (Quora's, as published with GPTCache) and of generated agents' prompts; they and the rarity of
tokens lie in `verifier.npz`. The labels are people's, and not all of them are right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).with_name("verifier.npz")


@dataclass(frozen=True, slots=True)
class Verifier:
    """Fitted trees. A node without children has its value; nodes of all trees lie in one array.

    Attributes:
        rarities: by token id, from 0 (in every text) to 1 (in none).
        roots: first node of each tree.
        column: that a node asks for; rows with at most `limit` go `left`, the others `right`.
        bars: log-odds from which on hits are wrong in at most the share `accepted`, rising.
    """

    rarities: NDArray[np.float32]
    roots: NDArray[np.int32]
    column: NDArray[np.int16]
    limit: NDArray[np.float64]
    left: NDArray[np.int32]
    right: NDArray[np.int32]
    value: NDArray[np.float32]
    base: float
    depth: int
    accepted: NDArray[np.float32]
    bars: NDArray[np.float32]

    def score(self, row: NDArray[np.float64]) -> float:
        """Log-odds that the two prompts mean the same."""
        numbers = row.astype(np.float32)
        at = self.roots
        for _ in range(self.depth):
            low = numbers[self.column[at]] <= self.limit[at]
            at = np.where(low, self.left[at], self.right[at])
        return self.base + float(self.value[at].sum())

    def bar(self, wrong: float) -> float:
        """Log-odds from which on at most this share of hits is wrong."""
        if wrong < float(self.accepted[0]):
            return math.inf
        return float(np.interp(wrong, self.accepted, self.bars))


@cache
def verifier() -> Verifier:
    """The one that comes with this package."""
    with np.load(FILE) as kept:
        arrays = {name: kept[name] for name in kept.files}
    base, depth = arrays.pop("base"), arrays.pop("depth")
    arrays["rarities"] = arrays["rarities"].astype(np.float32) / 255
    return Verifier(base=float(base), depth=int(depth), **arrays)
