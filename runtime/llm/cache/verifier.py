"""How likely two prompts mean the same: boosted trees over a row of numbers, in plain numpy.

There are two forests, each with its own bars: `near` also reads what has been proven around both prompts
and was fitted on labelled real question pairs (seven of ten of half of Quora's, as published with
GPTCache); `alone` does not, was fitted on those and on generated agents' prompts, and has its bars from
the prompts. `hack/bench/fit_verifier.py` fits them; they and the rarity of tokens lie in `verifier.npz`.
The pairs' labels are people's, and not all of them are right.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

FILE = Path(__file__).with_name("verifier.npz")


@dataclass(frozen=True, slots=True)
class Forest:
    """Fitted trees. A node without children has its value; nodes of all trees lie in one array.

    Attributes:
        roots: first node of each tree.
        column: that a node asks for; rows with at most `limit` go `left`, the others `right`.
        bars: log-odds from which on hits are wrong in at most the share `accepted`, rising.
    """

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


@dataclass(frozen=True, slots=True)
class Verifier:
    """What was fitted.

    Attributes:
        rarities: by token id, from 0 (in every text) to 1 (in none).
        alone: over `features`, where little has been proven.
        near: over `features` and the `evidence` around the new prompt and around the kept one.
    """

    rarities: NDArray[np.float32]
    alone: Forest
    near: Forest


@cache
def verifier() -> Verifier:
    """The one that comes with this package."""
    with np.load(FILE) as kept:
        arrays = {name: kept[name] for name in kept.files}
    rarities = arrays["rarities"].astype(np.float32) / 255
    return Verifier(rarities, _forest(arrays, "alone_"), _forest(arrays, "near_"))


def _forest(arrays: dict[str, NDArray[Any]], prefix: str) -> Forest:
    own = {
        name.removeprefix(prefix): each for name, each in arrays.items() if name.startswith(prefix)
    }
    base, depth = own.pop("base"), own.pop("depth")
    return Forest(base=float(base), depth=int(depth), **own)
