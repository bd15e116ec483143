"""Triton: many narrow chunks in one program, forward and backward.

A chunk of 16 columns fills neither a memory transaction nor a matrix unit. So a program takes a few
neighbouring seeds, `group` of them, lays their parameters side by side as one block-diagonal matrix, which
stays on the chip, and runs down the tokens: one reading and one writing of everything.

Columns and hidden rows both know their seed, so nothing here needs chunks of one width: seed s has
`narrow` + 1 columns if s < `wider`, else `narrow`, as `torch.tensor_split` cuts.
"""

from __future__ import annotations

import triton
import triton.language as tl

from seedbed.kernels.fused_tiles import DEAD_BELOW, MLP, NORM, NORM_EPSILON, gelu


@triton.jit
def begin(seed, narrow, wider, EVEN: tl.constexpr):
    """First column of a seed."""
    if EVEN:
        return seed * narrow
    else:
        return seed * narrow + tl.minimum(seed, wider)


@triton.jit
def columns_of(
    seed0, seeds, narrow, wider, GROUP: tl.constexpr, BLOCK_C: tl.constexpr, EVEN: tl.constexpr
):
    """The columns of a group of seeds: which, whether they are real, their seeds, those seeds' widths."""
    after = tl.minimum(seed0 + GROUP, seeds)
    column = begin(seed0, narrow, wider, EVEN) + tl.arange(0, BLOCK_C)
    inside = column < begin(after, narrow, wider, EVEN)
    if EVEN:
        of_column = column // narrow
        width = tl.zeros([BLOCK_C], tl.int32) + narrow
    else:
        fat = wider * (narrow + 1)
        of_column = tl.where(
            column < fat, column // (narrow + 1), wider + (column - fat) // tl.maximum(narrow, 1)
        )
        width = tl.where(inside, narrow + (of_column < wider).to(tl.int32), 1)
    return column, inside, of_column, width.to(tl.float32)


@triton.jit
def hidden_of(
    alpha, rank, blueprint, seed0, seeds, rows, GROUP: tl.constexpr, BLOCK_H: tl.constexpr
):  # fmt: skip
    """The hidden rows of a group: their seeds and numbers, share (zero at rest), and which pass a gelu."""
    h = tl.arange(0, BLOCK_H)
    of_hidden = seed0 + h // rows
    row = h % rows
    real = of_hidden < tl.minimum(seed0 + GROUP, seeds)
    kind = tl.load(blueprint + of_hidden, mask=real, other=-1)
    share = tl.load(alpha + of_hidden, mask=real, other=0.0).to(tl.float32)
    linear = (kind >= 0) & (kind < NORM) & (row < tl.load(rank + of_hidden, mask=real, other=0))
    return of_hidden, row, tl.where(linear, share, 0.0), kind == MLP


@triton.jit
def diagonal(
    slabs, column, inside, of_column, of_hidden, row, share, narrow, wider, rows, slab,
    EVEN: tl.constexpr,
):  # fmt: skip
    """Block-diagonal parameters (columns, hidden rows) of the seeds that act, where, and which are real."""
    used = (of_column[:, None] == of_hidden[None, :]) & inside[:, None] & (share != 0.0)[None, :]
    within = column - begin(of_column, narrow, wider, EVEN)
    at = (of_hidden * rows * slab + row * slab)[None, :] + within[:, None]
    return tl.load(slabs + at, mask=used, other=0.0), at, used


@triton.jit
def of_norm(
    up, alpha, blueprint, column, inside, of_column, narrow, wider, rows, slab, EVEN: tl.constexpr
):  # fmt: skip
    """For each column: whether its seed acts, the share of a NORM seed, scale, shift, where these are."""
    kind = tl.load(blueprint + of_column, mask=inside, other=-1)
    share = tl.load(alpha + of_column, mask=inside, other=0.0).to(tl.float32)
    share = tl.where((kind < 0) | (kind > NORM), 0.0, share)
    norm = tl.where(kind == NORM, share, 0.0)
    at = of_column * rows * slab + column - begin(of_column, narrow, wider, EVEN)
    scale = tl.load(up + at, mask=inside & (norm != 0.0), other=0.0).to(tl.float32)
    shift = tl.load(up + at + slab, mask=inside & (norm != 0.0), other=0.0).to(tl.float32)
    return share != 0.0, norm, scale, shift, at


@triton.jit
def straightened(mine, here, same, width, UPCAST: tl.constexpr, LIKE: tl.constexpr):
    """Each token with mean 0 and variance 1 over the columns of each seed, and 1 / deviation."""
    mean = product(mine, same, UPCAST, LIKE) / width[None, :]
    centred = tl.where(here, mine.to(tl.float32) - mean, 0.0)
    spread = product(centred * centred, same, UPCAST, LIKE) / width[None, :]
    inverse = 1.0 / tl.sqrt(spread + NORM_EPSILON)
    return centred * inverse, inverse


@triton.jit
def product(a, b, UPCAST: tl.constexpr, LIKE: tl.constexpr):
    """Matrix product in the dtype LIKE, summed in fp32."""
    if UPCAST:
        return tl.dot(a.to(tl.float32), b.to(tl.float32), input_precision="ieee")
    else:
        return tl.dot(a.to(LIKE), b.to(LIKE), input_precision="ieee")


@triton.jit
def chunks_forward(
    x, y, down, up, alpha, rank, blueprint, sums,
    tokens, seeds, columns, narrow, wider, rows, slab, blocks,
    GROUP: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_H: tl.constexpr,
    EVEN: tl.constexpr, TELEMETRY: tl.constexpr, UPCAST: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`blocks` blocks of tokens for one group of seeds."""
    like: tl.constexpr = x.dtype.element_ty
    seed0 = tl.program_id(1) * GROUP
    column, inside, of_column, width = columns_of(seed0, seeds, narrow, wider, GROUP, BLOCK_C, EVEN)
    of_hidden, row, share, mlp = hidden_of(
        alpha, rank, blueprint, seed0, seeds, rows, GROUP, BLOCK_H
    )
    into, _at, _used = diagonal(
        down, column, inside, of_column, of_hidden, row, share, narrow, wider, rows, slab, EVEN
    )
    out_of, _at, _used = diagonal(
        up, column, inside, of_column, of_hidden, row, share, narrow, wider, rows, slab, EVEN
    )
    into = into.to(like)
    out_of = tl.trans(out_of).to(like)
    acts, norm, scale, shift, _at_norm = of_norm(
        up, alpha, blueprint, column, inside, of_column, narrow, wider, rows, slab, EVEN
    )
    any_norm = tl.max((norm != 0.0).to(tl.int32), 0) > 0
    same = (
        ((of_column[:, None] == of_column[None, :]) & inside[:, None] & inside[None, :])
        .to(tl.float32)
        .to(like)
    )
    total = tl.zeros([BLOCK_C], tl.float32)
    squares = tl.zeros([BLOCK_C], tl.float32)
    dead = tl.zeros([BLOCK_C], tl.float32)
    change = tl.zeros([BLOCK_C], tl.float32)
    rows_sum = tl.zeros([BLOCK_C], tl.float32)
    first = tl.program_id(0) * blocks * BLOCK_T
    last = tl.minimum(first + blocks * BLOCK_T, tokens)
    for t in tl.range(first, last, BLOCK_T, num_stages=STAGES):
        token = t + tl.arange(0, BLOCK_T)
        here = (token < tokens)[:, None] & inside[None, :]
        at = token.to(tl.int64)[:, None] * columns + column[None, :]
        mine = tl.load(x + at, mask=here, other=0.0)
        wide = mine.to(tl.float32)
        hidden = product(mine, into, UPCAST, like)
        hidden = tl.where(mlp[None, :], gelu(hidden), hidden) * share[None, :]
        added = product(hidden, out_of, UPCAST, like)
        if any_norm:
            straight, _inverse = straightened(mine, here, same, width, UPCAST, like)
            added += norm[None, :] * (straight * scale[None, :] + shift[None, :])
        tl.store(y + at, tl.where(acts[None, :], wide + added, wide).to(like), mask=here)
        if TELEMETRY:
            total += tl.sum(wide, 0)
            squares += tl.sum(wide * wide, 0)
            dead += tl.sum(tl.where(here & (tl.abs(wide) <= DEAD_BELOW), 1.0, 0.0), 0)
            change += tl.sum(tl.where(here & acts[None, :], added * added, 0.0), 0)
            by_row = product(mine, same, UPCAST, like)
            rows_sum += tl.sum(by_row * by_row, 0) / width
    if TELEMETRY:
        line = sums + of_column * 6
        tl.atomic_add(line, tl.zeros([BLOCK_C], tl.float32) + (last - first), mask=inside)
        tl.atomic_add(line + 1, total, mask=inside)
        tl.atomic_add(line + 2, squares, mask=inside)
        tl.atomic_add(line + 3, dead, mask=inside)
        tl.atomic_add(line + 4, change, mask=inside)
        tl.atomic_add(line + 5, rows_sum, mask=inside)


@triton.jit
def chunks_backward(
    grad, x, down, up, alpha, rank, blueprint, grad_x, grad_down, grad_up, by_hidden, by_column,
    tokens, seeds, columns, narrow, wider, rows, slab,
    GROUP: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_H: tl.constexpr,
    EVEN: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """All tokens of one group of seeds; no two programs write to one place.

    The gradient of alpha leaves in two parts for the caller to add by seed: `by_hidden` (S, rows) for
    linear seeds, `by_column` (columns) for norms.
    """
    like: tl.constexpr = x.dtype.element_ty
    weights: tl.constexpr = grad_down.dtype.element_ty
    seed0 = tl.program_id(0) * GROUP
    column, inside, of_column, width = columns_of(seed0, seeds, narrow, wider, GROUP, BLOCK_C, EVEN)
    of_hidden, row, share, mlp = hidden_of(
        alpha, rank, blueprint, seed0, seeds, rows, GROUP, BLOCK_H
    )
    into, _at, _used = diagonal(
        down, column, inside, of_column, of_hidden, row, share, narrow, wider, rows, slab, EVEN
    )
    out_of, _at, _used = diagonal(
        up, column, inside, of_column, of_hidden, row, share, narrow, wider, rows, slab, EVEN
    )
    acts, norm, scale, shift, at_norm = of_norm(
        up, alpha, blueprint, column, inside, of_column, narrow, wider, rows, slab, EVEN
    )
    any_norm = tl.max((norm != 0.0).to(tl.int32), 0) > 0
    same = (
        ((of_column[:, None] == of_column[None, :]) & inside[:, None] & inside[None, :])
        .to(tl.float32)
        .to(like)
    )
    of_down = tl.zeros([BLOCK_C, BLOCK_H], tl.float32)
    of_up = tl.zeros([BLOCK_C, BLOCK_H], tl.float32)
    of_share = tl.zeros([BLOCK_H], tl.float32)
    of_scale = tl.zeros([BLOCK_C], tl.float32)
    of_shift = tl.zeros([BLOCK_C], tl.float32)
    for t in range(0, tokens, BLOCK_T):
        token = t + tl.arange(0, BLOCK_T)
        here = (token < tokens)[:, None] & inside[None, :]
        at = token.to(tl.int64)[:, None] * columns + column[None, :]
        mine = tl.load(x + at, mask=here, other=0.0)
        coming = tl.load(grad + at, mask=here, other=0.0)
        before = product(mine, into, UPCAST, like)
        upward = product(coming, out_of, UPCAST, like)
        normal = 0.5 * (1.0 + tl.erf(before * 0.7071067811865476))
        slope = normal + before * tl.exp(before * before * -0.5) * 0.3989422804014327
        after = tl.where(mlp[None, :], before * normal, before)
        of_share += tl.sum(after * upward, 0)
        of_before = upward * share[None, :] * tl.where(mlp[None, :], slope, 1.0)
        of_x = coming.to(tl.float32) + product(of_before, tl.trans(into), UPCAST, like)
        of_down += product(tl.trans(mine), of_before, UPCAST, like)
        of_up += product(tl.trans(coming), after * share[None, :], UPCAST, like)
        if any_norm:
            straight, inverse = straightened(mine, here, same, width, UPCAST, like)
            of_scale += tl.sum(coming.to(tl.float32) * straight, 0)
            of_shift += tl.sum(coming.to(tl.float32), 0)
            turned = coming.to(tl.float32) * (norm * scale)[None, :]
            one = product(turned, same, UPCAST, like) / width[None, :]
            two = product(turned * straight, same, UPCAST, like) / width[None, :]
            of_x += inverse * (turned - one - straight * two)
        of_x = tl.where(acts[None, :], of_x, coming.to(tl.float32))
        tl.store(grad_x + at, of_x.to(like), mask=here)
    _values, at_slab, kept = diagonal(
        up, column, inside, of_column, of_hidden, row, share, narrow, wider, rows, slab, EVEN
    )
    tl.store(grad_down + at_slab, of_down.to(weights), mask=kept)
    tl.store(grad_up + at_slab, of_up.to(weights), mask=kept)
    hidden_at = seed0 * rows + tl.arange(0, BLOCK_H)
    tl.store(by_hidden + hidden_at, of_share, mask=(of_hidden < seeds) & (share != 0.0))
    normed = inside & (norm != 0.0)
    tl.store(grad_up + at_norm, (of_scale * norm).to(weights), mask=normed)
    tl.store(grad_up + at_norm + slab, (of_shift * norm).to(weights), mask=normed)
    tl.store(by_column + column, of_scale * scale + of_shift * shift, mask=normed)
