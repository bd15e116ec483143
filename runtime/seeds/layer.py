"""A layer of a frozen model that carries seeds. The host is always called; what it gives is adapted."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Literal

import torch
from torch import Tensor, nn

from seedbed.crds.errors import InvalidError
from seedbed.kernels.layer import (
    MINIMUM_ROWS,
    SeedTensors,
    chunk_width,
    plan_route,
    seed_chunks,
    seed_tokens,
)

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
        plans: what the GPU's kernels know of the route, so that layers of one pass sort it once.
    """

    view: View = View.SERVING
    route: Tensor | None = None
    sums: dict[str, Tensor] | None = None
    plans: dict[tuple[int, ...], Tensor] = field(default_factory=dict)

    def plan(self, route: Tensor, x: Tensor, seeds: int) -> Tensor | None:
        """The plan of the route for a layer's input; None on a CPU, which needs none."""
        if not x.is_cuda:
            return None
        key = (seeds, *x.shape[:-1])
        if key not in self.plans:
            self.plans[key] = plan_route(route, x.shape[:-1], seeds)
        return self.plans[key]


PASS: ContextVar[Pass] = ContextVar("PASS", default=Pass())  # noqa: B039 - frozen, and without a route it keeps no plans


class SeededLayer(nn.Module):
    """A host layer with its seeds.

    With `reads="output"` a seed adapts what the host gives: y + alpha f(y). With `reads="input"` it reads
    what goes into the host and writes to what comes out, as LoRA does: y + alpha f(x). For that, input and
    output stand side by side in one row, of which a seed reads the left part and writes the right one; so
    both run in the same kernel.

    Attributes:
        host: the layer as it was, frozen.
        down, up: (seeds, rows, columns) the seeds' weights, see `kernels.layer.SeedTensors`.
        rank, blueprint: int32 (seeds) as the kernels want them.
        alphas: float32 (views x seeds), rows by View; a part of the model's.
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

        Raises:
            InvalidError: seeds of chunks cannot read the input.
        """
        super().__init__()
        if routing == "chunk" and reads == "input":
            raise InvalidError("reads", "expected output where the routing is by chunk")
        self.name, self.host, self.seeds = name, host, seeds
        self.routing, self.reads, self.columns = routing, reads, columns
        given, made = columns
        width = chunk_width(made, seeds) if routing == "chunk" else made
        width += given if reads == "input" else 0
        shape = (seeds, max(rows, MINIMUM_ROWS), width)
        device = next((p.device for p in host.parameters()), torch.device("cpu"))
        self.down = nn.Parameter(torch.zeros(shape, device=device))
        self.up = nn.Parameter(torch.zeros(shape, device=device))
        self.register_buffer(
            "rank", torch.zeros(seeds, dtype=torch.int32, device=device), persistent=False
        )
        self.register_buffer(
            "blueprint", torch.zeros(seeds, dtype=torch.int32, device=device), persistent=False
        )
        self.alphas = torch.zeros(len(View), seeds, device=device)
        self.acts = [False] * len(View)

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

    def legible(self, down: Tensor) -> Tensor:
        """Rows for `down`, cut to what a seed may learn to read: not the output beside the input."""
        if self.reads == "output":
            return down
        return torch.cat(
            (down[..., : self.columns[0]], torch.zeros_like(down[..., self.columns[0] :])), -1
        )

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The host's answer, adapted by the seeds that act."""
        given = self.host(*args, **kwargs)
        now = PASS.get()
        if isinstance(given, tuple):
            return (self._adapted(args, given[0], now), *given[1:])
        return self._adapted(args, given, now)

    def _adapted(self, args: tuple[Any, ...], y: Tensor, now: Pass) -> Tensor:
        acting, telling = self.acts[now.view], now.sums is not None
        if not acting and not telling:
            return y
        seeds = SeedTensors(self.down, self.up, self.alphas[now.view], self.rank, self.blueprint)
        if self.routing == "chunk":
            adapted, sums = seed_chunks(y, seeds, telemetry=telling, acting=acting)
        elif now.route is None:
            return y
        else:
            beside = self.reads == "input"
            x = torch.cat((args[0].to(y.dtype), y), dim=-1) if beside else y
            route = now.route.to(y.device)
            plan = now.plan(route, x, self.seeds)
            adapted, sums = seed_tokens(
                x, route, seeds, plan=plan, telemetry=telling, acting=acting
            )
            adapted = adapted[..., self.columns[0] :] if beside else adapted
        if now.sums is not None and sums is not None:
            before = now.sums.get(self.name)
            now.sums[self.name] = sums if before is None else before + sums
        return adapted
