"""Both routings in batched torch operations: no loop over seeds, on any device.

Seeds that act and have about as many tokens form one batch. Tokens are sorted by seed; batches are cut at
powers of two of a seed's number of tokens, so that padding at most doubles the work and even a very
uneven load needs no more than log2(tokens) batches for each kind of formula. Where the tokens already lie
in even blocks, as in chunk routing, a view stands for the sorting and nothing is copied.

This path looks at the tensors to find its batches: on a GPU that would wait for the device, so there the
fused kernels run instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from seedbed.kernels import formulas
from seedbed.kernels.blueprints import FUSED, Blueprint
from seedbed.kernels.formulas import Gradients, Group
from seedbed.kernels.telemetry import DEAD_BELOW, Measure

Pick = slice | Tensor
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
        tokens: (G, n) positions of their tokens; short rows repeat the last one. None for even blocks.
        real: (G, n), False where a position only repeats; None when all are real.
    """

    formula: int
    pick: Pick
    tokens: Tensor | None
    real: Tensor | None


def _picked(chosen: Tensor) -> Pick | None:
    """The indexes where the mask is true, as a slice when they lie side by side."""
    where = chosen.nonzero().squeeze(1)
    if not where.numel():
        return None
    first, last = int(where[0]), int(where[-1])
    return slice(first, last + 1) if last - first + 1 == where.numel() else where


def _acting(state: State) -> tuple[Tensor, Tensor]:
    """Masks of the seeds that act, by formula: low rank and MLP; norm."""
    alive = state.alpha != 0
    norm = alive & (state.blueprint == Blueprint.NORM)
    linear = alive & (state.blueprint >= 0) & (state.blueprint <= max(FUSED)) & ~norm
    return linear, norm


def _even(state: State) -> Iterator[Batch]:
    """Batches of seeds that all have the same number of tokens, in blocks."""
    for formula, acting in enumerate(_acting(state)):
        pick = _picked(acting)
        if pick is not None:
            yield Batch(formula, pick, None, None)


def _sorted(seed_of: Tensor, state: State) -> Iterator[Batch]:
    """Batches for any assignment of tokens to seeds; `seed_of` is within [0, S], S for none."""
    seeds = len(state.alpha)
    ordered = bool((seed_of[1:] >= seed_of[:-1]).all())
    order = None if ordered else torch.argsort(seed_of, stable=True)
    counts = torch.bincount(seed_of, minlength=seeds + 1)[:seeds]
    starts = counts.cumsum(0) - counts
    sizes = torch.log2(counts.clamp(min=1).double()).ceil().long()
    for formula, acting in enumerate(_acting(state)):
        busy = acting & (counts > 0)
        for size in torch.bincount(sizes[busy]).nonzero().squeeze(1).tolist():
            pick = _picked(busy & (sizes == size))
            assert pick is not None
            mine = counts[pick, None]
            steps = torch.arange(int(mine.max()), device=mine.device)
            places = starts[pick, None] + torch.minimum(steps, mine - 1)
            real = None if bool((mine == len(steps)).all()) else steps < mine
            yield Batch(formula, pick, places if order is None else order[places], real)


def _blocks(seed_of: Tensor, seeds: int) -> bool:
    """Whether the tokens lie in even blocks in the order of the seeds."""
    if not len(seed_of) or len(seed_of) % seeds:
        return False
    each = torch.arange(seeds, device=seed_of.device, dtype=seed_of.dtype)
    return bool((seed_of.view(seeds, -1) == each[:, None]).all())


def _group(x: Tensor, state: State, pick: Pick, dtype: torch.dtype) -> Group:
    return Group(
        x.to(dtype), state.down[pick].to(dtype), state.up[pick].to(dtype),
        state.alpha[pick].to(dtype), state.rank[pick], state.blueprint[pick],
    )  # fmt: skip


def _arithmetic(x: Tensor) -> torch.dtype:
    """Half precision is computed in fp32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _forward(
    x: Tensor, by_seed: Callable[[Tensor], Tensor], batches: Iterator[Batch], state: State,
    change: Tensor | None,
) -> Tensor:  # fmt: skip
    """Output for x; `by_seed` views a tensor shaped as x as (S, n, w) when a batch has no positions."""
    dtype = _arithmetic(x)
    y = x.to(dtype, copy=True)
    for formula, pick, tokens, real in batches:
        mine = by_seed(x)[pick] if tokens is None else x[tokens]
        group = _group(mine, state, pick, dtype)
        apply = FORMULAS[formula][0]
        target = by_seed(y)[pick] if tokens is None else None
        if change is None and target is not None and isinstance(pick, slice):
            apply(group, target)
            continue
        added = apply(group, None)
        if change is not None:
            counted = added if real is None else added * real[..., None]
            change[pick] = counted.square().sum((1, 2)).to(change.dtype)
        if tokens is None:
            by_seed(y)[pick] += added
        else:
            y[tokens] = group.x + added
    return y.to(x.dtype)


def _backward(
    grad: Tensor, x: Tensor, by_seed: Callable[[Tensor], Tensor], batches: Iterator[Batch],
    state: State, out: Gradients,
) -> None:  # fmt: skip
    """Adds the seeds' gradients to `out`, whose x starts as grad and whose others start as zero."""
    dtype = _arithmetic(x)
    for formula, pick, tokens, real in batches:
        mine = by_seed(x)[pick] if tokens is None else x[tokens]
        coming = (by_seed(grad)[pick] if tokens is None else grad[tokens]).to(dtype)
        if real is not None:
            coming = coming * real[..., None]
        found = FORMULAS[formula][1](_group(mine, state, pick, dtype), coming)
        out.down[pick] = found.down.to(out.down.dtype)
        out.up[pick] = found.up.to(out.up.dtype)
        out.alpha[pick] = found.alpha.to(out.alpha.dtype)
        if tokens is None:
            by_seed(out.x)[pick] += found.x
        elif real is None:
            out.x[tokens] += found.x
        else:
            out.x[tokens[real]] += found.x[real]


def _zeros(grad: Tensor, x: Tensor, state: State) -> Gradients:
    return Gradients(
        grad.to(_arithmetic(x), copy=True), torch.zeros_like(state.down),
        torch.zeros_like(state.up), torch.zeros_like(state.alpha),
    )  # fmt: skip


def _saw(rows: Tensor, width: Tensor | int, dtype: torch.dtype) -> Tensor:
    """Sums of each token's columns, (tokens, ..., 6), for `rows` (tokens, ..., width)."""
    wide = rows.to(dtype)
    total = wide.sum(-1)
    columns = (
        torch.full_like(total, float(width)), total, wide.square().sum(-1),
        (wide.abs() <= DEAD_BELOW).sum(-1).to(dtype), torch.zeros_like(total), total.square(),
    )  # fmt: skip
    return torch.stack(columns, -1)


def tokens_forward(
    x: Tensor,
    seed_of: Tensor,
    state: State,
    *,
    telemetry: bool,
) -> tuple[Tensor, Tensor]:
    """Output (T, w), and the sums (S, 6), or (0, 6) where not asked."""
    seeds = len(state.alpha)
    batches, by_seed, index = _route(seed_of, state)
    sums = x.new_zeros((seeds + 1 if telemetry else 0, len(Measure)), dtype=_arithmetic(x))
    if telemetry:
        sums.index_add_(0, index, _saw(x, x.shape[1], sums.dtype))
        sums = sums[:seeds]
    change = sums[:, Measure.CHANGE] if telemetry else None
    return _forward(x, by_seed, batches, state, change), sums.float()


def tokens_backward(grad: Tensor, x: Tensor, seed_of: Tensor, state: State) -> Gradients:
    """Gradients of `tokens_forward`."""
    batches, by_seed, _ = _route(seed_of, state)
    out = _zeros(grad, x, state)
    _backward(grad, x, by_seed, batches, state, out)
    return out._replace(x=out.x.to(x.dtype))


def _route(
    seed_of: Tensor, state: State
) -> tuple[Iterator[Batch], Callable[[Tensor], Tensor], Tensor]:
    """The batches, the view for those without positions, and the index with S for "no seed"."""
    seeds = len(state.alpha)
    index = seed_of.long()
    index = torch.where((index < 0) | (index >= seeds), seeds, index)
    if _blocks(index, seeds):
        return _even(state), lambda t: t.view(seeds, -1, t.shape[1]), index
    return _sorted(index, state), lambda t: t, index


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
    seeds = len(state.alpha)
    sums = x.new_zeros((seeds if telemetry else 0, len(Measure)), dtype=_arithmetic(x))
    y = torch.empty_like(x)
    for start, stop, column, width in _regions(x.shape[1], seeds):
        by_seed = _columns(start, stop, column, width)
        part = state.part(start, stop, width)
        change = None
        if telemetry:
            sums[start:stop] = _saw(by_seed(x), width, sums.dtype).sum(1)
            change = sums[start:stop, Measure.CHANGE]
        end = column + (stop - start) * width
        region = _columns(0, stop - start, 0, width)
        y[:, column:end] = _forward(x[:, column:end], region, _even(part), part, change)
    return y, sums.float()


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
        _backward(grad, x, _columns(start, stop, column, width), _even(part), part, mine)
    return out._replace(x=out.x.to(x.dtype))
