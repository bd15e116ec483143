"""The shapes of `seeds_h200` with their data, and the check of each against the fp64 reference."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from hack.bench.seeds_timing import device, rehearsing
from seedbed.kernels import Blueprint, SeedTensors, seed_chunks, seed_tokens
from seedbed.kernels.reference import reference_chunks, reference_tokens


class Shape(NamedTuple):
    """Tokens a seed, or in all where `each` is 0."""

    seeds: int
    columns: int
    rank: int
    each: int
    tokens: int

    def small(self) -> Shape:
        """The same in little, for a rehearsal."""
        seeds, columns = self.seeds // 128, self.columns // 128
        each = min(self.each, 4)
        return Shape(seeds, columns, self.rank, each, seeds * each or self.tokens // 128)


SHAPES = {
    "D1": Shape(1024, 4096, 16, 1, 1024),
    "M1": Shape(1024, 4096, 16, 16, 16384),
    "L1": Shape(4096, 4096, 8, 4, 16384),
    "H1": Shape(1024, 4096, 64, 64, 65536),
    "C1": Shape(1024, 16384, 16, 0, 8192),
    "Z1": Shape(1024, 4096, 16, 0, 16384),
    "X1": Shape(1024, 4096, 64, 16, 16384),
}


class Case(NamedTuple):
    """One shape with its data on the device. There are no counts where the routing is by chunk."""

    name: str
    shape: Shape
    x: Tensor
    seed_of: Tensor
    state: SeedTensors
    counts: list[int]

    @property
    def even(self) -> bool:
        """Whether all seeds act alike on equally many tokens."""
        return self.name not in {"Z1", "X1"}

    @property
    def logical_bytes(self) -> int:
        """What has to be moved at least."""
        size = self.x.element_size()
        acting = (self.state.alpha != 0).cpu()
        rows = torch.where(acting, self.state.rank.cpu(), 0)
        rows = torch.where(self.state.blueprint.cpu() == int(Blueprint.NORM), acting.int(), rows)
        if self.counts:
            rows = torch.where(torch.tensor(self.counts) > 0, rows, 0)
        return 2 * self.x.numel() * size + 2 * int(rows.sum()) * self.state.down.shape[2] * size


def made(name: str) -> Case:
    """Fresh random data; Zipf's law with exponent 1.5 for Z1; all states and ranks for X1."""
    shape = SHAPES[name].small() if rehearsing() else SHAPES[name]
    where = device()
    like: dict[str, Any] = {"device": where, "dtype": torch.bfloat16}
    width = shape.columns // shape.seeds if name == "C1" else shape.columns
    state = SeedTensors(
        torch.randn(shape.seeds, shape.rank, width, **like) / width**0.5,
        torch.randn(shape.seeds, shape.rank, width, **like) / shape.rank**0.5,
        torch.rand(shape.seeds, device=where) + 0.1,
        torch.full((shape.seeds,), shape.rank, dtype=torch.int32, device=where),
        torch.zeros(shape.seeds, dtype=torch.int32, device=where),
    )
    if name == "X1":
        state.alpha[torch.rand(shape.seeds, device=where) > 0.3] = 0.0
        state.rank.copy_(torch.randint(4, 65, (shape.seeds,)))
        state.blueprint.copy_(torch.randint(0, 3, (shape.seeds,)))
    counts: list[int] = []
    seed_of = torch.zeros(0, dtype=torch.int32, device=where)
    if name != "C1":
        seed_of = torch.arange(shape.seeds).repeat_interleave(max(1, shape.each))
        if name == "Z1":
            weights = torch.arange(1, shape.seeds + 1).double() ** -1.5
            seed_of = torch.multinomial(weights, shape.tokens, replacement=True).sort().values
        counts = torch.bincount(seed_of, minlength=shape.seeds).tolist()
        seed_of = seed_of.int().to(where)
    x = torch.randn(shape.tokens, shape.columns, **like)
    return Case(name, shape, x, seed_of, state, counts)


def worst(case: Case) -> float:
    """Relative L2 error of the fused path, on a part that the reference can do in time.

    Raises:
        AssertionError: a place of the output was not written, or holds nothing finite.
    """
    # The allocator gives the block that was freed last, so a place that nothing writes stays NaN.
    poison = torch.full_like(case.x, float("nan"))
    del poison
    if case.counts:
        y, _ = seed_tokens(case.x, case.seed_of, case.state)
    else:
        y, _ = seed_chunks(case.x, case.state)
    if not bool(torch.isfinite(y).all()):
        raise AssertionError("the output has places that nothing finite was written to")
    if not case.counts:
        few = slice(0, 64)
        part = SeedTensors(*(tensor.cpu() for tensor in case.state))
        want, _ = reference_chunks(case.x[few].cpu(), part)
        return _distance(y[few], want)
    # Where seeds differ in their tokens, the first have the most.
    some = torch.cat([torch.arange(2), 2 + torch.randperm(case.shape.seeds - 2)[:22]]).sort().values
    some = some.to(case.x.device)
    mine = torch.isin(case.seed_of.long(), some)
    within = torch.searchsorted(some, case.seed_of.long()[mine]).cpu()
    part = SeedTensors(*(tensor[some].cpu() for tensor in case.state))
    want, _ = reference_tokens(case.x[mine].cpu(), within, part)
    return _distance(y[mine], want)


def _distance(found: Tensor, want: Tensor) -> float:
    return float((found.cpu().double() - want).norm() / want.norm().clamp(min=1e-9))
