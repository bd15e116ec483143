"""The checks of `seeds_h200` beside its shapes: seeds at rest, a swap of blueprints, a whole model."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from hack.bench.seeds_case import made
from hack.bench.seeds_timing import (
    Way,
    device,
    graphed,
    percentiles,
    rehearsing,
    replayed,
    settled,
)
from seedbed.kernels import Blueprint, SeedTensors, plan_route, seed_tokens
from seedbed.kernels.reference import reference_tokens


def at_rest() -> dict[str, Any]:
    """A host layer alone, with 1,024 seeds that the host knows to rest, and with such that it does not."""
    case = made("M1")
    width = case.shape.columns
    host = torch.nn.Linear(width, width, device=device(), dtype=torch.bfloat16)
    case.state.alpha.zero_()
    plan = plan_route(case.seed_of, case.x.shape[:1], case.shape.seeds)

    def rest(*, acting: bool) -> Tensor:
        y = host(case.x)
        return seed_tokens(y, case.seed_of, case.state, plan=plan, acting=acting)[0]

    alone = replayed(lambda: host(case.x))
    return {
        "host_us": round(alone * 1e6, 2),
        "share_of_host": round(replayed(lambda: rest(acting=False)) / alone, 4),
        "share_of_host_unknown_to_it": round(replayed(lambda: rest(acting=True)) / alone, 4),
    }


@contextlib.contextmanager
def _compilations() -> Iterator[list[object]]:
    """What Triton compiles meanwhile."""
    found: list[object] = []
    if rehearsing():
        yield found
        return
    import triton  # noqa: PLC0415 - needs Triton

    triton.knobs.runtime.jit_post_compile_hook = lambda **_: found.append(1)
    try:
        yield found
    finally:
        triton.knobs.runtime.jit_post_compile_hook = None


def swapped() -> dict[str, Any]:
    """Kernels compiled while other blueprints, ranks and shares take the seeds' places, in one graph."""
    case = made("M1")
    plan = plan_route(case.seed_of, case.x.shape[:1], case.shape.seeds)
    outputs: list[Tensor] = []

    def call() -> None:
        outputs.append(seed_tokens(case.x, case.seed_of, case.state, plan=plan)[0])

    replay = graphed(call)
    few = slice(0, case.shape.each * 8)
    errors = []
    with _compilations() as found:
        for blueprint in (Blueprint.MLP, Blueprint.NORM, Blueprint.LOW_RANK):
            case.state.blueprint.fill_(int(blueprint))
            case.state.rank.copy_(torch.randint(4, case.shape.rank + 1, (case.shape.seeds,)))
            case.state.alpha.copy_(torch.rand(case.shape.seeds))
            replay()
            settled()
            part = SeedTensors(*(tensor[:8].cpu() for tensor in case.state))
            want, _ = reference_tokens(case.x[few].cpu(), case.seed_of[few].cpu(), part)
            y = outputs[-1][few].cpu().double()
            errors.append(float((y - want).norm() / want.norm()))
            call()  # and once without the graph
            outputs.pop()
    return {"compiled": len(found), "relative_errors": errors}


def model() -> dict[str, Any]:
    """12 encoder layers of width 768, 64 sequences of 128 tokens, 1,024 seeds of rank 8 in each layer."""
    like: dict[str, Any] = {"device": device(), "dtype": torch.bfloat16}
    many, long, seeds = (2, 4, 16) if rehearsing() else (64, 128, 1024)
    layers = [
        torch.nn.TransformerEncoderLayer(768, 12, 3072, batch_first=True, **like).eval()
        for _ in range(2 if rehearsing() else 12)
    ]
    states = [
        SeedTensors(
            torch.randn(seeds, 8, 768, **like) / 28, torch.randn(seeds, 8, 768, **like) / 28,
            torch.ones(seeds, device=device()),
            torch.full((seeds,), 8, dtype=torch.int32, device=device()),
            torch.zeros(seeds, dtype=torch.int32, device=device()),
        )
        for _ in layers
    ]  # fmt: skip
    x = torch.randn(many, long, 768, **like)
    seed_of = torch.randint(0, seeds, (many,), device=device(), dtype=torch.int32)

    def forward(*, seeded: bool) -> Tensor:
        y = x
        plan = plan_route(seed_of, y.shape[:2], seeds) if seeded else None
        for each, state in zip(layers, states, strict=True):
            y = each(y)
            if seeded:
                y, _ = seed_tokens(y, seed_of, state, plan=plan)
        return y

    return {
        "host": percentiles(lambda: forward(seeded=False), 200),
        "with 12 x 1024 seeds": percentiles(lambda: forward(seeded=True), 200),
        "utilisation_percent": utilisation(lambda: forward(seeded=True)),
    }


def utilisation(way: Way) -> float | str | None:
    """Mean of what nvidia-smi shows while the call repeats for three seconds."""
    if rehearsing():
        return None
    query = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    seen, ends = [], time.perf_counter() + 3
    try:
        while time.perf_counter() < ends:
            asked = subprocess.Popen(query, stdout=subprocess.PIPE, text=True)
            while asked.poll() is None and time.perf_counter() < ends + 10:
                way()
            asked.kill()
            torch.cuda.synchronize()
            told, _ = asked.communicate()
            seen.append(float(told.split()[0]))
    except (OSError, ValueError, IndexError) as refusal:
        return f"not measured: {refusal}"
    return statistics.mean(seen[1:] or seen)
