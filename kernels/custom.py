"""A user's blueprint: a function of one seed's parameters and activations, run for many seeds at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seedbed.kernels.blueprints import Blueprint
from seedbed.kernels.layer import SeedTensors

Function = Callable[[Any, Tensor], Tensor]


def apply_custom(
    x: Tensor, y: Tensor, seeds: SeedTensors, which: Tensor, function: Function, parameters: Any
) -> Tensor:
    """Adds to y what a user's blueprint makes of the chunks of the seeds `which`.

    The function is vectorised over the seeds by `torch.func.vmap`: it sees one seed, and no loop runs.
    Chunks must have one width, so the columns must divide by the seeds.

    Args:
        x: (..., columns), what went into `seed_chunks`.
        y: what came out of it; there a USER seed has passed its columns untouched.
        seeds: of the layer.
        which: (G,) indexes without repetition; those of another blueprint add nothing.
        function: of (parameters of one seed, its x (T, w)) to f(x) (T, w); made of torch operations.
        parameters: a tree of tensors whose first dimension is G, one entry a seed of `which`.
    """
    count = seeds.alpha.shape[0]
    flat = x.reshape(-1, count, x.shape[-1] // count)
    mine = flat[:, which].transpose(0, 1)
    added = torch.func.vmap(function)(parameters, mine).transpose(0, 1)
    user = seeds.blueprint[which] == Blueprint.USER
    share = torch.where(user, seeds.alpha[which], 0.0)[:, None]
    before = y.reshape(flat.shape)
    changed = torch.where(
        share != 0, (before[:, which] + share * added).to(y.dtype), before[:, which]
    )
    return before.index_copy(1, which, changed).view(x.shape)
