"""Random seed layers for tests, and how far a result is from the fp64 reference."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from seedbed.kernels import Blueprint, SeedTensors

LIMIT = {torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}


def layer(
    seeds: int, rows: int, width: int, dtype: torch.dtype, *, resting: float = 0.4
) -> SeedTensors:
    """Seeds of all blueprints, ranks and shares; about `resting` of them at rest."""
    alpha = torch.rand(seeds) + 0.05
    alpha[torch.rand(seeds) < resting] = 0.0
    alpha[torch.rand(seeds) < 0.1] = 1.0
    return SeedTensors(
        (torch.randn(seeds, rows, width) / width**0.5).to(dtype),
        (torch.randn(seeds, rows, width) / rows**0.5).to(dtype),
        alpha,
        torch.randint(0, rows + 1, (seeds,), dtype=torch.int32),
        torch.randint(0, len(Blueprint), (seeds,), dtype=torch.int32),
    )


def tokens_of(count: int, width: int, dtype: torch.dtype) -> Tensor:
    """Activations with a mean, a few of them dead."""
    x = torch.randn(count, width) + 0.3
    return (x * (torch.rand(count, width) > 0.05)).to(dtype)


def exact_gradients(
    call: Callable[[Tensor, SeedTensors], Tensor], grad: Tensor, x: Tensor, state: SeedTensors
) -> tuple[Tensor, ...]:
    """Gradients of x, down, up and alpha by autograd through the fp64 reference."""
    leaves = [t.detach().double().requires_grad_() for t in (x, state.down, state.up, state.alpha)]
    seeds = SeedTensors(leaves[1], leaves[2], leaves[3], state.rank, state.blueprint)
    torch.autograd.backward(call(leaves[0], seeds), grad.double())
    zero = [torch.zeros_like(leaf) for leaf in leaves]
    return tuple(
        z if leaf.grad is None else leaf.grad for leaf, z in zip(leaves, zero, strict=True)
    )


def errors(**pairs: tuple[Tensor, Tensor]) -> dict[str, float]:
    """Relative L2 error of each (found, exact)."""
    return {
        name: float((found.double() - exact).norm() / exact.norm().clamp(min=1e-12))
        for name, (found, exact) in pairs.items()
    }
