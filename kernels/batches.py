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
        plain: as for a Group.
    """

    formula: int
    pick: Pick
    view: View | None = None
    within: Pick = slice(None)
    tokens: Tensor | None = None
    real: Tensor | None = None
    plain: bool = False

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


def plain(state: State) -> bool:
    """Whether all seeds act and are LOW_RANK of full rank: the usual layer, and the cheapest to look at."""
    return (
        bool(_host(state.alpha).all())
        and not bool(_host(state.blueprint).any())
        and bool(_host(state.rank).min() >= state.down.shape[1])
    )


def _acting(state: State) -> tuple[Mask, Mask]:
    """Masks of the seeds that act, by formula: low rank and MLP; norm."""
    kind = _host(state.blueprint)
    alive = _host(state.alpha) != 0
    linear = (kind == int(Blueprint.LOW_RANK)) | (kind == int(Blueprint.MLP))
    return alive & linear, alive & (kind == int(Blueprint.NORM))


def even(state: State, view: View) -> Iterator[Batch]:
    """Batches of seeds that all have the same number of tokens, in blocks."""
    if plain(state):
        everybody = slice(0, state.alpha.shape[0])
        yield Batch(0, everybody, view, everybody, plain=True)
        return
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


def _in_blocks(wanted: NDArray[Any], seeds: int) -> bool:
    """Whether each seed in turn has as many tokens side by side."""
    if not len(wanted) or len(wanted) % seeds or wanted[0] != 0 or wanted[-1] != seeds - 1:
        return False
    each = np.arange(seeds, dtype=wanted.dtype)[:, None]
    return bool((wanted.reshape(seeds, -1) == each).all())


def _inverse(numbers: NDArray[Any]) -> Indexes:
    """Where each of [0, n) stands among n such numbers; -1 for one that is missing."""
    found = np.full(len(numbers), -1)
    found[numbers] = np.arange(len(numbers))
    return found


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
    def of(cls, seed_of: Tensor, seeds: int, plan: Tensor | None = None) -> Routing:
        """Of this assignment: even blocks, sorted, or anything; what `packed` gave need not be found.

        Raises:
            InvalidError: the plan is that of another assignment.
        """
        if plan is not None:
            return cls._unpacked(plan, seed_of.shape[0], seeds)
        wanted = _host(seed_of)
        tokens = len(wanted)
        if _in_blocks(wanted, seeds):
            return BLOCKS
        # a negative number without its sign is a large one
        outside = tokens and wanted.view(f"u{wanted.itemsize}").max() >= seeds
        if tokens == seeds and not outside:
            inverse = _inverse(wanted)
            if inverse.min() >= 0:
                return cls(torch.from_numpy(inverse).to(seed_of.device), seed_of.long(), None)
        if outside:
            wanted = np.where((wanted < 0) | (wanted >= seeds), seeds, wanted)
        # numpy sorts 16-bit integers by radix
        small = wanted.astype(np.int16 if seeds < np.iinfo(np.int16).max else np.int64)
        found: Indexes | None = np.bincount(small, minlength=seeds + 1)[:seeds]
        assert found is not None
        if bool(np.greater_equal(small[1:], small[:-1]).all()):
            return cls(None, None, found)
        order = np.argsort(small, kind="stable")
        places = _inverse(order)
        if int(found.min()) * seeds == tokens:
            found = None
        device = seed_of.device
        return cls(torch.from_numpy(order).to(device), torch.from_numpy(places).to(device), found)

    def packed(self) -> Tensor:
        """All of it as one int64 tensor, which an operator of torch can be given."""
        parts = [part for part in (self.order, self.places) if part is not None]
        if self.counts is not None:
            parts.append(torch.from_numpy(self.counts))
        return torch.cat(parts) if parts else torch.empty(0, dtype=torch.int64)

    @classmethod
    def _unpacked(cls, plan: Tensor, tokens: int, seeds: int) -> Routing:
        """Its length tells of which kind it is. Even blocks need as many tokens as seeds at least."""
        length = plan.shape[0]
        if tokens >= seeds and tokens % seeds == 0 and length in (0, 2 * tokens):
            if not length:
                return BLOCKS
            order, places = plan.chunk(2)
            return cls(order, places, None)
        if length == seeds:
            return cls(None, None, _host(plan))
        if length != 2 * tokens + seeds:
            raise InvalidError("plan", "is of another number of tokens or seeds")
        return cls(plan[:tokens], plan[tokens : 2 * tokens], _host(plan[2 * tokens :]))

    def named(self, seeds: int, tokens: int, device: torch.device) -> Tensor:
        """The seed of each token in the order of work, (T,); S for none."""
        if self.counts is None:
            return torch.arange(seeds, device=device).repeat_interleave(tokens // seeds)
        counts = torch.from_numpy(self.counts)
        each = torch.cat([counts, (tokens - counts.sum())[None]])
        return torch.arange(seeds + 1).repeat_interleave(each, output_size=tokens).to(device)

    def even(self, tokens: int) -> bool:
        """Whether all seeds have as many tokens, and every token has a seed."""
        if self.counts is None:
            return True
        return tokens > 0 and int(self.counts.min()) * len(self.counts) == tokens

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


BLOCKS = Routing(None, None, None)
"""Of tokens that come in even blocks, one for each seed in turn."""
