"""The two calls that a seed layer makes, over tensors that hold all its seeds.

Shapes: S seeds, R rows (at least 2), w columns a seed, T tokens. `x` may have any leading dimensions.
A call reads nothing of the tensors on the host, so it can stand in a CUDA graph, and another state, rank
or blueprint of a seed is another number in a tensor.

A seed acts while its alpha is not zero. With alpha zero its tokens pass bit for bit, it costs no
arithmetic and has no gradient, not even of alpha. Alpha one is a seed whose ramp is over; a fossilised
one stays there.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from seedbed.crds.errors import InvalidError
from seedbed.kernels import dispatch
from seedbed.kernels.batches import State

MINIMUM_ROWS = 2


SeedTensors = State


def chunk_width(columns: int, seeds: int) -> int:
    """Columns of the widest chunk, which is `w` of the slabs of `seed_chunks`.

    The cut is that of `torch.tensor_split`: widths differ by one at most, and every column has a seed.
    """
    return -(-columns // seeds)


def plan_route(seed_of: Tensor, leading: Sequence[int], seeds: int) -> Tensor:
    """What must be known of an assignment, for `plan` of `seed_tokens` on the same device.

    Layers that share one assignment, as those that serve one batch do, then sort their tokens by seed once.

    Args:
        seed_of: as for `seed_tokens`.
        leading: the dimensions of x before its last.
        seeds: S of the layers.
    """
    return dispatch.plan_tokens(_index(seed_of, leading), seeds)


def _index(seed_of: Tensor, leading: Sequence[int]) -> Tensor:
    """One index a token, (T,)."""
    missing = len(leading) - seed_of.dim()
    if not missing:
        return seed_of if len(leading) == 1 else seed_of.reshape(-1)
    return seed_of.view(*seed_of.shape, *(1 for _ in range(missing))).expand(*leading).reshape(-1)


def _whole(seeds: SeedTensors) -> SeedTensors:
    """With slabs that lie in one piece."""
    if seeds.down.is_contiguous() and seeds.up.is_contiguous():
        return seeds
    return seeds._replace(down=seeds.down.contiguous(), up=seeds.up.contiguous())


def _rows(x: Tensor) -> Tensor:
    """(T, w) in one piece."""
    return (x if x.dim() == 2 else x.reshape(-1, x.shape[-1])).contiguous()  # noqa: PLR2004


def seed_tokens(
    x: Tensor,
    seed_of: Tensor,
    seeds: SeedTensors,
    *,
    plan: Tensor | None = None,
    telemetry: bool = False,
    acting: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Each token through the seed that it names: y, shaped as x, and the sums (S, 6) where asked.

    Args:
        x: (..., w) of fp32, fp16 or bf16; sums are kept in fp32.
        seed_of: integers whose shape is x's leading dimensions, or the first of them: one index a token,
            or one a sequence. An index outside [0, S) means no seed.
        seeds: of the layer.
        plan: of `plan_route` for this `seed_of`; found anew where None.
        telemetry: whether to return `telemetry.Measure` sums.
        acting: False promises that every alpha is zero, which the host knows between two epochs; then
            nothing is computed and x itself is returned.

    Raises:
        InvalidError: shapes do not fit together.
    """
    if not acting and not telemetry:
        return x, None
    shape = x.shape
    _check(seeds, shape[-1])
    named = seed_of.dim()
    if seed_of.shape != shape[:named] or named >= len(shape):
        raise InvalidError("seed_of", f"must have the leading shape of x, {tuple(shape[:-1])}")
    index = _index(seed_of, shape[:-1])
    y, sums = dispatch.tokens(_rows(x), index, _whole(seeds), plan, telemetry=telemetry)
    return y if len(shape) == 2 else y.view(shape), sums if telemetry else None  # noqa: PLR2004


def seed_chunks(
    x: Tensor,
    seeds: SeedTensors,
    *,
    telemetry: bool = False,
    acting: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """Each chunk of columns through its own seed: y, shaped as x, and the sums (S, 6) where asked.

    Args:
        x: (..., columns). Seed s has the columns of the s-th part of `torch.tensor_split(x, S, -1)`;
            seeds beyond the number of columns have none.
        seeds: of the layer, with w = `chunk_width(columns, S)`.
        telemetry: as for `seed_tokens`.
        acting: as for `seed_tokens`.

    Raises:
        InvalidError: shapes do not fit together.
    """
    if not acting and not telemetry:
        return x, None
    _check(seeds, chunk_width(x.shape[-1], seeds.alpha.shape[0]))
    y, sums = dispatch.chunks(_rows(x), _whole(seeds), telemetry=telemetry)
    return y.view(x.shape), sums if telemetry else None


def _check(seeds: SeedTensors, width: int) -> None:
    """That all tensors speak of the same seeds and width."""
    down = seeds.down
    shape = down.shape
    if len(shape) != 3 or shape[1] < MINIMUM_ROWS:  # noqa: PLR2004 - seeds, rows, width
        raise InvalidError("seeds.down", f"must be (seeds, {MINIMUM_ROWS} or more rows, width)")
    if shape[2] != width:
        raise InvalidError("seeds.down", f"must have width {width}, not {shape[2]}")
    if seeds.up.shape != shape or seeds.up.dtype != down.dtype:
        raise InvalidError("seeds.up", f"must be like seeds.down: {tuple(shape)}, {down.dtype}")
    count = shape[:1]
    if seeds.alpha.shape == seeds.rank.shape == seeds.blueprint.shape == count:
        return
    for name, tensor in zip(seeds._fields[2:], seeds[2:], strict=True):
        if tensor.shape != count:
            raise InvalidError(f"seeds.{name}", f"must have one entry a seed, {shape[0]}")
