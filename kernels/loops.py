"""The loops of the CPU path, in the language of numba: one pass over the tokens, every seed as it is.

Tokens are put in the order of their seeds by counting, and each then takes one step: its seed's rows of
`down` and `up` come from the cache or from memory once, x is read once, y written once. No product mixes
seeds, so what is not finite stays with its seed. A seed is looked at when its turn comes; nothing need be
known of the layer beforehand.

The work is cut into pieces of consecutive positions. Whoever is free takes the next piece, so one thread
or many may call `work` at once for one call. Numbers in a `CALL` are addresses and sizes.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import carray, cfunc, from_dtype, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from seedbed.kernels.blueprints import NORM_EPSILON, Blueprint
from seedbed.kernels.telemetry import DEAD_BELOW, Measure

FIELDS = (
    "x", "y", "seed_of", "down", "up", "alpha", "rank", "blueprint", "sums", "order", "starts", "taken",
    "tokens", "columns", "seeds", "rows", "width", "pieces",
)  # fmt: skip
"""Of a `CALL`, int64 each; `order` is 0 for chunks, `sums` where nobody asks. `taken` is a counter."""
CALL = types.CPointer(from_dtype(np.dtype([(name, np.int64) for name in FIELDS], align=True)))
CLOSE = {"reassoc", "contract", "nsz"}
"""Sums may be taken in any order, which SIMD needs; infinities and NaN stay what they are."""
INLINE = njit(error_model="numpy", forceinline=True)
INLINE_CLOSE = njit(fastmath=CLOSE, error_model="numpy", forceinline=True)
"""A call costs as much as a token's arithmetic."""
AHEAD = 8
"""Tokens between the one in work and the one that is fetched into the cache."""
LINE = 64
"""Bytes that are fetched at once."""
LOW_RANK, MLP, NORM = int(Blueprint.LOW_RANK), int(Blueprint.MLP), int(Blueprint.NORM)
FUSED_KINDS = (LOW_RANK, MLP, NORM)
COUNT, SUM, SQUARES = int(Measure.COUNT), int(Measure.SUM), int(Measure.SQUARES)
DEAD, CHANGE, ROWS = int(Measure.DEAD), int(Measure.CHANGE), int(Measure.ROWS)
SUMS = len(Measure)
ZERO, DEAD_LIMIT = np.float32(0), np.float32(DEAD_BELOW)


@intrinsic
def _pointer(_typing, address):
    """An address as a pointer."""

    def build(context, builder, signature, given):
        return builder.inttoptr(given[0], context.get_value_type(signature.return_type))

    return types.voidptr(types.int64), build


@intrinsic
def _fetch(_typing, address):
    """Tells the processor that the line at this address is wanted soon."""

    def build(context, builder, _signature, given):
        byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, number, number, number])
        call = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, near, data = ir.Constant(number, 0), ir.Constant(number, 3), ir.Constant(number, 1)
        builder.call(call, [builder.inttoptr(given[0], byte), read, near, data])
        return context.get_dummy_value()

    return types.void(types.int64), build


@intrinsic
def _take(_typing, address):
    """Adds one to the integer at this address, and gives what it was before; safe among threads."""

    def build(_context, builder, _signature, given):
        place = builder.inttoptr(given[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", place, ir.Constant(ir.IntType(64), 1), "monotonic")

    return types.int64(types.int64), build


@intrinsic
def _add(_typing, address, value):
    """Adds to the fp64 number at this address; safe among threads."""

    def build(context, builder, _signature, given):
        place = builder.inttoptr(given[0], ir.DoubleType().as_pointer())
        builder.atomic_rmw("fadd", place, given[1], "monotonic")
        return context.get_dummy_value()

    return types.void(types.int64, types.float64), build


@INLINE
def _floats(address, first, count):
    """`count` fp32 numbers from the number `first` on."""
    return carray(_pointer(address + 4 * first), (count,), np.float32)


@INLINE
def _small(address, index):
    """The int32 at this index."""
    return carray(_pointer(address + 4 * index), (1,), np.int32)[0]


@INLINE
def _whole(address, count):
    """`count` int64 numbers."""
    return carray(_pointer(address), (count,), np.int64)


@njit(error_model="numpy")
def _gelu(h):
    return np.float32(0.5) * h * (np.float32(1) + np.float32(math.erf(h * math.sqrt(0.5))))


@INLINE_CLOSE
def _four(x, y, down, up, width, alpha, mlp):
    """Adds to y what four rows of `down` and `up` make of x."""
    d0, d1 = _floats(down, 0, len(x)), _floats(down, width, len(x))
    d2, d3 = _floats(down, 2 * width, len(x)), _floats(down, 3 * width, len(x))
    h0 = h1 = h2 = h3 = ZERO
    for c in range(len(x)):
        v = x[c]
        h0 += v * d0[c]
        h1 += v * d1[c]
        h2 += v * d2[c]
        h3 += v * d3[c]
    if mlp:
        h0, h1, h2, h3 = _gelu(h0), _gelu(h1), _gelu(h2), _gelu(h3)
    h0, h1, h2, h3 = h0 * alpha, h1 * alpha, h2 * alpha, h3 * alpha
    u0, u1 = _floats(up, 0, len(x)), _floats(up, width, len(x))
    u2, u3 = _floats(up, 2 * width, len(x)), _floats(up, 3 * width, len(x))
    for c in range(len(x)):
        y[c] += (h0 * u0[c] + h1 * u1[c]) + (h2 * u2[c] + h3 * u3[c])


@INLINE_CLOSE
def _one(x, y, down, up, alpha, mlp):
    """Adds to y what one row of `down` and `up` makes of x."""
    d, u, h = _floats(down, 0, len(x)), _floats(up, 0, len(x)), ZERO
    for c in range(len(x)):
        h += x[c] * d[c]
    h = (_gelu(h) if mlp else h) * alpha
    for c in range(len(x)):
        y[c] += h * u[c]


@njit(fastmath=CLOSE, error_model="numpy")
def _norm(x, y, up, width, alpha):
    """Adds to y alpha times (x, normalised, times a scale plus a shift)."""
    scale, shift = _floats(up, 0, len(x)), _floats(up, width, len(x))
    total = spread = ZERO
    for c in range(len(x)):
        total += x[c]
    mean = total / np.float32(len(x))
    for c in range(len(x)):
        spread += (x[c] - mean) * (x[c] - mean)
    inverse = np.float32(1) / np.float32(math.sqrt(spread / np.float32(len(x)) + NORM_EPSILON))
    for c in range(len(x)):
        y[c] += alpha * ((x[c] - mean) * inverse * scale[c] + shift[c])


@INLINE_CLOSE
def _adapt(x, y, down, up, width, rank, alpha, kind):
    """Adds alpha f(x) of one token to y."""
    if kind == NORM:
        _norm(x, y, up, width, alpha)
        return
    r = 0
    while r + 4 <= rank:
        _four(x, y, down + 4 * r * width, up + 4 * r * width, width, alpha, kind == MLP)
        r += 4
    while r < rank:
        _one(x, y, down + 4 * r * width, up + 4 * r * width, alpha, kind == MLP)
        r += 1


@INLINE_CLOSE
def _changed(x, y):
    """Adds x to y; gives the square of what y was."""
    changed = ZERO
    for c in range(len(x)):
        changed += y[c] * y[c]
        y[c] += x[c]
    return changed


@INLINE_CLOSE
def _saw(x):
    """Sum, squares and dead elements of one token."""
    total = squares = dead = ZERO
    for c in range(len(x)):
        total += x[c]
        squares += x[c] * x[c]
        dead += np.float32(1) if abs(x[c]) <= DEAD_LIMIT else ZERO
    return total, squares, dead


@INLINE
def _positions(c, s, start, stop, begin, width, column):
    """The tokens of seed s, in these positions of the order of work."""
    alpha, rank, kind, slab = ZERO, 0, -1, 0
    if s < c.seeds:
        alpha = _floats(c.alpha, s, 1)[0]
        rank, kind = min(_small(c.rank, s), c.rows), _small(c.blueprint, s)
        slab = 4 * s * c.rows * c.width
    acts = alpha != ZERO and kind in FUSED_KINDS
    order = _whole(c.order, c.tokens)
    sums = changes = squares = dead = rows = 0.0
    for p in range(start, stop):
        row = order[p] if c.order else p - begin
        if p + AHEAD < stop or (c.order and p + AHEAD < c.tokens):
            far = 4 * ((order[p + AHEAD] if c.order else row + AHEAD) * c.columns + column)
            for line in range(0, 4 * width, LINE):
                _fetch(c.x + far + line)
                _fetch(c.y + far + line)
        x = _floats(c.x, row * c.columns + column, width)
        y = _floats(c.y, row * c.columns + column, width)
        for i in range(width):
            y[i] = ZERO if acts and c.sums else x[i]
        if acts:
            _adapt(x, y, c.down + slab, c.up + slab, c.width, rank, alpha, kind)
            if c.sums:
                changes += _changed(x, y)
        if c.sums:
            total, square, dull = _saw(x)
            sums += total
            squares += square
            dead += dull
            rows += np.float64(total) * total
    if c.sums and s < c.seeds:
        place = c.sums + 8 * SUMS * s
        _add(place + 8 * COUNT, np.float64((stop - start) * width))
        _add(place + 8 * SUM, sums)
        _add(place + 8 * SQUARES, squares)
        _add(place + 8 * DEAD, dead)
        _add(place + 8 * CHANGE, changes)
        _add(place + 8 * ROWS, rows)


@INLINE
def _seed_at(starts, position, seeds):
    """The seed, or S for none, whose tokens hold this position."""
    low, high = 0, seeds
    while low < high:
        middle = (low + high + 1) // 2
        if starts[middle] <= position:
            low = middle
        else:
            high = middle - 1
    return low


@INLINE
def _piece(c, first, last):
    """The positions from first to last."""
    starts = _whole(c.starts, c.seeds + 2)
    narrow, wider = c.columns // c.seeds, c.columns % c.seeds
    s = _seed_at(starts, first, c.seeds) if c.order else first // c.tokens
    while first < last:
        begin, width, column = s * c.tokens, narrow + (s < wider), s * narrow + min(s, wider)
        end = begin + c.tokens
        if c.order:
            begin, end, width, column = starts[s], starts[s + 1], c.columns, 0
        stop = min(end, last)
        if first < stop:
            _positions(c, s, first, stop, begin, width, column)
            first = stop
        s += 1


def compiled(function):
    """For C, and kept on disk where numba finds a place that it may write to."""
    try:
        return cfunc(types.void(CALL), error_model="numpy", cache=True)(function)
    except RuntimeError:  # nowhere: a container whose files are read only
        return cfunc(types.void(CALL), error_model="numpy")(function)


@compiled
def sort(call):
    """Fills `order`, the tokens by seed, and `starts`, (S + 2,), where each seed's begin; none's are last."""
    c = carray(call, 1)[0]
    seed_of, order = _whole(c.seed_of, c.tokens), _whole(c.order, c.tokens)
    starts = _whole(c.starts, c.seeds + 2)
    for s in range(c.seeds + 2):
        starts[s] = 0
    for t in range(c.tokens):
        s = seed_of[t]
        starts[(s if 0 <= s < c.seeds else c.seeds) + 1] += 1
    begin = 0
    for s in range(1, c.seeds + 2):  # for now each begins one place further on
        begin, starts[s] = begin + starts[s], begin
    for t in range(c.tokens):
        s = seed_of[t]
        place = (s if 0 <= s < c.seeds else c.seeds) + 1
        order[starts[place]] = t
        starts[place] += 1


@compiled
def work(call):
    """Takes pieces until there are none."""
    c = carray(call, 1)[0]
    positions = c.tokens if c.order else c.tokens * c.seeds
    while True:
        i = _take(c.taken)
        if i >= c.pieces:
            break
        _piece(c, positions * i // c.pieces, positions * (i + 1) // c.pieces)
