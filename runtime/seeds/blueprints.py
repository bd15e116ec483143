"""What may grow from a seed: the names that users give, and the kernels' kinds and ranks behind them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from seedbed.crds.errors import InvalidError
from seedbed.kernels.blueprints import FUSED, Blueprint, newborn
from seedbed.runtime.seeds.custom import Custom, Pair

KINDS = {kind.name.lower().replace("_", "-"): kind for kind in FUSED}
"""By the name that stands in a specification."""


@dataclass(frozen=True, slots=True)
class Growth:
    """One blueprint of a specification.

    Attributes:
        name: what decisions call it.
        kind: low-rank, mlp or norm.
        rank: rows that the seed uses of its slab; norm always uses two.
    """

    name: str
    kind: str = "low-rank"
    rank: int = 8

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InvalidError("blueprints.kind", f"expected one of {', '.join(KINDS)}")
        if self.rank < 1:
            raise InvalidError("blueprints.rank", "expected at least 1")

    @property
    def blueprint(self) -> Blueprint:
        """The kernels' number for the kind."""
        return KINDS[self.kind]

    def rows(self, width: int, pair: Pair) -> int:
        """Rows of `down` and `up` that such a seed needs."""
        del width, pair  # its rows are as long as its slab is wide
        return 2 if self.blueprint is Blueprint.NORM else self.rank

    def parameters(self, width: int, pair: Pair) -> int:
        """How many numbers such a seed learns, at a width of so many columns."""
        return (1 if self.blueprint is Blueprint.NORM else 2) * self.rows(width, pair) * width

    def sprout(self, width: int, rows: int, pair: Pair, chance: int) -> tuple[Tensor, Tensor]:
        """Parameters of a new seed in a slab of so many rows; the same for the same `chance`."""
        del pair
        generator = torch.Generator().manual_seed(chance)
        return newborn(self.blueprint, width, rows, rank=self.rank, generator=generator)


AnyGrowth = Growth | Custom
