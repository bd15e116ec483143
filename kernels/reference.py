"""The operator in plain fp64, one seed after another: what every faster path is compared with."""

from __future__ import annotations

import torch
from torch import Tensor

from seedbed.kernels.blueprints import FUSED, NORM_EPSILON, Blueprint
from seedbed.kernels.layer import SeedTensors
from seedbed.kernels.telemetry import DEAD_BELOW


def _seed(x: Tensor, seeds: SeedTensors, s: int) -> tuple[Tensor, Tensor]:
    """Output of seed `s` for its tokens (n, w), and its six sums."""
    width = x.shape[1]
    kind, rank = int(seeds.blueprint[s]), int(seeds.rank[s])
    down, up = seeds.down[s, :, :width].double(), seeds.up[s, :, :width].double()
    alpha = seeds.alpha[s].double()
    y = x
    if alpha != 0 and kind in FUSED and width:
        if kind == Blueprint.NORM:
            centred = x - x.mean(1, keepdim=True)
            spread = (centred.square().mean(1, keepdim=True) + NORM_EPSILON).sqrt()
            f = centred / spread * up[0] + up[1]
        else:
            hidden = x @ down[:rank].T
            if kind == Blueprint.MLP:
                hidden = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
            f = hidden @ up[:rank]
        y = x + alpha * f
    sums = torch.stack([
        torch.tensor(float(x.numel()), dtype=torch.float64),
        x.sum(), x.square().sum(), (x.abs() <= DEAD_BELOW).double().sum(),
        (y - x).square().sum(), x.sum(1).square().sum(),
    ])  # fmt: skip
    return y, sums


def reference_tokens(x: Tensor, seed_of: Tensor, seeds: SeedTensors) -> tuple[Tensor, Tensor]:
    """`seed_tokens` for x (tokens, width) and one index a token, in fp64: y and the sums."""
    x = x.double()
    y, sums = x.clone(), []
    for s in range(len(seeds.alpha)):
        mine = seed_of == s
        out, saw = _seed(x[mine], seeds, s)
        y = y.masked_scatter(mine[:, None], out)
        sums.append(saw)
    return y, torch.stack(sums)


def reference_chunks(x: Tensor, seeds: SeedTensors) -> tuple[Tensor, Tensor]:
    """`seed_chunks` for x (tokens, columns), in fp64: y and the sums."""
    parts = torch.tensor_split(x.double(), len(seeds.alpha), dim=1)
    outs = [_seed(part, seeds, s) for s, part in enumerate(parts)]
    return torch.cat([out for out, _ in outs], 1), torch.stack([saw for _, saw in outs])
