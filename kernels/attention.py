"""ATTENTION seeds: each attends over the tokens of a sequence, within its own columns.

    q, k, v = x down[:h]', x down[h:2h]', x down[2h:3h]'      h = rows // 3
    f(x) = softmax(q k' / sqrt(h)) v up[:h]

A seed's `rank` has no part in it. Tokens depend on one another here, so this does not run in the fused
kernels: it is plain torch on every device, added to what they return. In `y` a seed of this blueprint
has passed its tokens untouched.
"""

from __future__ import annotations

import torch
from torch import Tensor

from seedbed.crds.errors import InvalidError
from seedbed.kernels.blueprints import Blueprint
from seedbed.kernels.layer import SeedTensors

PARTS = 3


def _attended(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
    """The formula for x (..., L, w) with parameters (..., R, w)."""
    head = down.shape[-2] // PARTS
    if head < 1:
        raise InvalidError("seeds.down", f"must have {PARTS} or more rows for attention")
    hidden = x @ down[..., : PARTS * head, :].to(x.dtype).transpose(-1, -2)
    query, key, value = torch.split(hidden, head, -1)
    out = torch.nn.functional.scaled_dot_product_attention(query, key, value)
    return out @ up[..., :head, :].to(x.dtype)


def _share(seeds: SeedTensors, which: Tensor) -> Tensor:
    """Alpha of these seeds, zero for those of another blueprint."""
    return torch.where(seeds.blueprint[which] == Blueprint.ATTENTION, seeds.alpha[which], 0.0)


def attend_tokens(x: Tensor, y: Tensor, seed_of: Tensor, seeds: SeedTensors) -> Tensor:
    """Adds to y what attention seeds make of sequences x (B, L, w) that carry one seed each (B,).

    Every sequence is computed, and kept where its seed is an attention seed that acts.
    """
    count = seeds.alpha.shape[0]
    which = seed_of.long().clamp(0, count - 1)
    share = torch.where((seed_of >= 0) & (seed_of < count), _share(seeds, which), 0.0)
    added = _attended(x, seeds.down[which], seeds.up[which])
    share = share[:, None, None]
    return torch.where(share != 0, (y + share * added).to(y.dtype), y)


def attend_chunks(x: Tensor, y: Tensor, seeds: SeedTensors, which: Tensor) -> Tensor:
    """Adds to y what the seeds `which` make of their chunks of sequences x (B, L, columns).

    Args:
        x: what went into `seed_chunks`.
        y: what came out of it.
        seeds: of the layer.
        which: (G,) indexes without repetition; those of another blueprint add nothing.
    """
    narrow, wider = divmod(x.shape[-1], seeds.alpha.shape[0])
    begin = which * narrow + which.clamp(max=wider)
    width = narrow + (which < wider).long()
    step = torch.arange(seeds.down.shape[2], device=x.device)
    real = step < width[:, None]
    columns = (begin[:, None] + step).clamp(max=x.shape[-1] - 1)
    mine = torch.where(real, x[..., columns], 0.0).transpose(-3, -2)
    added = _attended(mine, seeds.down[which], seeds.up[which]).transpose(-3, -2)
    share = _share(seeds, which)[:, None]
    changed = y[..., columns] + torch.where(share != 0, share * added, 0.0).to(y.dtype)
    kept = real & (share != 0)
    return y.index_copy(-1, columns[kept], changed[..., kept])
