"""Which tokens belong to which seed, found on the device without the host looking.

The fused kernels work on tiles: some tokens of one seed. How many tiles there are depends on the tokens,
but never passes T / rows + min(S + 1, T), so the grid has that size and spare tiles end at once. That
makes a launch, and a CUDA graph of it, the same for every assignment.
"""

from __future__ import annotations

import torch
from torch import Tensor


def tile_rows(tokens: int, seeds: int) -> int:
    """Tokens a tile, from the mean number of tokens a seed.

    A tile reads its seed's parameters once and its own tokens twice, the second time from the L2 cache if
    all tiles under way fit there: hence no more than 32 rows but for very long runs of one seed.
    """
    if tokens <= 24 * seeds:
        return 16
    return 32 if tokens <= 256 * seeds else 64


def tile_bound(tokens: int, seeds: int, rows: int) -> int:
    """The most tiles that any assignment needs; the tokens without a seed count as one seed."""
    return tokens // rows + min(seeds + 1, tokens)


def plan_tokens(seed_of: Tensor, seeds: int) -> Tensor:
    """The plan of one assignment, good for every layer with as many seeds.

    Args:
        seed_of: (T,) integers; outside [0, S) means no seed.
        seeds: S.

    Returns:
        int32, the concatenation of: the tokens sorted by seed (T), where each seed's begin (S + 2, the
        last two being the tokens without a seed and T), the seed of each tile, its first sorted token.
    """
    tokens = seed_of.shape[0]
    rows = tile_rows(tokens, seeds)
    device = seed_of.device
    wanted = seed_of.int()
    wanted = torch.where((wanted < 0) | (wanted >= seeds), seeds, wanted)
    ordered, order = torch.sort(wanted, stable=True)
    each = torch.arange(seeds + 2, device=device, dtype=torch.int32)
    edges = torch.searchsorted(ordered, each, out_int32=True)
    needed = (edges[1:] - edges[:-1] + rows - 1) // rows
    ends = torch.cumsum(needed, 0, dtype=torch.int32)
    tile = torch.arange(tile_bound(tokens, seeds, rows), device=device, dtype=torch.int32)
    found = torch.searchsorted(ends, tile, right=True)
    owner = found.clamp(max=seeds)
    first = edges[owner] + (tile - (ends - needed)[owner]) * rows
    first = torch.where(found <= seeds, first, tokens)
    return torch.cat([order.int(), edges, owner.int(), first.int()])


def unpack(plan: Tensor, tokens: int, seeds: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The four parts of a plan."""
    tiles = tile_bound(tokens, seeds, tile_rows(tokens, seeds))
    order, edges, owner, first = torch.split(plan, [tokens, seeds + 2, tiles, tiles])
    return order, edges, owner, first
