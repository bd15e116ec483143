"""The usual layer on a CPU: every seed acts, by low rank of full rank, on as many tokens as any other.

Both products of such a layer are batched ones, so what is left to win is memory traffic. With few tokens a
seed the second product is a weighted sum of rows of `up`, and torch's sum of embeddings does that in one
pass, ahead of a batched product. With very many, blocks of seeds are finished one after another, so that
their tokens are still in the cache when they are read the second time.
"""

from __future__ import annotations

import functools

import torch
from torch import Tensor

from seedbed.kernels.batches import State

TALL = 12
"""Tokens a seed from which on the product with the parameters on the left is the faster one, on x86."""
FEW = 32
"""Tokens a seed up to which summing rows of `up` beats a batched product."""
THIN = 16
"""Rows of a slab up to which it does."""
_SUM = 0
CACHED = 1 << 20
"""Bytes of tokens that are worked on together where there are more than four times as many."""


def _hidden(by_seed: Tensor, down: Tensor, alpha: Tensor) -> Tensor:
    """Hidden values, times the seeds' shares, (S, n, R)."""
    return torch.bmm(by_seed, down.mT).mul_(alpha.view(-1, 1, 1))


@functools.lru_cache(maxsize=4)
def _rows(
    seeds: int, rows: int, each: int, device: torch.device, *, by_token: bool
) -> tuple[Tensor, Tensor]:
    """Which rows of `up` each token sums, and where each token's begin."""
    of_seed = torch.arange(seeds * rows, dtype=torch.int32, device=device).view(seeds, rows)
    one = of_seed.expand(each, seeds, rows) if by_token else of_seed[:, None].expand(-1, each, rows)
    count = seeds * rows * each
    return one.reshape(-1), torch.arange(0, count, rows, dtype=torch.int32, device=device)


def _summed(hidden: Tensor, up: Tensor, each: int, *, by_token: bool) -> Tensor:
    """Rows of `up` weighted by the hidden values, (T, w); tokens in the order of `hidden`.

    `torch.embedding_bag` is what `functional.embedding_bag` calls after checks that cost as much as itself
    on a small layer.
    """
    seeds, rows, width = up.shape
    index, begins = _rows(seeds, rows, each, up.device, by_token=by_token)
    found: Tensor = torch.embedding_bag(
        up.view(-1, width), index, begins, mode=_SUM, per_sample_weights=hidden.view(-1)
    )[0]  # fmt: skip
    return found


def tokens(x: Tensor, state: State, *, mine: bool) -> Tensor:
    """Output (T, w) for tokens that are sorted by seed; x may be written over where it is `mine`."""
    down, up, alpha = state.down, state.up, state.alpha
    seeds, rows, width = up.shape
    each = x.shape[0] // seeds
    by_seed = x.view(seeds, each, width)
    if each <= FEW and rows <= THIN:
        if each == 1:  # so small that each operation counts
            y = _summed(torch.bmm(by_seed, down.mT), up, 1, by_token=False)
            return torch.addcmul(x, y, alpha.view(-1, 1), out=y)
        return _summed(_hidden(by_seed, down, alpha), up, each, by_token=False).add_(x)
    if mine:
        return by_seed.baddbmm_(_hidden(by_seed, down, alpha), up).view(x.shape)
    if x.nbytes <= 4 * CACHED:
        return torch.baddbmm(by_seed, _hidden(by_seed, down, alpha), up).view(x.shape)
    y = torch.empty_like(by_seed)
    step = max(1, CACHED * seeds // x.nbytes)
    for start in range(0, seeds, step):
        some = slice(start, start + step)
        part = by_seed[some]
        torch.baddbmm(part, _hidden(part, down[some], alpha[some]), up[some], out=y[some])
    return y.view(x.shape)


def chunks(x: Tensor, state: State) -> Tensor:
    """Output (T, columns) for chunks of one width."""
    down, up, alpha = state.down, state.up, state.alpha
    seeds, rows, width = up.shape
    each = x.shape[0]
    by_seed = x.view(each, seeds, width).transpose(0, 1)
    if each <= FEW and rows <= THIN:
        hidden = _hidden(by_seed, down, alpha).transpose(0, 1).contiguous()
        return _summed(hidden, up, each, by_token=True).view(x.shape).add_(x)
    if each < TALL:
        hidden = _hidden(by_seed, down, alpha)
    else:
        hidden = torch.bmm(down, by_seed.transpose(1, 2)).mul_(alpha.view(-1, 1, 1)).mT
    return torch.baddbmm(by_seed, hidden, up).transpose(0, 1).reshape(x.shape)
