"""Which seeds are computed together in batched torch operations, and where their tokens are.

Seeds that act and have about as many tokens form one batch. Tokens are sorted by seed; batches are cut at
powers of two of a seed's number of tokens, so that padding at most doubles the work and even a very
uneven load needs no more than log2(tokens) batches for each kind of formula. Where a batch's tokens lie
in even blocks, as in chunk routing, a view stands for the gathering.

All of it is decided on the host by numpy: for a thousand seeds that takes less time than as many torch
operations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seedbed.crds.errors import InvalidError
from seedbed.kernels.blueprints import Blueprint

Pick = slice | Tensor
Mask = NDArray[np.bool_]
Indexes = NDArray[np.int64]
View = Callable[[Tensor], Tensor]


class State(NamedTuple):
    """What the kernels need of all seeds of one layer; the entries past a seed's rank must be finite.

    Attributes:
        down: (S, R, w), floating. A row is a direction that the seed reads (peft's `lora_A.weight`).
        up: (S, R, w), floating. A row is a direction that it writes (peft's `lora_B.weight` transposed).
        alpha: (S,) fp32, the seed's share in the output; zero for a seed that does not act.
        rank: (S,) int32, how many rows the seed uses.
        blueprint: (S,) int32, see `blueprints.Blueprint`.
    """

    down: Tensor
    up: Tensor
    alpha: Tensor
    rank: Tensor
    blueprint: Tensor

    def part(self, start: int, stop: int, width: int) -> State:
        """The seeds from start to stop, with as many columns."""
        cut = slice(start, stop)
        return State(
            self.down[cut, :, :width], self.up[cut, :, :width],
            self.alpha[cut], self.rank[cut], self.blueprint[cut],
        )  # fmt: skip


class Batch(NamedTuple):
    """Which seeds go through one formula together, and where their tokens are.

    Attributes:
        formula: 0 for low rank and MLP, 1 for norm.
        pick: the seeds.
        view: shows a tensor of tokens by seed, (seeds, n, w), where they lie in even blocks.
        within: which of the view's seeds are the batch's.
        tokens: (G * n,) positions of their tokens otherwise; a short seed's last one is repeated.
        real: (G, n, 1), False where a position only repeats; None when all are real.
    """

    formula: int
    pick: Pick
    view: View | None = None
    within: Pick = slice(None)
    tokens: Tensor | None = None
    real: Tensor | None = None

    def take(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """The batch's tokens, (G, n, w)."""
        if self.view is not None:
            return self.view(tensor)[self.within].to(dtype)
        assert self.tokens is not None
        return tensor.index_select(0, self.tokens).view(*self._shape(), -1).to(dtype)

    def put(self, tensor: Tensor, value: Tensor) -> None:
        """Writes the batch's tokens; repeated ones have the same value."""
        if self.view is not None:
            self.view(tensor)[self.within] = value
        else:
            assert self.tokens is not None
            tensor.index_copy_(0, self.tokens, value.view(-1, value.shape[2]))

    def _shape(self) -> tuple[int, int]:
        assert self.tokens is not None
        seeds = self.pick.stop - self.pick.start if isinstance(self.pick, slice) else len(self.pick)
        return seeds, len(self.tokens) // seeds


def _host(tensor: Tensor) -> NDArray[Any]:
    return tensor.numpy(force=tensor.requires_grad or not tensor.is_cpu)


def _pick(chosen: Mask | Indexes, device: torch.device) -> Pick | None:
    """The seeds of a mask, or these seeds, as a slice when they lie side by side."""
    where = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
    if not len(where):
        return None
    if where[-1] - where[0] + 1 == len(where):
        return slice(int(where[0]), int(where[-1]) + 1)
    return torch.from_numpy(where).to(device)


def _acting(state: State) -> tuple[Mask, Mask]:
    """Masks of the seeds that act, by formula: low rank and MLP; norm."""
    kind = _host(state.blueprint)
    alive = _host(state.alpha) != 0
    linear = (kind == int(Blueprint.LOW_RANK)) | (kind == int(Blueprint.MLP))
    return alive & linear, alive & (kind == int(Blueprint.NORM))


def even(state: State, view: View) -> Iterator[Batch]:
    """Batches of seeds that all have the same number of tokens, in blocks."""
    for formula, acting in enumerate(_acting(state)):
        pick = _pick(acting, state.alpha.device)
        if pick is not None:
            yield Batch(formula, pick, view, pick)


def _cut(counts: Indexes, state: State) -> Iterator[Batch]:
    """Batches for tokens that are sorted by seed, from each seed's number of them."""
    device = state.alpha.device
    starts = np.cumsum(counts) - counts
    sizes = np.ceil(np.log2(np.maximum(counts, 1))).astype(np.int64)
    for formula, acting in enumerate(_acting(state)):
        busy = acting & (counts > 0)
        for size in np.flatnonzero(np.bincount(sizes[busy])):
            seeds = np.flatnonzero(busy & (sizes == size))
            mine = counts[seeds, None]
            most = int(mine.max())
            pick = _pick(seeds, device)
            assert pick is not None
            same = bool((mine == most).all())
            if same and isinstance(pick, slice):
                yield Batch(formula, pick, _block(int(starts[pick.start]), len(seeds), most))
                continue
            steps = np.arange(most)
            places = starts[seeds, None] + np.minimum(steps, mine - 1)
            yield Batch(
                formula, pick, tokens=torch.from_numpy(places.reshape(-1)).to(device),
                real=None if same else torch.from_numpy(steps < mine).to(device)[..., None],
            )  # fmt: skip


def _block(first: int, seeds: int, each: int) -> View:
    """A view of some tokens by seed, (seeds, each, w)."""
    return lambda tensor: tensor[first : first + seeds * each].view(seeds, each, -1)


def plan_tokens(seed_of: Tensor, seeds: int) -> Tensor:
    """What must be known of an assignment of tokens to seeds, int64 (T + S + 2,), on the host.

    The tokens sorted by seed, those without one last; then where each seed's begin, where those without
    a seed do, and T.
    """
    wanted = _host(seed_of)
    # numpy sorts 16-bit integers by radix
    small = np.int16 if seeds < np.iinfo(np.int16).max else np.int64
    mine = np.where((wanted < 0) | (wanted >= seeds), seeds, wanted).astype(small)
    counts = np.bincount(mine, minlength=seeds + 1)
    starts = np.concatenate([[0], np.cumsum(counts)])
    return torch.from_numpy(np.concatenate([np.argsort(mine, kind="stable"), starts]))


def check_plan(plan: Tensor, tokens: int, seeds: int) -> None:
    """That it can be one of `plan_tokens` for so many tokens and seeds.

    Raises:
        InvalidError: it is that of another assignment.
    """
    if plan.dtype != torch.int64 or plan.shape != (tokens + seeds + 2,) or not plan.is_cpu:
        raise InvalidError("plan", "is of another device, or another number of tokens or seeds")


class Routing(NamedTuple):
    """Of one assignment of T tokens to S seeds.

    Attributes:
        order: the tokens sorted by seed, those without one last; None where they come sorted.
        places: where each token stands in that order.
        counts: tokens of each seed; None where, once sorted, they lie in even blocks, one for each seed.
    """

    order: Tensor | None
    places: Tensor | None
    counts: Indexes | None

    @classmethod
    def of(cls, plan: Tensor, tokens: int, device: torch.device) -> Routing:
        """From a plan of `plan_tokens`."""
        host = _host(plan)
        order, each = host[:tokens], np.diff(host[tokens:-1])
        counts = None if tokens and each.min() * len(each) == tokens else each
        steps = np.arange(tokens)
        if np.array_equal(order, steps):
            return cls(None, None, counts)
        places = np.empty_like(order)
        places[order] = steps
        return cls(torch.from_numpy(order).to(device), torch.from_numpy(places).to(device), counts)

    def named(self, seeds: int, tokens: int, device: torch.device) -> Tensor:
        """The seed of each token in the order of work, (T,); S for none."""
        if self.counts is None:
            return torch.arange(seeds, device=device).repeat_interleave(tokens // seeds)
        counts = torch.from_numpy(self.counts)
        each = torch.cat([counts, (tokens - counts.sum())[None]])
        return torch.arange(seeds + 1).repeat_interleave(each, output_size=tokens).to(device)

    def into(self, tensor: Tensor) -> Tensor:
        """Tokens in the order of work."""
        return tensor if self.order is None else tensor.index_select(0, self.order)

    def back(self, tensor: Tensor) -> Tensor:
        """Tokens in the order in which they came."""
        return tensor if self.places is None else tensor.index_select(0, self.places)

    def batches(self, state: State) -> Iterator[Batch]:
        """Of the tokens in the order of work."""
        seeds = len(state.alpha)
        if self.counts is not None:
            return _cut(self.counts, state)
        return even(state, lambda tensor: tensor.view(seeds, -1, tensor.shape[1]))
