"""What each seed saw: six sums, and the figures a controller decides by.

The sums of one call are fp32 and additive, so a caller adds them over steps, or over GPUs, and derives
the figures once an epoch. `width` is the number of columns of a seed.
"""

from __future__ import annotations

from enum import IntEnum

import torch
from torch import Tensor

DEAD_BELOW = 1e-6


class Measure(IntEnum):
    """Columns of the tensor (seeds, 6) that a layer returns; x is what came in."""

    COUNT = 0  # elements: tokens times columns
    SUM = 1  # of x
    SQUARES = 2  # of x squared
    DEAD = 3  # elements with |x| <= DEAD_BELOW
    CHANGE = 4  # of the square of what the seed added: (alpha f(x))^2
    ROWS = 5  # of the square of each token's sum over the seed's columns


def _share(part: Tensor, whole: Tensor) -> Tensor:
    return torch.where(whole > 0, part / whole.clamp(min=torch.finfo(whole.dtype).tiny), 0.0)


def variance(sums: Tensor) -> Tensor:
    """Variance of each seed's input over all its elements, (seeds,); zero where nothing was seen."""
    mean = _share(sums[:, Measure.SUM], sums[:, Measure.COUNT])
    return (_share(sums[:, Measure.SQUARES], sums[:, Measure.COUNT]) - mean.square()).clamp(min=0)


def dead_fraction(sums: Tensor) -> Tensor:
    """Share of each seed's input that is zero, (seeds,)."""
    return _share(sums[:, Measure.DEAD], sums[:, Measure.COUNT])


def drift(sums: Tensor) -> Tensor:
    """How far each seed moves its input: |alpha f(x)| / |x|, (seeds,); zero for a seed at rest."""
    return _share(sums[:, Measure.CHANGE], sums[:, Measure.SQUARES]).sqrt()


def correlation(sums: Tensor, width: int | Tensor) -> Tensor:
    """Mean correlation between two columns of a seed, (seeds,), for columns of like mean and variance.

    The variance of a sum of w columns is w s^2 (1 + (w - 1) c). That gives c from the tokens' sums alone;
    the matrix of all pairs would cost w^2.
    """
    columns = torch.as_tensor(width, dtype=sums.dtype, device=sums.device)
    count = sums[:, Measure.COUNT]
    mean = _share(sums[:, Measure.SUM], count) * columns
    of_sum = _share(sums[:, Measure.ROWS] * columns, count) - mean.square()
    ratio = _share(of_sum, variance(sums) * columns)
    together = torch.where(columns > 1, (ratio - 1) / (columns - 1).clamp(min=1), 0.0)
    return torch.where(variance(sums) > 0, together.clamp(-1, 1), 0.0)
