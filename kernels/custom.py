"""A user's blueprint: a function of one seed's parameters and activations, run for many seeds at once.

The function is vectorised over the seeds by `torch.func.vmap`: it sees one seed, and no loop runs. What it
makes of a row may depend on that row alone, as rows are put together and padded. It runs in plain torch on
every device, and what it gives is added to what the fused kernels return; there a seed of this kind has
passed its columns untouched.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

Function = Callable[[Any, Tensor], Tensor]


def custom_chunks(
    x: Tensor, y: Tensor, share: Tensor, columns: Tensor, function: Function, parameters: Any
) -> tuple[Tensor, Tensor]:
    """Y with what G seeds make of their chunks, and the sum of the squares of what each has added, (G,).

    Args:
        x: (..., columns), what went into `seed_chunks`.
        y: what came out of it.
        share: (G,) alpha of the seeds; those with zero add nothing.
        columns: (G, w) which of x's columns each seed has; seeds of one call have one width.
        function: of (parameters of one seed, its x (T, w)) to f(x) (T, w); made of torch operations.
        parameters: a tree of tensors whose first dimension is G.
    """
    flat, before = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    mine = flat[:, columns].transpose(0, 1).to(share.dtype)
    added = _shared(torch.func.vmap(function)(parameters, mine), share)
    beside = added.transpose(0, 1).reshape(len(flat), -1)
    out = before.index_add(1, columns.reshape(-1), beside.to(y.dtype))
    return out.view(y.shape), added.detach().square().sum((1, 2))


def custom_tokens(
    x: Tensor,
    y: Tensor,
    seed_of: Tensor,
    share: Tensor,
    which: Tensor,
    function: Function,
    parameters: Any,
) -> tuple[Tensor, Tensor]:
    """Y with what the seeds `which` make of their tokens, and the sums of squares, (G,).

    Tokens are gathered by seed, and a seed with fewer of them than another is padded; so the host waits
    once for the device, to know how many the busiest seed has.

    Args:
        x: (..., given), what the seeds read.
        y: (..., made), what they add to.
        seed_of: integers whose shape is x's leading dimensions, or the first of them.
        share: (G,) alpha of the seeds.
        which: (G,) indexes of seeds without repetition.
        function: of (parameters of one seed, its x (n, given)) to f(x) (n, made).
        parameters: a tree of tensors whose first dimension is G.
    """
    flat, before = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
    missing = x.dim() - 1 - seed_of.dim()
    wanted = seed_of.reshape(*seed_of.shape, *(1 for _ in range(missing)))
    wanted = wanted.expand(x.shape[:-1]).reshape(-1)
    tokens, group = torch.nonzero(wanted[:, None] == which, as_tuple=True)
    if not len(tokens):
        return y, torch.zeros_like(share)
    group, order = torch.sort(group, stable=True)
    tokens = tokens[order]
    counts = torch.bincount(group, minlength=len(which))
    starts = torch.cumsum(counts, 0) - counts
    steps = torch.arange(int(counts.max()), device=x.device)
    padded = starts[:, None] + torch.minimum(steps, (counts - 1).clamp(min=0)[:, None])
    mine = flat[tokens[padded.clamp(max=len(tokens) - 1)]].to(share.dtype)
    added = _shared(torch.func.vmap(function)(parameters, mine), share)
    real = added[group, torch.arange(len(tokens), device=x.device) - starts[group]]
    out = before.index_add(0, tokens, real.to(y.dtype))
    squares = real.detach().square().sum(1)
    return out.view(y.shape), torch.zeros_like(share).index_add(0, group, squares)


def _shared(made: Tensor, share: Tensor) -> Tensor:
    """What is added: nothing by a seed without a share, whatever it has made."""
    part = share[:, None, None]
    return torch.where(part != 0, part * made, 0.0)
