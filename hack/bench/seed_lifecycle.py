"""What the life of seeds costs beside their forward pass: moves, blending, decisions, checkpoints.

    python hack/bench/seed_lifecycle.py [--seeds 10000] [--rounds 30]

Moves, blending and decisions are of `--seeds` seeds at once, on the CPU with one thread unless --device says
otherwise; a tenth of the seeds moves. Checkpoints are of 1,000 seeds of rank 8 and width 64 that all have
weights, each into a file of its own on the file system of --folder, without fsync. Each figure is the
median of the rounds. The limits are those of the requirements: a transition is one seed's share of a move
of many at once, and the strategy's limit is held against 1,000 seeds. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import nn

from seedbed.runtime.seeds import grafting
from seedbed.runtime.seeds.attach import AttachSpec, attach
from seedbed.runtime.seeds.blueprints import Growth
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.model import SeededModel
from seedbed.runtime.seeds.rules import Rules
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Core, SeedState
from seedbed.runtime.seeds.telemetry import LayerSpan, Telemetry

LIMITS_MS = {"transition": 0.1, "strategy": 0.5, "save": 10.0, "restore": 20.0}


def median_ms(part: Callable[[], Any], rounds: int, device: torch.device) -> float:
    """Median milliseconds of a part, after three rounds of warming up."""
    times = []
    for at in range(rounds + 3):
        started = time.perf_counter_ns()
        part()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if at >= 3:
            times.append((time.perf_counter_ns() - started) / 1e6)
    return round(statistics.median(times), 4)


def mixed(seeds: int, device: torch.device) -> SeedState:
    """Seeds in all stages, a tenth of them sleeping."""
    state = SeedState.dormant(seeds)
    chance = torch.Generator().manual_seed(1)
    state.core[:, Core.STAGE] = torch.randint(0, 11, (seeds,), generator=chance, dtype=torch.int32)
    state.core[:, Core.STRATEGY] = torch.randint(
        0, 5, (seeds,), generator=chance, dtype=torch.int32
    )
    state.graft.copy_(torch.rand(state.graft.shape, generator=chance))
    return state.to(device)


def life(seeds: int, rounds: int, device: torch.device) -> dict[str, float]:
    """Moves, blending and decisions of so many seeds."""
    state = mixed(seeds, device)
    away = torch.full((seeds,), -1, device=device)
    away[::10] = Stage.GERMINATED
    back = torch.full((seeds,), -1, device=device)
    back[::10] = Stage.CANCELLED
    state.core[::10, Core.STAGE] = Stage.DORMANT
    state.core[:: 10 * 2, Core.STAGE] = Stage.CANCELLED
    turn = [away, back, torch.where(away >= 0, Stage.DORMANT, -1)]
    at = 0

    def moves() -> None:
        nonlocal at
        state.move(turn[at % 3], at)
        at += 1

    moved = mixed(seeds, torch.device("cpu"))
    told = Telemetry(9, 0.1, (0.5,) * 9, moved.metrics, (LayerSpan("layer", 0, seeds),))
    asleep = SeedState.dormant(seeds)
    fewer, one = mixed(1000, device), torch.full((1000,), -1, device=device)
    one[0] = Stage.GERMINATED
    return {
        "moves_ms": median_ms(moves, rounds, device),
        "thousand_moves_ms": median_ms(lambda: fewer.move(one, 1), rounds, device),
        "strategy_ms": median_ms(lambda: grafting.step(state), rounds, device),
        "thousand_strategy_ms": median_ms(lambda: grafting.step(fewer), rounds, device),
        "decide_ms": median_ms(lambda: Rules().decide(told, asleep), rounds, device),
    }


def grown(device: torch.device) -> SeededModel:
    """A thousand seeds that all have weights; ten of them learn."""
    spec = AttachSpec(
        ("0",), seeds_per_layer=1000, routing="token", blueprints=(Growth("thin", rank=8),)
    )
    model = attach(nn.Sequential(nn.Linear(64, 64)).to(device), spec, Features.all_on())
    model.state.core[:, Core.STAGE] = Stage.FOSSILISED
    model.state.core[:10, Core.STAGE] = Stage.TRAINING
    model.state.core[:, Core.BLUEPRINT] = 1
    with torch.no_grad():
        model.layers[0].down.normal_()
        model.layers[0].up.normal_()
    model.refresh()
    return model


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--folder", type=Path, default=None)
    asked = parser.parse_args()
    device = torch.device(asked.device)
    torch.set_num_threads(1)
    found = life(asked.seeds, asked.rounds, device)
    model, again = grown(device), grown(device)
    with tempfile.TemporaryDirectory(dir=asked.folder) as folder:
        names = iter(Path(folder) / f"seeds-{at}.safetensors" for at in range(asked.rounds + 3))
        path = Path(folder) / "seeds-0.safetensors"
        found["save_ms"] = median_ms(lambda: model.save(next(names)), asked.rounds, device)
        found["restore_ms"] = median_ms(lambda: again.load(path), asked.rounds, device)
        size = path.stat().st_size
    per_move = found["moves_ms"] / (asked.seeds / 10)
    met = {
        "transition": per_move < LIMITS_MS["transition"],
        "strategy": found["thousand_strategy_ms"] < LIMITS_MS["strategy"],
        "save": found["save_ms"] < LIMITS_MS["save"],
        "restore": found["restore_ms"] < LIMITS_MS["restore"],
    }
    print(
        json.dumps(
            {
                "benchmark": "seed_lifecycle",
                "seeds": asked.seeds,
                "moved_at_once": asked.seeds // 10,
                **found,
                "us_per_move": round(per_move * 1000, 4),
                "bytes_per_seed": model.state.bytes_per_seed,
                "checkpoint_seeds": 1000,
                "checkpoint_bytes": size,
                "checkpoints_per_second": round(1000 / found["save_ms"]),
                "limits_ms": LIMITS_MS,
                "met": met,
                "device": str(device),
                "rounds": asked.rounds,
                "machine": f"{os.cpu_count()} CPUs, Python {platform.python_version()}, "
                f"torch {torch.__version__}, 1 thread",
                "load": [round(each, 2) for each in os.getloadavg()],
            }
        )
    )


if __name__ == "__main__":
    main()
