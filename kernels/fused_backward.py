"""Triton: gradients for token routing and for wide chunks.

Two kernels. `tiles_hidden` finds, for each token, what its seed's rows did: the hidden values and their
gradient (for a norm: mean, 1 / deviation, and the two means that its gradient needs). `tiles_apply` then
takes one seed and some columns, and runs down the seed's tokens: gradients of x, down and up in one
reading, each written by one program, so the result does not depend on which program came first.

The token's numbers stand in `after` and `slope`, (slots, R) fp32; a slot is a position in the sorted
order, or seed * T + token for chunks. `by_slot` holds each token's part of the gradient of alpha.
"""

from __future__ import annotations

import triton
import triton.language as tl

from seedbed.kernels.fused_tiles import MLP, NORM, gelu, moments, place, state


@triton.jit
def tiles_hidden(
    grad, x, down, up, alpha, rank, blueprint, order, edges, owner, first_of, after, slope, by_slot,
    tokens, seeds, columns, narrow, wider, rows, slab,
    BLOCK_T: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
    CHUNKS: tl.constexpr, EVEN: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """One tile of one seed that acts."""
    tile = tl.program_id(0)
    seed, first, end, position, row, live, column, width = place(
        order, edges, owner, first_of, tile, tokens, columns, narrow, wider, BLOCK_T, CHUNKS, EVEN
    )
    share, used, kind = state(alpha, rank, blueprint, seed, seeds)
    if (first < end) & (kind >= 0):
        slot = position.to(tl.int64)
        if CHUNKS:
            slot += seed.to(tl.int64) * tokens
        x_rows = x + row * columns
        grad_rows = grad + row * columns
        slab_at = seed.to(tl.int64) * rows * slab
        r = tl.arange(0, BLOCK_R)
        if kind == NORM:
            _full, _squares, _dead, mean, inverse = moments(
                x_rows, live, column, width, BLOCK_T, BLOCK_K
            )
            one = tl.zeros([BLOCK_T, BLOCK_K], tl.float32)
            two = tl.zeros([BLOCK_T, BLOCK_K], tl.float32)
            part = tl.zeros([BLOCK_T, BLOCK_K], tl.float32)
            for k in range(0, width, BLOCK_K):
                step = k + tl.arange(0, BLOCK_K)
                inside = step < width
                here = live[:, None] & inside[None, :]
                scale = tl.load(up + slab_at + step, mask=inside, other=0.0).to(tl.float32)
                shift = tl.load(up + slab_at + slab + step, mask=inside, other=0.0).to(tl.float32)
                at = column + step[None, :]
                wide = tl.load(x_rows[:, None] + at, mask=here, other=0.0).to(tl.float32)
                coming = tl.load(grad_rows[:, None] + at, mask=here, other=0.0).to(tl.float32)
                straight = (wide - mean[:, None]) * inverse[:, None]
                turned = coming * share * scale[None, :]
                one += turned
                two += turned * straight
                part += coming * (straight * scale[None, :] + shift[None, :])
            tl.store(after + slot * rows, mean, mask=live)
            tl.store(after + slot * rows + 1, inverse, mask=live)
            tl.store(slope + slot * rows, tl.sum(one, 1) / width, mask=live)
            tl.store(slope + slot * rows + 1, tl.sum(two, 1) / width, mask=live)
            tl.store(by_slot + slot, tl.sum(part, 1), mask=live)
        else:
            before = tl.zeros([BLOCK_T, BLOCK_R], tl.float32)
            upward = tl.zeros([BLOCK_T, BLOCK_R], tl.float32)
            for k in range(0, width, BLOCK_K):
                step = k + tl.arange(0, BLOCK_K)
                inside = step < width
                here = live[:, None] & inside[None, :]
                mask = (r < used)[:, None] & inside[None, :]
                at_slab = slab_at + r[:, None] * slab + step[None, :]
                into = tl.load(down + at_slab, mask=mask, other=0.0)
                out_of = tl.load(up + at_slab, mask=mask, other=0.0)
                at = column + step[None, :]
                mine = tl.load(x_rows[:, None] + at, mask=here, other=0.0)
                coming = tl.load(grad_rows[:, None] + at, mask=here, other=0.0)
                if UPCAST:
                    before = tl.dot(
                        mine.to(tl.float32), tl.trans(into.to(tl.float32)), before,
                        input_precision="ieee",
                    )  # fmt: skip
                    upward = tl.dot(
                        coming.to(tl.float32), tl.trans(out_of.to(tl.float32)), upward,
                        input_precision="ieee",
                    )  # fmt: skip
                else:
                    before = tl.dot(
                        mine, tl.trans(into.to(mine.dtype)), before, input_precision="ieee"
                    )
                    upward = tl.dot(
                        coming, tl.trans(out_of.to(mine.dtype)), upward, input_precision="ieee"
                    )
            of_before = upward * share
            hidden = before
            if kind == MLP:
                hidden = gelu(before)
                normal = 0.5 * (1.0 + tl.erf(before * 0.7071067811865476))
                of_before *= normal + before * tl.exp(before * before * -0.5) * 0.3989422804014327
            at_slot = slot[:, None] * rows + r[None, :]
            mask = live[:, None] & (r < rows)[None, :]
            tl.store(after + at_slot, hidden * share, mask=mask)
            tl.store(slope + at_slot, of_before, mask=mask)
            tl.store(by_slot + slot, tl.sum(hidden * upward, 1), mask=live)


@triton.jit
def tiles_apply(
    grad, x, down, up, alpha, rank, blueprint, order, edges, after, slope, by_slot,
    grad_x, grad_down, grad_up, grad_alpha,
    tokens, seeds, columns, narrow, wider, rows, slab,
    BLOCK_T: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr,
    CHUNKS: tl.constexpr, EVEN: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Some columns of one seed, all its tokens. The last seed is "none": its gradients pass."""
    seed = tl.program_id(0)
    k = tl.program_id(1) * BLOCK_K
    if CHUNKS:
        begin = 0
        end = tokens
        if EVEN:
            column = seed * narrow
            width = narrow
        else:
            column = seed * narrow + tl.minimum(seed, wider)
            width = narrow + (seed < wider).to(tl.int32)
    else:
        begin = tl.load(edges + seed)
        end = tl.load(edges + seed + 1)
        column = 0
        width = columns
    like: tl.constexpr = x.dtype.element_ty
    share, used, kind = state(alpha, rank, blueprint, seed, seeds)
    r = tl.arange(0, BLOCK_R)
    step = k + tl.arange(0, BLOCK_K)
    inside = step < width
    slab_at = seed.to(tl.int64) * rows * slab + r[:, None] * slab + step[None, :]
    linear = (kind >= 0) & (kind != NORM)
    used = tl.where(linear, used, 0)
    norm = kind == NORM
    into = tl.load(down + slab_at, mask=(r < used)[:, None] & inside[None, :], other=0.0)
    flat = seed.to(tl.int64) * rows * slab + step
    scale = tl.load(up + flat, mask=inside & norm, other=0.0).to(tl.float32)
    of_down = tl.zeros([BLOCK_R, BLOCK_K], tl.float32)
    of_up = tl.zeros([BLOCK_R, BLOCK_K], tl.float32)
    of_scale = tl.zeros([BLOCK_K], tl.float32)
    of_shift = tl.zeros([BLOCK_K], tl.float32)
    of_alpha = tl.zeros([BLOCK_T], tl.float32)
    for t in range(begin, end, BLOCK_T):
        position = t + tl.arange(0, BLOCK_T)
        live = position < end
        slot = position.to(tl.int64)
        row = slot
        if CHUNKS:
            slot += seed.to(tl.int64) * tokens
        else:
            row = tl.load(order + position, mask=live, other=0).to(tl.int64)
        here = live[:, None] & inside[None, :]
        at = row[:, None] * columns + column + step[None, :]
        coming = tl.load(grad + at, mask=here, other=0.0)
        of_x = coming.to(tl.float32)
        if linear:
            mine = tl.load(x + at, mask=here, other=0.0)
            at_slot = slot[:, None] * rows + r[None, :]
            kept = live[:, None] & (r < used)[None, :]
            hidden = tl.load(after + at_slot, mask=kept, other=0.0)
            of_before = tl.load(slope + at_slot, mask=kept, other=0.0)
            if UPCAST:
                of_x += tl.dot(of_before, into.to(tl.float32), input_precision="ieee")
                of_down += tl.dot(tl.trans(of_before), mine.to(tl.float32), input_precision="ieee")
                of_up += tl.dot(tl.trans(hidden), coming.to(tl.float32), input_precision="ieee")
            else:
                of_x += tl.dot(of_before.to(like), into.to(like), input_precision="ieee")
                of_down += tl.dot(tl.trans(of_before.to(like)), mine, input_precision="ieee")
                of_up += tl.dot(tl.trans(hidden.to(like)), coming, input_precision="ieee")
        if norm:
            wide = tl.load(x + at, mask=here, other=0.0).to(tl.float32)
            mean = tl.load(after + slot * rows, mask=live, other=0.0)
            inverse = tl.load(after + slot * rows + 1, mask=live, other=0.0)
            one = tl.load(slope + slot * rows, mask=live, other=0.0)
            two = tl.load(slope + slot * rows + 1, mask=live, other=0.0)
            straight = (wide - mean[:, None]) * inverse[:, None]
            of_scale += tl.sum(of_x * straight, 0)
            of_shift += tl.sum(of_x, 0)
            turned = of_x * share * scale[None, :]
            of_x += inverse[:, None] * (turned - one[:, None] - straight * two[:, None])
        if kind >= 0:
            of_alpha += tl.load(by_slot + slot, mask=live, other=0.0)
        tl.store(grad_x + at, of_x.to(like), mask=here)
    weights: tl.constexpr = grad_down.dtype.element_ty
    whole = (r < rows)[:, None] & (step < slab)[None, :] & (seed < seeds)
    tl.store(grad_down + slab_at, of_down.to(weights), mask=whole)
    if norm:
        of_up += tl.where((r == 0)[:, None], (of_scale * share)[None, :], 0.0)
        of_up += tl.where((r == 1)[:, None], (of_shift * share)[None, :], 0.0)
    tl.store(grad_up + slab_at, of_up.to(weights), mask=whole)
    if (k == 0) & (seed < seeds):
        tl.store(grad_alpha + seed, tl.sum(of_alpha, 0))
