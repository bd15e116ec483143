"""A layer of a frozen model that carries seeds. The host is always called; what it gives is adapted."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from seedbed.crds.errors import InvalidError
from seedbed.kernels.blueprints import Blueprint
from seedbed.kernels.custom import custom_chunks, custom_tokens
from seedbed.kernels.layer import (
    MINIMUM_ROWS,
    SeedTensors,
    chunk_width,
    plan_route,
    seed_chunks,
    seed_tokens,
)
from seedbed.kernels.telemetry import Measure
from seedbed.runtime.seeds.custom import Form, Pair
from seedbed.runtime.seeds.group import Alone, spread, summed
from seedbed.runtime.seeds.telemetry import LayerSpan

Routing = Literal["chunk", "token"]
Reads = Literal["output", "input"]


class View(IntEnum):
    """Which alphas a pass goes by; rows of `SeededModel.alphas`."""

    SERVING = 0  # what users get
    TRAINING = 1  # seeds in training act fully
    WITHOUT = 2  # only fossils act


@dataclass(frozen=True, slots=True)
class Pass:
    """What one forward pass is for; each thread and task has its own.

    Attributes:
        view: which alphas hold.
        route: seed of each token or sequence, where the routing is by token; -1 for none.
        sums: takes the telemetry of each layer's seeds by the layer's name, where it is wanted.
        plans: what the kernels know of the route, so that layers of one pass sort it once.
        plain: whether only the host answers, with no seed and no other process asked.
    """

    view: View = View.SERVING
    route: Tensor | None = None
    sums: dict[str, Tensor] | None = None
    plans: dict[tuple[int, ...], Tensor] = field(default_factory=dict)
    plain: bool = False

    def plan(self, route: Tensor, x: Tensor, seeds: int) -> Tensor:
        """The plan of the route for a layer's input."""
        key = (seeds, *x.shape[:-1])
        if key not in self.plans:
            self.plans[key] = plan_route(route, x.shape[:-1], seeds)
        return self.plans[key]


PASS: ContextVar[Pass] = ContextVar("PASS", default=Pass())  # noqa: B039 - frozen, and without a route it keeps no plans


@dataclass(frozen=True, slots=True)
class OwnSeeds:
    """Seeds of one user's blueprint and one form.

    Attributes:
        form: what they compute.
        rows: (G,) which of the seeds here they are.
        columns: (G, w) the columns that each has, of those of all seeds here; for chunks.
    """

    form: Form
    rows: Tensor
    columns: Tensor


def slab_width(columns: tuple[int, int], seeds: int, routing: Routing, reads: Reads) -> int:
    """Columns of the slabs of a layer; see `SeededLayer`."""
    given, made = columns
    width = chunk_width(made, seeds) if routing == "chunk" else made
    return width + (given if reads == "input" else 0)


def column_pairs(
    columns: tuple[int, int], seeds: int, routing: Routing, reads: Reads
) -> tuple[Pair, ...]:
    """How many columns a seed of the layer may read and write: chunks differ by one."""
    given, made = columns
    if routing == "token":
        return ((given if reads == "input" else made, made),)
    base, longer = divmod(made, seeds)
    widths = [base + 1] * bool(longer) + [base] * bool(base)
    return tuple((width, width) for width in widths)


class SeededLayer(nn.Module):
    """A host layer with its seeds.

    With `reads="output"` a seed adapts what the host gives: y + alpha f(y). With `reads="input"` it reads
    what goes into the host and writes to what comes out, as LoRA does: y + alpha f(x). For that, input and
    output stand side by side in one row, of which a seed reads the left part and writes the right one; so
    both run in the same kernel.

    Where a group has sharded the seeds, only those of `held` have their weights here. Each process
    computes what its own seeds make of the whole batch, with zeros everywhere else, and the sum over all
    is the layer's output: as every token, or column, belongs to one seed, it is the same bit for bit.

    Attributes:
        host: the layer as it was, frozen.
        held: the seeds whose weights are here.
        down, up: (held seeds, rows, columns) the seeds' weights, see `kernels.layer.SeedTensors`.
        rank, blueprint: int32 (held seeds) as the kernels want them.
        alphas: float32 (views x seeds), rows by View; a part of the model's.
        own: the seeds that grew from users' blueprints and are awake.
        acts: by View, whether any alpha is not zero; known to the host.
    """

    down: nn.Parameter
    up: nn.Parameter
    rank: Tensor
    blueprint: Tensor

    def __init__(
        self,
        name: str,
        host: nn.Module,
        seeds: int,
        rows: int,
        columns: tuple[int, int],
        routing: Routing = "chunk",
        reads: Reads = "output",
        group: Alone | None = None,
    ) -> None:
        """Wrap a layer.

        Args:
            name: the layer's name in the model.
            host: the layer.
            seeds: how many.
            rows: greatest rank of any blueprint.
            columns: width of the host's input and output.
            routing: whether a seed has a part of the columns, or tokens of its own.
            reads: whether it reads the host's output or its input.
            group: the processes that train together, where there are several.

        Raises:
            InvalidError: seeds of chunks cannot read the input, or there are fewer seeds than shards.
        """
        super().__init__()
        if routing == "chunk" and reads == "input":
            raise InvalidError("reads", "expected output where the routing is by chunk")
        self.name, self.host, self.seeds = name, host, seeds
        self.group = group or Alone()
        self.held = self.group.held(seeds)
        if not self.held:
            expected = f"needs at least {self.group.size} seeds, one for each shard"
            raise InvalidError("seedsPerLayer", expected)
        self.routing, self.reads, self.columns = routing, reads, columns
        width = slab_width(columns, seeds, routing, reads)
        mine = len(self.held)
        shape = (mine, max(rows, MINIMUM_ROWS), width)
        device = next((p.device for p in host.parameters()), torch.device("cpu"))
        self.down = nn.Parameter(torch.zeros(shape, device=device))
        self.up = nn.Parameter(torch.zeros(shape, device=device))
        self.register_buffer(
            "rank", torch.zeros(mine, dtype=torch.int32, device=device), persistent=False
        )
        self.register_buffer(
            "blueprint", torch.zeros(mine, dtype=torch.int32, device=device), persistent=False
        )
        self.alphas = torch.zeros(len(View), seeds, device=device)
        self.acts = [False] * len(View)
        self.own: tuple[OwnSeeds, ...] = ()

    @property
    def width(self) -> int:
        """Columns of a seed's slab."""
        return self.down.shape[2]

    def widths(self) -> Tensor:
        """Columns of each seed, (seeds); those of chunks differ by one at most."""
        if self.routing == "token":
            return torch.full((self.seeds,), self.width)
        base, longer = divmod(self.columns[1], self.seeds)
        return base + (torch.arange(self.seeds) < longer).long()

    def pair(self, slot: int) -> Pair:
        """How many columns a seed reads, and how many it writes."""
        if self.routing == "token":
            return column_pairs(self.columns, self.seeds, self.routing, self.reads)[0]
        base, longer = divmod(self.columns[1], self.seeds)
        return (base + (slot < longer),) * 2

    def own_seeds(self, form: Form, pair: Pair, rows: Tensor) -> OwnSeeds:
        """These seeds of those here, as seeds of a user's blueprint."""
        base, longer = divmod(self.columns[1], self.seeds)
        slots = rows + self.held.start
        first = self.held.start * base + min(self.held.start, longer)
        begin = slots * base + slots.clamp(max=longer) - first
        return OwnSeeds(form, rows, begin[:, None] + torch.arange(pair[1], device=rows.device))

    def here(self, span: LayerSpan) -> slice:
        """The seeds whose weights are here, among those of all layers."""
        return slice(span.first + self.held.start, span.first + self.held.stop)

    def legible(self, down: Tensor) -> Tensor:
        """Rows for `down`, cut to what a seed may learn to read: not the output beside the input."""
        if self.reads == "output":
            return down
        return torch.cat(
            (down[..., : self.columns[0]], torch.zeros_like(down[..., self.columns[0] :])), -1
        )

    def legible_rows(self, down: Tensor, rows: Tensor) -> Tensor:
        """`legible` for these seeds of those here. A user's blueprint uses its slabs in its own way."""
        whole = self.blueprint[rows] == int(Blueprint.USER)
        return torch.where(whole[:, None, None], down, self.legible(down))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The host's answer, adapted by the seeds that act."""
        given = self.host(*args, **kwargs)
        now = PASS.get()
        if now.plain or (not self.acts[now.view] and now.sums is None):
            return given
        if isinstance(given, tuple):
            return (self._adapted(args, given[0], now), *given[1:])
        return self._adapted(args, given, now)

    def _adapted(self, args: tuple[Any, ...], y: Tensor, now: Pass) -> Tensor:
        acting, telling = self.acts[now.view], now.sums is not None
        if self.routing == "token" and now.route is None:
            return y
        split = self.group.sharded
        alpha = self.alphas[now.view, self.held.start : self.held.stop]
        seeds = SeedTensors(self.down, self.up, alpha, self.rank, self.blueprint)
        if self.routing == "chunk" and split:
            adapted, sums = self._shard_of_chunks(y, seeds, telemetry=telling, acting=acting)
        elif self.routing == "chunk":
            adapted, sums = seed_chunks(y, seeds, telemetry=telling, acting=acting)
            adapted = self._own_chunks(y, adapted, alpha, sums, acting=acting)
        else:
            assert now.route is not None
            beside = self.reads == "input"
            x = torch.cat((args[0].to(y.dtype), y), dim=-1) if beside else y
            route = now.route.to(y.device)
            x, route = (spread(x, self.group), self._here(route)) if split else (x, route)
            plan = now.plan(route, x, len(self.held))
            adapted, sums = seed_tokens(
                x, route, seeds, plan=plan, telemetry=telling, acting=acting
            )
            adapted = adapted[..., self.columns[0] :] if beside else adapted
            seen = x[..., : self.columns[0]] if beside else x
            for own in self.own if acting else ():
                share, weights = alpha[own.rows], self._weights(own)
                adapted, change = custom_tokens(
                    seen, adapted, route, share, own.rows, own.form, weights
                )
                _note_change(sums, own.rows, change)
            adapted = self._rows_of_mine(adapted, now.route.to(y.device)) if split else adapted
        if now.sums is not None and sums is not None:
            self._note(now.sums, sums)
        return summed(adapted, self.group) if split and acting else y if split else adapted

    def _own_chunks(
        self, x: Tensor, y: Tensor, alpha: Tensor, sums: Tensor | None, *, acting: bool
    ) -> Tensor:
        """Y with what the seeds of users' blueprints make of their chunks."""
        for own in self.own if acting else ():
            weights = self._weights(own)
            y, change = custom_chunks(x, y, alpha[own.rows], own.columns, own.form, weights)
            _note_change(sums, own.rows, change)
        return y

    def _weights(self, own: OwnSeeds) -> dict[str, Tensor]:
        return own.form.unpacked(self.down[own.rows], self.up[own.rows])

    def _note(self, told: dict[str, Tensor], sums: Tensor) -> None:
        whole = sums.new_zeros((self.seeds, sums.shape[1]))
        whole[self.held.start : self.held.stop] = sums
        before = told.get(self.name)
        told[self.name] = whole if before is None else before + whole

    def _shard_of_chunks(
        self, y: Tensor, seeds: SeedTensors, *, telemetry: bool, acting: bool
    ) -> tuple[Tensor, Tensor | None]:
        """The columns of the seeds that are here, adapted; zeros in those of others."""
        base, longer = divmod(self.columns[1], self.seeds)
        first, last = (at * base + min(at, longer) for at in (self.held.start, self.held.stop))
        part = spread(y, self.group)[..., first:last]
        width = chunk_width(last - first, len(self.held))
        cut = seeds._replace(down=seeds.down[..., :width], up=seeds.up[..., :width])
        adapted, sums = seed_chunks(part, cut, telemetry=telemetry, acting=acting)
        adapted = self._own_chunks(part, adapted, seeds.alpha, sums, acting=acting)
        return functional.pad(adapted, (first, y.shape[-1] - last)), sums

    def _here(self, route: Tensor) -> Tensor:
        """The route among the seeds that are here; -1 for the others'."""
        mine = (route >= self.held.start) & (route < self.held.stop)
        return torch.where(mine, route - self.held.start, -1)

    def _rows_of_mine(self, adapted: Tensor, route: Tensor) -> Tensor:
        """The rows of the seeds that are here, zeros in the others'. The first keeps those of nobody."""
        mine = (route >= self.held.start) & (route < self.held.stop)
        if self.group.leads:
            mine = mine | (route < 0) | (route >= self.seeds)
        mine = mine.view(*mine.shape, *(1 for _ in range(adapted.dim() - mine.dim())))
        return torch.where(mine, adapted, 0.0)


def _note_change(sums: Tensor | None, rows: Tensor, change: Tensor) -> None:
    """Into the telemetry, where it is wanted: how much these seeds have changed."""
    if sums is not None:
        sums[rows, Measure.CHANGE] += change.to(sums.dtype)
