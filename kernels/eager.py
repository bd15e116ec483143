"""Both routings in batched torch operations: no loop over seeds.

It looks at the tensors to find its batches (`batches`). On a GPU that would wait for the device, so there
the fused kernels run instead.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from seedbed.kernels import formulas
from seedbed.kernels.batches import Batch, Routing, State, View, even, plan_tokens
from seedbed.kernels.formulas import Gradients, Group
from seedbed.kernels.telemetry import DEAD_BELOW, Measure

Formula = Callable[[Group, Tensor | None], Tensor]
Backward = Callable[[Group, Tensor], Gradients]
FORMULAS: tuple[tuple[Formula, Backward], ...] = (
    (formulas.low_rank, formulas.low_rank_backward),
    (formulas.norm, formulas.norm_backward),
)


def _group(x: Tensor, state: State, batch: Batch) -> Group:
    pick, dtype = batch.pick, x.dtype
    return Group(
        x, state.down[pick].to(dtype), state.up[pick].to(dtype), state.alpha[pick].to(dtype),
        state.rank[pick], state.blueprint[pick],
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


def _routing(seed_of: Tensor, seeds: int, plan: Tensor | None) -> Routing:
    plan = plan_tokens(seed_of, seeds) if plan is None else plan
    return Routing.of(plan, seed_of.shape[0], seed_of.device)


def tokens_forward(
    x: Tensor, seed_of: Tensor, state: State, plan: Tensor | None = None, *, telemetry: bool
) -> tuple[Tensor, Tensor | None]:
    """Output (T, w), and the sums (S, 6) where asked; `plan` is a `batches.plan_tokens`."""
    tokens, seeds = x.shape[0], state.alpha.shape[0]
    routing = _routing(seed_of, seeds, plan)
    mine = routing.into(x)
    sums = change = None
    if telemetry:
        sums = x.new_zeros((seeds + 1, len(Measure)), dtype=_arithmetic(x))
        named = routing.named(seeds, tokens, x.device)[:, None].expand(-1, len(Measure))
        sums.scatter_add_(0, named, _saw(mine, sums.dtype))
        sums = sums[:seeds]
        change = sums[:, Measure.CHANGE]
    y = mine.to(_arithmetic(x), copy=mine is x)
    _forward(y, routing.batches(state), state, change)
    return routing.back(y.to(x.dtype)), None if sums is None else sums.float()


def tokens_backward(
    grad: Tensor, x: Tensor, seed_of: Tensor, state: State, plan: Tensor | None = None
) -> Gradients:
    """Gradients of `tokens_forward`."""
    routing = _routing(seed_of, len(state.alpha), plan)
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


def _columns(start: int, stop: int, column: int, width: int) -> View:
    """A view of a region's columns by seed: (T, columns) to (S, T, width)."""
    end = column + (stop - start) * width

    def by_seed(tensor: Tensor) -> Tensor:
        return tensor[:, column:end].view(len(tensor), stop - start, width).transpose(0, 1)

    return by_seed


def chunks_forward(x: Tensor, state: State, *, telemetry: bool) -> tuple[Tensor, Tensor | None]:
    """Output (T, columns), and the sums (S, 6) where asked."""
    seeds = state.alpha.shape[0]
    sums = x.new_zeros((seeds, len(Measure)), dtype=_arithmetic(x)) if telemetry else None
    y = x.to(_arithmetic(x), copy=True)
    for start, stop, column, width in _regions(x.shape[1], seeds):
        view = _columns(start, stop, column, width)
        part = state.part(start, stop, width)
        change = None
        if sums is not None:
            sums[start:stop] = _saw(view(x), sums.dtype).sum(1)
            change = sums[start:stop, Measure.CHANGE]
        _forward(y, even(part, view), part, change)
    return y.to(x.dtype), None if sums is None else sums.float()


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
        _backward(grad, x, even(part, view), part, mine)
    return out._replace(x=out.x.to(x.dtype))
