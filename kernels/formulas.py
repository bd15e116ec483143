"""The fused blueprints and their gradients for many seeds at once, in batched torch operations.

Everything is shaped by seed: x (G, n, w) holds n tokens of each of G seeds, `down` and `up` (G, R, w),
`alpha` and `rank` (G,). Arithmetic is in the dtype of x. `grad` is the gradient of the output, with zeros
where a token stands only for padding; a formula returns what the seed adds to the gradient of x, and the
gradients of down, up and alpha.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from seedbed.kernels.blueprints import NORM_EPSILON, Blueprint


class Group(NamedTuple):
    """Seeds that act, all of one kind of formula, with as many tokens each."""

    x: Tensor
    down: Tensor
    up: Tensor
    alpha: Tensor
    rank: Tensor
    blueprint: Tensor


class Gradients(NamedTuple):
    """Of one group."""

    x: Tensor
    down: Tensor
    up: Tensor
    alpha: Tensor


def _idle_rows(group: Group) -> Tensor | None:
    """Mask (G, 1, R) of the rows past each seed's rank; None when all ranks are full."""
    rows = group.down.shape[1]
    if bool((group.rank >= rows).all()):
        return None
    return torch.arange(rows, device=group.rank.device) >= group.rank[:, None, None]


def _is_mlp(group: Group) -> Tensor | None:
    """Mask (G, 1, 1) of the seeds with a gelu; None when there are none."""
    mlp = group.blueprint == Blueprint.MLP
    return mlp[:, None, None] if bool(mlp.any()) else None


def _hidden(group: Group) -> tuple[Tensor, Tensor]:
    """Hidden values before and after the activation, (G, n, R), zero past the rank."""
    before = torch.bmm(group.x, group.down.transpose(1, 2))
    idle, mlp = _idle_rows(group), _is_mlp(group)
    if idle is not None:
        before = before.masked_fill_(idle, 0.0)
    after = before
    if mlp is not None:
        after = torch.where(mlp, torch.nn.functional.gelu(before), before)
    return before, after


def low_rank(group: Group, out: Tensor | None) -> Tensor:
    """What LOW_RANK and MLP seeds add, (G, n, w); with `out`, added to it in place."""
    _, hidden = _hidden(group)
    hidden = hidden * group.alpha[:, None, None]
    if out is None:
        return torch.bmm(hidden, group.up)
    return out.baddbmm_(hidden, group.up)


def low_rank_backward(group: Group, grad: Tensor) -> Gradients:
    """Gradients of `low_rank`, from the inputs alone."""
    before, hidden = _hidden(group)
    alpha = group.alpha[:, None, None]
    upward = torch.bmm(grad, group.up.transpose(1, 2))
    idle, mlp = _idle_rows(group), _is_mlp(group)
    if idle is not None:
        upward = upward.masked_fill_(idle, 0.0)
    of_alpha = (hidden * upward).sum((1, 2))
    of_hidden = upward * alpha
    if mlp is not None:
        normal = 0.5 * (1 + torch.erf(before / math.sqrt(2)))
        slope = normal + before * torch.exp(before.square() / -2) / math.sqrt(2 * math.pi)
        of_hidden = torch.where(mlp, of_hidden * slope, of_hidden)
    return Gradients(
        torch.bmm(of_hidden, group.down),
        torch.bmm(of_hidden.transpose(1, 2), group.x),
        torch.bmm((hidden * alpha).transpose(1, 2), grad),
        of_alpha,
    )


def _normalised(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each token with mean 0 and variance 1 over its columns, and 1 / standard deviation."""
    centred = x - x.mean(-1, keepdim=True)
    inverse = (centred.square().mean(-1, keepdim=True) + NORM_EPSILON).rsqrt()
    return centred * inverse, inverse


def norm(group: Group, out: Tensor | None) -> Tensor:
    """What NORM seeds add, (G, n, w); with `out`, added to it in place."""
    straight, _ = _normalised(group.x)
    scale, shift = (group.up[:, :2] * group.alpha[:, None, None]).unsqueeze(2).unbind(1)
    if out is None:
        return straight * scale + shift
    return out.addcmul_(straight, scale).add_(shift)


def norm_backward(group: Group, grad: Tensor) -> Gradients:
    """Gradients of `norm`, from the inputs alone."""
    straight, inverse = _normalised(group.x)
    alpha = group.alpha[:, None]
    of_scale, of_shift = (grad * straight).sum(1), grad.sum(1)
    of_straight = grad * (group.up[:, 0] * alpha)[:, None]
    of_x = inverse * (
        of_straight
        - of_straight.mean(-1, keepdim=True)
        - straight * (of_straight * straight).mean(-1, keepdim=True)
    )
    of_up = torch.zeros_like(group.up)
    of_up[:, 0], of_up[:, 1] = of_scale * alpha, of_shift * alpha
    of_alpha = (of_scale * group.up[:, 0] + of_shift * group.up[:, 1]).sum(1)
    return Gradients(of_x, torch.zeros_like(group.down), of_up, of_alpha)
