"""Both routings in batched torch operations: no loop over seeds.

Seeds that act and have about as many tokens form one batch. Tokens are sorted by seed; batches are cut at
powers of two of a seed's number of tokens, so that padding at most doubles the work and even a very
uneven load needs no more than log2(tokens) batches for each kind of formula. Where a batch's tokens lie
in even blocks, as in chunk routing, a view stands for the gathering.

Which seeds act is decided on the host by numpy: for a thousand seeds that takes a tenth of the time of
as many torch operations. On a GPU it would wait for the device, so there the fused kernels run instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seedbed.kernels import formulas
from seedbed.kernels.blueprints import Blueprint
from seedbed.kernels.formulas import Gradients, Group
from seedbed.kernels.telemetry import DEAD_BELOW, Measure

Pick = slice | Tensor
Mask = NDArray[np.bool_]
Indexes = NDArray[np.int64]
View = Callable[[Tensor], Tensor]
Formula = Callable[[Group, Tensor | None], Tensor]
Backward = Callable[[Group, Tensor], Gradients]
FORMULAS: tuple[tuple[Formula, Backward], ...] = (
    (formulas.low_rank, formulas.low_rank_backward),
    (formulas.norm, formulas.norm_backward),
)


class State(NamedTuple):
    """A layer's seeds, as the operators receive them."""

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
        formula: index into FORMULAS.
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
    return tensor.numpy(force=True)


def _pick(chosen: Mask | Indexes, device: torch.device) -> Pick | None:
    """The seeds of a mask, or these seeds, as a slice when they lie side by side."""
    where = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen
    if not len(where):
        return None
    if where[-1] - where[0] + 1 == len(where):
        return slice(int(where[0]), int(where[-1]) + 1)
    return torch.from_numpy(where).to(device)


def _plain(state: State) -> bool:
    """Whether all seeds act and are LOW_RANK of full rank: the usual layer, and the cheapest to look at."""
    return (
        bool(_host(state.alpha).all())
        and not bool(_host(state.blueprint).any())
        and bool(_host(state.rank).min() >= state.down.shape[1])
    )


def _at_once(by_seed: Tensor, state: State) -> Tensor:
    """Output (S, n, w) of a plain layer whose tokens lie in even blocks."""
    hidden = torch.bmm(by_seed, state.down.transpose(1, 2)).mul_(state.alpha[:, None, None])
    return torch.baddbmm(by_seed, hidden, state.up)


def _one_dtype(x: Tensor, state: State) -> bool:
    return x.dtype == state.down.dtype == state.alpha.dtype == torch.float32


def _acting(state: State) -> tuple[Mask, Mask]:
    """Masks of the seeds that act, by formula: low rank and MLP; norm."""
    kind = _host(state.blueprint)
    alive = _host(state.alpha) != 0
    linear = (kind == int(Blueprint.LOW_RANK)) | (kind == int(Blueprint.MLP))
    return alive & linear, alive & (kind == int(Blueprint.NORM))


def _even(state: State, view: View) -> Iterator[Batch]:
    """Batches of seeds that all have the same number of tokens, in blocks."""
    if _plain(state):
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
            even = bool((mine == most).all())
            if even and isinstance(pick, slice):
                yield Batch(formula, pick, _block(int(starts[pick.start]), len(seeds), most))
                continue
            steps = np.arange(most)
            places = starts[seeds, None] + np.minimum(steps, mine - 1)
            yield Batch(
                formula, pick, tokens=torch.from_numpy(places.reshape(-1)).to(device),
                real=None if even else torch.from_numpy(steps < mine).to(device)[..., None],
            )  # fmt: skip


def _block(first: int, seeds: int, each: int) -> View:
    """A view of some tokens by seed, (seeds, each, w)."""
    return lambda tensor: tensor[first : first + seeds * each].view(seeds, each, -1)


def _group(x: Tensor, state: State, batch: Batch) -> Group:
    pick, dtype = batch.pick, x.dtype
    return Group(
        x, state.down[pick].to(dtype), state.up[pick].to(dtype), state.alpha[pick].to(dtype),
        state.rank[pick], state.blueprint[pick], batch.plain,
    )  # fmt: skip


def _arithmetic(x: Tensor) -> torch.dtype:
    """Half precision is computed in fp32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _forward(y: Tensor, batches: Iterator[Batch], state: State, change: Tensor | None) -> None:
    """Adds to y in place what the seeds add; where asked, with what each changed."""
    for batch in batches:
        group = _group(batch.take(y, y.dtype), state, batch)
        apply = FORMULAS[batch.formula][0]
        if change is None and batch.view is not None and isinstance(batch.within, slice):
            apply(group, group.x)
            continue
        added = apply(group, None)
        if change is not None:
            counted = added if batch.real is None else added * batch.real
            change[batch.pick] = counted.square().sum((1, 2)).to(change.dtype)
        batch.put(y, added.add_(group.x))


def _backward(
    grad: Tensor, x: Tensor, batches: Iterator[Batch], state: State, out: Gradients
) -> None:
    """Adds the seeds' gradients to `out`, whose x starts as grad and whose others start as zero."""
    dtype = _arithmetic(x)
    for batch in batches:
        coming = batch.take(grad, dtype)
        masked = coming if batch.real is None else coming * batch.real
        group = _group(batch.take(x, dtype), state, batch)
        found = FORMULAS[batch.formula][1](group, masked)
        out.down[batch.pick] = found.down.to(out.down.dtype)
        out.up[batch.pick] = found.up.to(out.up.dtype)
        out.alpha[batch.pick] = found.alpha.to(out.alpha.dtype)
        added = found.x
        if batch.real is not None:  # repeated positions must all carry the real one's value
            last = batch.real.sum(1, keepdim=True).clamp(min=1) - 1
            end = added.gather(1, last.expand(-1, 1, added.shape[2]))
            added = torch.where(batch.real, added, end)
        batch.put(out.x, added + coming)


def _zeros(grad: Tensor, x: Tensor, state: State) -> Gradients:
    return Gradients(
        grad.to(_arithmetic(x), copy=True), torch.zeros_like(state.down),
        torch.zeros_like(state.up), torch.zeros_like(state.alpha),
    )  # fmt: skip


def _saw(rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Sums of each token's columns, (..., 6), for `rows` (..., width)."""
    wide = rows.to(dtype)
    total = wide.sum(-1)
    columns = (
        torch.full_like(total, float(rows.shape[-1])), total, torch.linalg.vecdot(wide, wide),
        torch.count_nonzero(wide.abs() <= DEAD_BELOW, -1).to(dtype), torch.zeros_like(total),
        total.square(),
    )  # fmt: skip
    return torch.stack(columns, -1)


class Routing(NamedTuple):
    """Of one assignment of tokens to S seeds.

    Attributes:
        named: (T,) the seed of each token in the order of work; S for none.
        order: the tokens sorted by seed; None where they come sorted.
        counts: tokens of each seed, where the blocks are not even.
    """

    named: Tensor
    order: Tensor | None
    counts: Indexes | None

    @classmethod
    def of(cls, seed_of: Tensor, seeds: int) -> Routing:
        """Looks at the assignment: even blocks, sorted, or anything."""
        wanted = _host(seed_of)
        tokens = len(wanted)
        if tokens and tokens % seeds == 0:
            blocks = wanted.reshape(seeds, -1)
            if bool((blocks == np.arange(seeds, dtype=wanted.dtype)[:, None]).all()):
                return cls(seed_of.long(), None, None)
        small = np.where((wanted < 0) | (wanted >= seeds), seeds, wanted)
        # numpy sorts 16-bit integers by radix
        small = small.astype(np.int16 if seeds < np.iinfo(np.int16).max else np.int64)
        counts = np.bincount(small, minlength=seeds + 1)[:seeds]
        if bool((small[1:] >= small[:-1]).all()):
            index = torch.from_numpy(small.astype(np.int64)).to(seed_of.device)
            return cls(index, None, counts)
        sorting = np.argsort(small, kind="stable")
        index = torch.from_numpy(small[sorting].astype(np.int64)).to(seed_of.device)
        return cls(index, torch.from_numpy(sorting).to(seed_of.device), counts)

    def into(self, tensor: Tensor) -> Tensor:
        """Tokens in the order of work."""
        return tensor if self.order is None else tensor.index_select(0, self.order)

    def back(self, tensor: Tensor) -> Tensor:
        """Tokens in the order in which they came."""
        if self.order is None:
            return tensor
        places = torch.empty_like(self.order)
        places[self.order] = torch.arange(len(places), device=places.device)
        return tensor.index_select(0, places)

    def batches(self, state: State) -> Iterator[Batch]:
        """Of the tokens in the order of work."""
        seeds = len(state.alpha)
        if self.counts is not None:
            return _cut(self.counts, state)
        return _even(state, lambda tensor: tensor.view(seeds, -1, tensor.shape[1]))


def tokens_forward(
    x: Tensor, seed_of: Tensor, state: State, *, telemetry: bool
) -> tuple[Tensor, Tensor]:
    """Output (T, w), and the sums (S, 6), or (0, 6) where not asked."""
    seeds = len(state.alpha)
    routing = Routing.of(seed_of, seeds)
    if not telemetry and routing.counts is None and _one_dtype(x, state) and _plain(state):
        y = _at_once(x.view(seeds, -1, x.shape[1]), state)
        return y.view(x.shape), x.new_empty((0, len(Measure)))
    mine = routing.into(x)
    sums = x.new_zeros((seeds + 1 if telemetry else 0, len(Measure)), dtype=_arithmetic(x))
    change = None
    if telemetry:
        sums.scatter_add_(
            0, routing.named[:, None].expand(-1, len(Measure)), _saw(mine, sums.dtype)
        )
        sums = sums[:seeds]
        change = sums[:, Measure.CHANGE]
    y = mine.to(_arithmetic(x), copy=mine is x)
    _forward(y, routing.batches(state), state, change)
    return routing.back(y.to(x.dtype)), sums.float()


def tokens_backward(grad: Tensor, x: Tensor, seed_of: Tensor, state: State) -> Gradients:
    """Gradients of `tokens_forward`."""
    routing = Routing.of(seed_of, len(state.alpha))
    coming = routing.into(grad)
    out = _zeros(coming, x, state)
    _backward(coming, routing.into(x), routing.batches(state), state, out)
    return out._replace(x=routing.back(out.x.to(x.dtype)))


def _regions(columns: int, seeds: int) -> Iterator[tuple[int, int, int, int]]:
    """Where chunks have one width: (first seed, last seed + 1, first column, width)."""
    width, wider = divmod(columns, seeds)
    if wider:
        yield 0, wider, 0, width + 1
    if width:
        yield wider, seeds, wider * (width + 1), width


def _columns(start: int, stop: int, column: int, width: int) -> Callable[[Tensor], Tensor]:
    """A view of a region's columns by seed: (T, columns) to (S, T, width)."""
    end = column + (stop - start) * width

    def by_seed(tensor: Tensor) -> Tensor:
        return tensor[:, column:end].view(len(tensor), stop - start, width).transpose(0, 1)

    return by_seed


def chunks_forward(
    x: Tensor,
    state: State,
    *,
    telemetry: bool,
) -> tuple[Tensor, Tensor]:
    """Output (T, columns), and the sums (S, 6), or (0, 6) where not asked."""
    seeds, columns = state.alpha.shape[0], x.shape[1]
    if not telemetry and columns % seeds == 0 and _one_dtype(x, state) and _plain(state):
        y = _at_once(x.view(len(x), seeds, columns // seeds).transpose(0, 1), state)
        return y.transpose(0, 1).reshape(x.shape), x.new_empty((0, len(Measure)))
    sums = x.new_zeros((seeds if telemetry else 0, len(Measure)), dtype=_arithmetic(x))
    y = x.to(_arithmetic(x), copy=True)
    for start, stop, column, width in _regions(x.shape[1], seeds):
        view = _columns(start, stop, column, width)
        part = state.part(start, stop, width)
        change = None
        if telemetry:
            sums[start:stop] = _saw(view(x), sums.dtype).sum(1)
            change = sums[start:stop, Measure.CHANGE]
        _forward(y, _even(part, view), part, change)
    return y.to(x.dtype), sums.float()


def chunks_backward(grad: Tensor, x: Tensor, state: State) -> Gradients:
    """Gradients of `chunks_forward`."""
    seeds = len(state.alpha)
    out = _zeros(grad, x, state)
    for start, stop, column, width in _regions(x.shape[1], seeds):
        part = state.part(start, stop, width)
        mine = Gradients(
            out.x, out.down[start:stop, :, :width], out.up[start:stop, :, :width],
            out.alpha[start:stop],
        )  # fmt: skip
        view = _columns(start, stop, column, width)
        _backward(grad, x, _even(part, view), part, mine)
    return out._replace(x=out.x.to(x.dtype))
