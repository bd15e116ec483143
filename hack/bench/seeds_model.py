"""What a thousand seeds a layer cost a model of 12 layers of width 768 on the CPU, acting and at rest.

    python hack/bench/seeds_model.py

A part of `seeds` that can run alone. The model is 12 blocks of a linear layer and a GELU, with random
weights; the batch has 16 tokens, each of a seed of its own, so that up to 16 of a layer's 1,024 low-rank
seeds of rank 8 have work. All of it goes through `SeededModel.forward`, as in a pod, with one thread.

`cpu_forward_p99_ms_12x768_with_12288_seeds`: all seeds are fossils and act; the 99th percentile of the
passes. `cpu_at_rest_share_of_host`: all are dormant; the median over rounds of the time with them as a
share of the time of the same blocks called one after another without them, both in each round, in turn
first.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor, nn

from seedbed.runtime.seeds.attach import AttachSpec, attach
from seedbed.runtime.seeds.blueprints import Growth
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.model import SeededModel
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Core, Graft

LAYERS, WIDTH, SEEDS, RANK, TOKENS = 12, 768, 1024, 8, 16
LIMIT_MS = 100.0
Pass = Callable[[], Tensor]


def host() -> nn.Sequential:
    """The model without seeds; the same each time."""
    torch.manual_seed(0)
    blocks = (nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.GELU()) for _ in range(LAYERS))
    return nn.Sequential(*blocks).eval()


def seeded() -> SeededModel:
    """The same model with dormant seeds on each block."""
    names = tuple(str(at) for at in range(LAYERS))
    growth = (Growth("thin", rank=RANK),)
    spec = AttachSpec(names, seeds_per_layer=SEEDS, routing="token", blueprints=growth)
    return attach(host(), spec, Features.all_on())


def fossilised(model: SeededModel) -> None:
    """Let all seeds act, with small random weights."""
    model.state.core[:, Core.STAGE] = Stage.FOSSILISED
    model.state.core[:, Core.BLUEPRINT] = 1
    model.state.graft[:, Graft.ALPHA] = 1.0
    with torch.no_grad():
        for layer in model.layers:
            layer.down.normal_(0.0, WIDTH**-0.5)
            layer.up.normal_(0.0, 0.01)
    model.refresh()


def seconds(one: Pass) -> float:
    """Of one pass."""
    begun = time.perf_counter()
    one()
    return time.perf_counter() - begun


def shares(mine: Pass, other: Pass, rounds: int) -> list[float]:
    """Time of mine as a share of the other's, round by round; they take turns in being first."""
    found = []
    for number in range(rounds):
        if number % 2:
            taken, base = seconds(mine), seconds(other)
        else:
            base, taken = seconds(other), seconds(mine)
        found.append(taken / base)
    return found


def percentiles(one: Pass, passes: int) -> tuple[float, float]:
    """P50 and P99 in milliseconds."""
    cuts = statistics.quantiles([seconds(one) * 1e3 for _ in range(passes)], n=100)
    return round(cuts[49], 3), round(cuts[98], 3)


def measured(rounds: int = 400) -> dict[str, Any]:
    """The figures."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    model = seeded()
    plain = nn.Sequential(*(layer.host for layer in model.layers))
    x, route = torch.randn(TOKENS, WIDTH), torch.randperm(SEEDS)[:TOKENS]

    def alone() -> Tensor:
        with torch.inference_mode():
            result: Tensor = plain(x)
        return result

    def with_seeds() -> Tensor:
        result: Tensor = model.forward(x, route=route)
        return result

    assert torch.equal(alone(), with_seeds())
    shares(with_seeds, alone, 20)
    rest = shares(with_seeds, alone, rounds)
    fossilised(model)
    assert not torch.equal(alone(), with_seeds())
    p50, p99 = percentiles(with_seeds, rounds // 2)
    of_host = percentiles(alone, rounds // 2)
    torch.set_num_threads(before)
    return {
        "cpu_forward_p50_ms_12x768_with_12288_seeds": p50,
        "cpu_forward_p99_ms_12x768_with_12288_seeds": p99,
        "cpu_forward_p99_met": p99 < LIMIT_MS,
        "cpu_forward_ms_12x768_host": {"p50": of_host[0], "p99": of_host[1]},
        "cpu_at_rest_share_of_host": round(statistics.median(rest), 4),
    }


if __name__ == "__main__":
    print(json.dumps(measured()))
