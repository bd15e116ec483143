"""What a seed may be: its formula, and the parameters it is born with.

Every blueprint keeps its parameters in the same two slabs of a layer, `down` and `up`, both of shape
(seeds, rows, width). So another blueprint in a seed's place is another number in a tensor, and no kernel
is compiled anew.

    LOW_RANK   f(x) = (x down') up                 the first `rank` rows of both
    MLP        f(x) = gelu(x down') up             likewise, gelu by the error function
    NORM       f(x) = layernorm(x) up[0] + up[1]   over the seed's own columns; `down` unused
    ATTENTION  f(x) = softmax(q k' / sqrt(r)) v up over the tokens of one sequence, see `attention`
    USER       whatever the user's function says, see `custom`

The first three run in the fused kernels; to those kernels a seed with another number is at rest.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

NORM_EPSILON = 1e-5


class Blueprint(IntEnum):
    """The number that stands in the tensor `blueprint` for each seed."""

    LOW_RANK = 0
    MLP = 1
    NORM = 2
    ATTENTION = 3
    USER = 4


FUSED = (Blueprint.LOW_RANK, Blueprint.MLP, Blueprint.NORM)


def newborn(
    blueprint: Blueprint,
    width: int,
    rows: int,
    *,
    rank: int | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor]:
    """The parameters `(down, up)` of a new seed, each (rows, width) in fp32; its output is zero.

    `up` is zero, so the model's output does not change at birth whatever alpha is, and `down` is random,
    so that the first gradient of `up` is not zero (the rule of LoRA, Hu et al. 2021).
    """
    down = torch.zeros(rows, width)
    if blueprint is not Blueprint.NORM:
        used = rows if rank is None else rank
        down[:used] = torch.randn(used, width, generator=generator) / math.sqrt(width)
    return down, torch.zeros(rows, width)
