"""Launches the Triton kernels: which kernel, which grid, which block sizes.

All of it follows from shapes and dtypes alone, never from what the tensors hold, so nothing waits for the
device, a CUDA graph may hold any call, and no change of a seed compiles anything. Block sizes have a
default by shape; `tuned` replaces them for one shape, for whoever has measured better ones.

Run with TRITON_INTERPRET=1 the same launches take CPU tensors.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from seedbed.kernels.batches import State
from seedbed.kernels.formulas import Gradients
from seedbed.kernels.fused_backward import tiles_apply, tiles_hidden
from seedbed.kernels.fused_chunks import chunks_backward as narrow_backward
from seedbed.kernels.fused_chunks import chunks_forward as narrow_forward
from seedbed.kernels.fused_tiles import tiles_forward, vector_forward
from seedbed.kernels.route import plan_tokens, tile_bound, tile_rows, unpack
from seedbed.kernels.telemetry import Measure

MOST_ROWS = 256
NARROW = 64
PROGRAMS = 1056  # eight for each multiprocessor of a large GPU


class Blocks(NamedTuple):
    """Sizes of one launch.

    Attributes:
        tokens: tokens a block (the tiles of token routing have `tile_rows` instead).
        read: columns a step of the first pass.
        write: columns a step of the second pass.
        warps: warps a program.
        stages: steps whose loads are under way at once.
    """

    tokens: int
    read: int
    write: int
    warps: int
    stages: int


Shape = tuple[str, int, int, int, int]  # kernel, tokens, seeds, columns, rows
tuned: dict[Shape, Blocks] = {}


def blocks_for(kernel: str, tokens: int, seeds: int, columns: int, rows: int) -> Blocks:
    """The sizes in use for a shape; `kernel` is "tiles", "vector" or "narrow"."""
    found = tuned.get((kernel, tokens, seeds, columns, rows))
    if found is not None:
        return found
    if kernel == "vector":
        wide = max(64, min(1024, 8192 // _power(rows)))
        return Blocks(1, wide, wide, 4, 3)
    if kernel == "narrow":
        return Blocks(64, 0, 0, 4, 3)
    size = tile_rows(tokens, seeds)
    if rows > 32:  # noqa: PLR2004 - a step of 64 columns then moves as much
        return Blocks(size, 64, 64 if size > 32 else 128, 4, 4)  # noqa: PLR2004
    return Blocks(size, 128, 128, 4, 4)


def supports(x: Tensor, state: State) -> bool:
    """Whether the kernels have this dtype and this many rows."""
    return x.dtype in (torch.float32, torch.float16, torch.bfloat16) and (
        state.down.shape[1] <= MOST_ROWS
    )


def _power(number: int) -> int:
    return 1 << max(number - 1, 0).bit_length()


def _interpreted() -> bool:
    """Whether Triton runs its kernels in Python, where a bf16 product has to be taken in fp32."""
    return bool(triton.knobs.runtime.interpret)


def _sums(state: State, telemetry: bool) -> Tensor:  # noqa: FBT001
    shape = (len(state.alpha) if telemetry else 0, len(Measure))
    return torch.zeros(shape, dtype=torch.float32, device=state.alpha.device)


def _parameters(state: State) -> tuple[Tensor, ...]:
    return state.down, state.up, state.alpha, state.rank, state.blueprint


def _tiles(
    x: Tensor, state: State, plan: Tensor | None
) -> tuple[int, tuple[Tensor, ...], dict[str, Any]]:
    """Grid, plan and sizes of the tile kernels; for chunks where there is no plan."""
    tokens, columns = x.shape
    seeds, rows, slab = state.down.shape
    sizes = blocks_for("tiles", tokens, seeds, columns, rows)
    narrow, wider = divmod(columns, seeds)
    block = sizes.tokens if plan is None else tile_rows(tokens, seeds)
    named = {
        "tokens": tokens, "seeds": seeds, "columns": columns, "narrow": narrow, "wider": wider,
        "rows": rows, "slab": slab, "BLOCK_T": block, "BLOCK_R": max(16, _power(rows)),
        "CHUNKS": plan is None, "EVEN": wider == 0, "UPCAST": _interpreted(),
    }  # fmt: skip
    if plan is None:
        spare = state.rank
        return seeds * triton.cdiv(tokens, block), (spare, spare, spare, spare), named
    return tile_bound(tokens, seeds, block), unpack(plan, tokens, seeds), named


def tokens_forward(
    x: Tensor, seed_of: Tensor, plan: Tensor | None, state: State, *, telemetry: bool
) -> tuple[Tensor, Tensor]:
    """As `eager.tokens_forward`; with about one token a seed no plan is needed."""
    tokens, columns = x.shape
    seeds, rows, slab = state.down.shape
    y, sums = torch.empty_like(x), _sums(state, telemetry)
    if not x.numel():
        return y, sums
    if tokens > seeds:
        plan = plan_tokens(seed_of, seeds) if plan is None else plan
        launch_tiles(x, y, state, plan, sums, telemetry=telemetry)
        return y, sums
    sizes = blocks_for("vector", tokens, seeds, columns, rows)
    vector_forward[(tokens,)](
        x, y, seed_of, *_parameters(state), sums, seeds, columns, rows, slab,
        BLOCK_R=_power(rows), BLOCK_K=sizes.read, BLOCK_N=sizes.write, TELEMETRY=telemetry,
        STAGES=sizes.stages, num_warps=sizes.warps,
    )  # fmt: skip
    return y, sums


def launch_tiles(
    x: Tensor, y: Tensor, state: State, plan: Tensor | None, sums: Tensor, *, telemetry: bool
) -> None:
    """Fills y and adds to the sums, by tiles; for chunks where there is no plan."""
    grid, parts, named = _tiles(x, state, plan)
    sizes = blocks_for("tiles", len(x), len(state.alpha), x.shape[1], state.down.shape[1])
    tiles_forward[(grid,)](
        x, y, *_parameters(state), *parts, sums, **named, BLOCK_K=sizes.read, BLOCK_N=sizes.write,
        TELEMETRY=telemetry, STAGES=sizes.stages, num_warps=sizes.warps,
        ONCE=plan is not None and len(x) <= named["BLOCK_T"] * len(state.alpha),
    )  # fmt: skip


def _group(width: int, rows: int) -> tuple[int, int, int]:
    """How many narrow chunks a program takes; its columns and hidden rows as powers of two."""
    group = 1
    while _power(2 * group * width) <= NARROW and _power(2 * group * rows) <= NARROW:
        group *= 2
    return group, max(16, _power(group * width)), max(16, _power(group * rows))


def _is_narrow(state: State) -> bool:
    return state.down.shape[2] <= NARROW and state.down.shape[1] <= 2 * NARROW


def chunks_forward(x: Tensor, state: State, *, telemetry: bool) -> tuple[Tensor, Tensor]:
    """As `eager.chunks_forward`."""
    y, sums = torch.empty_like(x), _sums(state, telemetry)
    if not x.numel():
        return y, sums
    if not _is_narrow(state):
        launch_tiles(x, y, state, None, sums, telemetry=telemetry)
        return y, sums
    tokens, columns = x.shape
    seeds, rows, slab = state.down.shape
    group, block_c, block_h = _group(slab, rows)
    sizes = blocks_for("narrow", tokens, seeds, columns, rows)
    groups, blocks = triton.cdiv(seeds, group), triton.cdiv(tokens, sizes.tokens)
    each = triton.cdiv(blocks, max(1, PROGRAMS // groups))
    narrow_forward[(triton.cdiv(blocks, each), groups)](
        x, y, *_parameters(state), sums, tokens, seeds, columns, *divmod(columns, seeds), rows, slab,
        each, GROUP=group, BLOCK_T=sizes.tokens, BLOCK_C=block_c, BLOCK_H=block_h,
        EVEN=columns % seeds == 0, TELEMETRY=telemetry, UPCAST=_interpreted(), STAGES=sizes.stages,
        num_warps=sizes.warps,
    )  # fmt: skip
    return y, sums


def tokens_backward(
    grad: Tensor, x: Tensor, seed_of: Tensor, plan: Tensor | None, state: State
) -> Gradients:
    """As `eager.tokens_backward`."""
    if not x.numel():
        return _no_tokens(grad, state)
    plan = plan_tokens(seed_of, len(state.alpha)) if plan is None else plan
    return _tiles_backward(grad, x, state, plan)


def chunks_backward(grad: Tensor, x: Tensor, state: State) -> Gradients:
    """As `eager.chunks_backward`."""
    if not x.numel():
        return _no_tokens(grad, state)
    if not _is_narrow(state):
        return _tiles_backward(grad, x, state, None)
    tokens, columns = x.shape
    seeds, rows, slab = state.down.shape
    group, block_c, block_h = _group(slab, rows)
    grad_x, down, up = torch.empty_like(x), torch.zeros_like(state.down), torch.zeros_like(state.up)
    by_hidden = x.new_zeros((seeds, rows), dtype=torch.float32)
    by_column = x.new_zeros((seeds * slab,), dtype=torch.float32)
    narrow_backward[(triton.cdiv(seeds, group),)](
        grad, x, *_parameters(state), grad_x, down, up, by_hidden, by_column,
        tokens, seeds, columns, *divmod(columns, seeds), rows, slab,
        GROUP=group, BLOCK_T=32, BLOCK_C=block_c, BLOCK_H=block_h, EVEN=columns % seeds == 0,
        UPCAST=_interpreted(), num_warps=4, num_stages=2,
    )  # fmt: skip
    return Gradients(grad_x, down, up, by_hidden.sum(1) + _by_seed(by_column, columns, seeds))


def _by_seed(by_column: Tensor, columns: int, seeds: int) -> Tensor:
    """Sums over each chunk's columns, (S,)."""
    narrow, wider = divmod(columns, seeds)
    fat = by_column[: wider * (narrow + 1)].view(wider, narrow + 1).sum(1)
    thin = by_column[wider * (narrow + 1) : columns].view(seeds - wider, narrow).sum(1)
    return torch.cat([fat, thin])


def _no_tokens(grad: Tensor, state: State) -> Gradients:
    zeros = (torch.zeros_like(tensor) for tensor in (state.down, state.up, state.alpha))
    return Gradients(grad.clone(), *zeros)


def _tiles_backward(grad: Tensor, x: Tensor, state: State, plan: Tensor | None) -> Gradients:
    seeds, rows, slab = state.down.shape
    tiles, parts, named = _tiles(x, state, plan)
    slots = len(x) * (seeds if plan is None else 1)
    after = x.new_empty((slots, rows), dtype=torch.float32)
    slope, by_slot = torch.empty_like(after), x.new_empty((slots,), dtype=torch.float32)
    out = Gradients(*(torch.empty_like(tensor) for tensor in (x, *_parameters(state)[:3])))
    block = 64 if rows <= NARROW else 32
    tiles_hidden[(tiles,)](
        grad, x, *_parameters(state), *parts, after, slope, by_slot, **named,
        BLOCK_K=block, num_warps=4, num_stages=3,
    )  # fmt: skip
    tiles_apply[(seeds if plan is None else seeds + 1, triton.cdiv(slab, block))](
        grad, x, *_parameters(state), *parts[:2], after, slope, by_slot, *out, **named,
        BLOCK_K=block, num_warps=4, num_stages=2,
    )  # fmt: skip
    return out
