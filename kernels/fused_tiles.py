"""Triton: tiles of one seed's tokens, the forward pass for token routing and for wide chunks.

A program holds up to BLOCK_T tokens of one seed. It passes over the columns twice: first the hidden
values (or the mean and variance), together with the telemetry, then the output, each element of which is
written once. The second pass goes backwards, so that it begins with the columns that the caches saw last.
A seed at rest is copied.

`vector_forward` is for about one token a seed: a matrix unit would idle, so it multiplies and adds, and
all that matters is how many loads are under way.
"""

from __future__ import annotations

import triton
import triton.language as tl

DEAD_BELOW = tl.constexpr(1e-6)
NORM_EPSILON = tl.constexpr(1e-5)
MLP = tl.constexpr(1)
NORM = tl.constexpr(2)


@triton.jit
def gelu(p):
    """By the error function, as in `formulas`."""
    return 0.5 * p * (1.0 + tl.erf(p * 0.7071067811865476))


@triton.jit
def place(
    order, edges, owner, first_of, tile, tokens, columns, narrow, wider,
    BLOCK_T: tl.constexpr, CHUNKS: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """Where a tile lies: its seed, sorted positions, rows of x, which are real, first column, width."""
    if CHUNKS:
        blocks = tl.cdiv(tokens, BLOCK_T)
        seed = tile // blocks
        first = (tile % blocks) * BLOCK_T
        position = first + tl.arange(0, BLOCK_T)
        live = position < tokens
        row = position
        end = tokens
        if EVEN:
            column = seed * narrow
            width = narrow
        else:
            column = seed * narrow + tl.minimum(seed, wider)
            width = narrow + (seed < wider).to(tl.int32)
    else:
        seed = tl.load(owner + tile)
        first = tl.load(first_of + tile)
        end = tl.load(edges + seed + 1)
        position = first + tl.arange(0, BLOCK_T)
        live = position < end
        row = tl.load(order + position, mask=live, other=0)
        column = 0
        width = columns
    return seed, first, end, position, row.to(tl.int64), live, column, width


@triton.jit
def state(alpha, rank, blueprint, seed, seeds):
    """Share, rank and number of a seed; the number is -1 if it does not act or does not exist."""
    real = seed < seeds
    kind = tl.load(blueprint + seed, mask=real, other=-1)
    share = tl.load(alpha + seed, mask=real, other=0.0).to(tl.float32)
    kind = tl.where((kind > NORM) | (share == 0.0), -1, kind)
    return share, tl.load(rank + seed, mask=real, other=0), kind


@triton.jit
def report(sums, seed, seeds, live, width, per_row, squares, dead, change):
    """Adds a tile's six sums to its seed's."""
    line = sums + seed * 6
    real = seed < seeds
    count = tl.sum(live.to(tl.float32), 0) * width
    tl.atomic_add(line, count, mask=real)
    tl.atomic_add(line + 1, tl.sum(per_row, 0), mask=real)
    tl.atomic_add(line + 2, tl.sum(squares, 0), mask=real)
    tl.atomic_add(line + 3, tl.sum(dead, 0), mask=real)
    tl.atomic_add(line + 4, tl.sum(change, 0), mask=real)
    tl.atomic_add(line + 5, tl.sum(per_row * per_row, 0), mask=real)


@triton.jit
def moments(
    x_rows, live, column, width, BLOCK_T: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Sum, sum of squares and dead elements of each token; mean and 1 / deviation.

    Sums are taken about the token's first element, so that a large mean does not eat the variance.
    """
    pilot = tl.load(x_rows + column, mask=live & (width > 0), other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK_T, BLOCK_K], tl.float32)
    squares = tl.zeros([BLOCK_T, BLOCK_K], tl.float32)
    dead = tl.zeros([BLOCK_T, BLOCK_K], tl.float32)
    for k in range(0, width, BLOCK_K):
        step = k + tl.arange(0, BLOCK_K)
        here = live[:, None] & (step < width)[None, :]
        x = tl.load(x_rows[:, None] + column + step[None, :], mask=here, other=0.0).to(tl.float32)
        dead += tl.where(here & (tl.abs(x) <= DEAD_BELOW), 1.0, 0.0)
        moved = tl.where(here, x - pilot[:, None], 0.0)
        total += moved
        squares += moved * moved
    moved_sum = tl.sum(total, 1)
    moved_squares = tl.sum(squares, 1)
    mean = moved_sum / width
    inverse = 1.0 / tl.sqrt(tl.maximum(moved_squares / width - mean * mean, 0.0) + NORM_EPSILON)
    full = moved_sum + width * pilot
    full_squares = moved_squares + 2.0 * pilot * moved_sum + width * pilot * pilot
    return full, full_squares, tl.sum(dead, 1), mean + pilot, inverse


@triton.jit
def tiles_forward(
    x, y, down, up, alpha, rank, blueprint, order, edges, owner, first_of, sums,
    tokens, seeds, columns, narrow, wider, rows, slab,
    BLOCK_T: tl.constexpr, BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
    CHUNKS: tl.constexpr, EVEN: tl.constexpr, TELEMETRY: tl.constexpr, UPCAST: tl.constexpr,
    STAGES: tl.constexpr, ONCE: tl.constexpr,
):  # fmt: skip
    """One tile. `rows` and `slab` are the last two lengths of down and up.

    ONCE: whether most seeds have one tile, so that nobody else will want their parameters.
    """
    parameters: tl.constexpr = "evict_first" if ONCE else "evict_last"
    tile = tl.program_id(0)
    seed, first, end, _, row, live, column, width = place(
        order, edges, owner, first_of, tile, tokens, columns, narrow, wider, BLOCK_T, CHUNKS, EVEN
    )
    if first < end:
        share, used, kind = state(alpha, rank, blueprint, seed, seeds)
        x_rows = x + row * columns
        y_rows = y + row * columns
        slab_at = seed.to(tl.int64) * rows * slab
        r = tl.arange(0, BLOCK_R)
        change = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
        if kind < 0:
            total = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
            squares = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
            dead = tl.zeros([BLOCK_T, BLOCK_N], tl.float32)
            for n in tl.range(0, width, BLOCK_N, num_stages=STAGES):
                step = n + tl.arange(0, BLOCK_N)
                here = live[:, None] & (step < width)[None, :]
                same = tl.load(x_rows[:, None] + column + step[None, :], mask=here, other=0.0)
                tl.store(y_rows[:, None] + column + step[None, :], same, mask=here)
                if TELEMETRY:
                    wide = same.to(tl.float32)
                    total += wide
                    squares += wide * wide
                    dead += tl.where(here & (tl.abs(wide) <= DEAD_BELOW), 1.0, 0.0)
            if TELEMETRY:
                report(
                    sums, seed, seeds, live, width, tl.sum(total, 1), tl.sum(squares, 1),
                    tl.sum(dead, 1), tl.sum(change, 1),
                )  # fmt: skip
        elif kind == NORM:
            full, full_squares, dead_row, mean, inverse = moments(
                x_rows, live, column, width, BLOCK_T, BLOCK_N
            )
            blocks = tl.cdiv(width, BLOCK_N)
            for n in tl.range(0, blocks, num_stages=STAGES):
                step = (blocks - 1 - n) * BLOCK_N + tl.arange(0, BLOCK_N)
                inside = step < width
                here = live[:, None] & inside[None, :]
                scale = tl.load(up + slab_at + step, mask=inside, other=0.0).to(tl.float32)
                shift = tl.load(up + slab_at + slab + step, mask=inside, other=0.0).to(tl.float32)
                at = x_rows[:, None] + column + step[None, :]
                wide = tl.load(at, mask=here, other=0.0).to(tl.float32)
                straight = (wide - mean[:, None]) * inverse[:, None]
                added = share * (straight * scale[None, :] + shift[None, :])
                added = tl.where(here, added, 0.0)
                out = (wide + added).to(y.dtype.element_ty)
                tl.store(y_rows[:, None] + column + step[None, :], out, mask=here)
                if TELEMETRY:
                    change += added * added
            if TELEMETRY:
                report(
                    sums, seed, seeds, live, width, full, full_squares, dead_row, tl.sum(change, 1)
                )
        else:
            total = tl.zeros([BLOCK_T, BLOCK_K], tl.float32)
            squares = tl.zeros([BLOCK_T, BLOCK_K], tl.float32)
            dead = tl.zeros([BLOCK_T, BLOCK_K], tl.float32)
            hidden = tl.zeros([BLOCK_T, BLOCK_R], tl.float32)
            for k in tl.range(0, width, BLOCK_K, num_stages=STAGES):
                step = k + tl.arange(0, BLOCK_K)
                inside = step < width
                here = live[:, None] & inside[None, :]
                part = tl.load(
                    down + slab_at + r[:, None] * slab + step[None, :],
                    mask=(r < used)[:, None] & inside[None, :], other=0.0,
                    eviction_policy=parameters,
                )  # fmt: skip
                mine = tl.load(
                    x_rows[:, None] + column + step[None, :], mask=here, other=0.0,
                    eviction_policy="evict_last",
                )  # fmt: skip
                if UPCAST:
                    hidden = tl.dot(
                        mine.to(tl.float32), tl.trans(part.to(tl.float32)), hidden,
                        input_precision="ieee",
                    )  # fmt: skip
                else:
                    hidden = tl.dot(
                        mine, tl.trans(part.to(mine.dtype)), hidden, input_precision="ieee"
                    )
                if TELEMETRY:
                    wide = mine.to(tl.float32)
                    total += wide
                    squares += wide * wide
                    dead += tl.where(here & (tl.abs(wide) <= DEAD_BELOW), 1.0, 0.0)
            if kind == MLP:
                hidden = gelu(hidden)
            hidden = hidden * share
            blocks = tl.cdiv(width, BLOCK_N)
            for n in tl.range(0, blocks, num_stages=STAGES):
                step = (blocks - 1 - n) * BLOCK_N + tl.arange(0, BLOCK_N)
                inside = step < width
                here = live[:, None] & inside[None, :]
                part = tl.load(
                    up + slab_at + r[:, None] * slab + step[None, :],
                    mask=(r < used)[:, None] & inside[None, :], other=0.0,
                    eviction_policy=parameters,
                )  # fmt: skip
                mine = tl.load(
                    x_rows[:, None] + column + step[None, :], mask=here, other=0.0,
                    eviction_policy="evict_first",
                )  # fmt: skip
                if UPCAST:
                    added = tl.dot(hidden, part.to(tl.float32), input_precision="ieee")
                else:
                    added = tl.dot(
                        hidden.to(mine.dtype), part.to(mine.dtype), input_precision="ieee"
                    )
                out = (mine.to(tl.float32) + added).to(y.dtype.element_ty)
                tl.store(
                    y_rows[:, None] + column + step[None, :], out, mask=here,
                    eviction_policy="evict_first",
                )  # fmt: skip
                if TELEMETRY:
                    change += added * added
            if TELEMETRY:
                report(
                    sums, seed, seeds, live, width, tl.sum(total, 1), tl.sum(squares, 1),
                    tl.sum(dead, 1), tl.sum(change, 1),
                )  # fmt: skip


@triton.jit
def vector_forward(
    x, y, seed_of, down, up, alpha, rank, blueprint, sums, seeds, columns, rows, slab,
    BLOCK_R: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_N: tl.constexpr,
    TELEMETRY: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """One token, with the seed that it names."""
    token = tl.program_id(0).to(tl.int64)
    seed = tl.load(seed_of + token).to(tl.int64)
    seed = tl.where((seed < 0) | (seed >= seeds), seeds, seed)
    share, used, kind = state(alpha, rank, blueprint, seed, seeds)
    x_row = x + token * columns
    y_row = y + token * columns
    slab_at = seed * rows * slab
    r = tl.arange(0, BLOCK_R)
    used = tl.where((kind >= 0) & (kind != NORM), used, 0)
    pilot = tl.load(x_row).to(tl.float32)
    hidden = tl.zeros([BLOCK_R, BLOCK_K], tl.float32)
    total = tl.zeros([BLOCK_K], tl.float32)
    squares = tl.zeros([BLOCK_K], tl.float32)
    dead = tl.zeros([BLOCK_K], tl.float32)
    wanted = kind >= 0
    if TELEMETRY:
        wanted = seed < seeds
    if wanted:
        for k in tl.range(0, columns, BLOCK_K, num_stages=STAGES):
            step = k + tl.arange(0, BLOCK_K)
            inside = step < columns
            part = tl.load(
                down + slab_at + r[:, None] * slab + step[None, :],
                mask=(r < used)[:, None] & inside[None, :], other=0.0,
                eviction_policy="evict_first",
            )  # fmt: skip
            wide = tl.load(x_row + step, mask=inside, other=0.0).to(tl.float32)
            hidden += part.to(tl.float32) * wide[None, :]
            moved = tl.where(inside, wide - pilot, 0.0)
            total += moved
            squares += moved * moved
            dead += tl.where(inside & (tl.abs(wide) <= DEAD_BELOW), 1.0, 0.0)
    weights = tl.sum(hidden, 1)
    if kind == MLP:
        weights = gelu(weights)
    weights = weights * share
    moved_sum = tl.sum(total, 0)
    moved_squares = tl.sum(squares, 0)
    mean = moved_sum / columns
    inverse = 1.0 / tl.sqrt(tl.maximum(moved_squares / columns - mean * mean, 0.0) + NORM_EPSILON)
    change = tl.zeros([BLOCK_N], tl.float32)
    for n in tl.range(0, columns, BLOCK_N, num_stages=STAGES):
        step = n + tl.arange(0, BLOCK_N)
        inside = step < columns
        part = tl.load(
            up + slab_at + r[:, None] * slab + step[None, :],
            mask=(r < used)[:, None] & inside[None, :], other=0.0,
            eviction_policy="evict_first",
        )  # fmt: skip
        wide = tl.load(x_row + step, mask=inside, other=0.0).to(tl.float32)
        added = tl.sum(part.to(tl.float32) * weights[:, None], 0)
        if kind == NORM:
            scale = tl.load(up + slab_at + step, mask=inside, other=0.0).to(tl.float32)
            shift = tl.load(up + slab_at + slab + step, mask=inside, other=0.0).to(tl.float32)
            straight = (wide - pilot - mean) * inverse
            added = tl.where(inside, share * (straight * scale + shift), 0.0)
        out = tl.where(kind >= 0, wide + added, wide)
        tl.store(y_row + step, out.to(y.dtype.element_ty), mask=inside)
        if TELEMETRY:
            change += added * added
    if TELEMETRY:
        full = moved_sum + columns * pilot
        full_squares = moved_squares + 2.0 * pilot * moved_sum + columns * pilot * pilot
        line = sums + seed * 6
        real = seed < seeds
        tl.atomic_add(line, columns * 1.0, mask=real)
        tl.atomic_add(line + 1, full, mask=real)
        tl.atomic_add(line + 2, full_squares, mask=real)
        tl.atomic_add(line + 3, tl.sum(dead, 0), mask=real)
        tl.atomic_add(line + 4, tl.sum(change, 0), mask=real)
        tl.atomic_add(line + 5, full * full, mask=real)
