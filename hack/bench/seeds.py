"""A thousand seeds in one call, against a loop and against batched and grouped products.

    python hack/bench/seeds.py [--rounds 40] [--skip-gpu]

Needs torch and nothing else of Seedbed's; with an H200 at hand it measures that too, in under 8 minutes,
see `seeds_h200`. On the CPU: S = 1,024 seeds, width 64, rank 8, fp32, each seed with 1, 4, 16 or 64 tokens
that come in the order of the seeds, so that no rival has to sort; and the same in random order, where all
sort. Every way is checked against the fp64 reference first. In each round the ways run in another order,
and the figure is the median over the rounds; figures of 1 and 2 threads stand side by side.
`cpu_speedup_vs_loop` and `cpu_speedup_vs_best_baseline` are the smallest over all these cases.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "hack" / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch
from torch import Tensor

from hack.bench import seeds_h200
from seedbed.kernels import SeedTensors, seed_chunks, seed_tokens
from seedbed.kernels.reference import reference_tokens

SEEDS, WIDTH, RANK = 1024, 64, 8
EACH = (1, 4, 16, 64)
CLOSE = 1e-5
Way = Callable[[], Tensor]


def layer(seeds: int, rank: int, width: int) -> SeedTensors:
    """Low-rank seeds of full rank that all act."""
    return SeedTensors(
        torch.randn(seeds, rank, width) / width**0.5,
        torch.randn(seeds, rank, width) / rank**0.5,
        torch.rand(seeds) + 0.1,
        torch.full((seeds,), rank, dtype=torch.int32),
        torch.zeros(seeds, dtype=torch.int32),
    )


def looped(x: Tensor, state: SeedTensors, each: int) -> Tensor:
    """One seed after another."""
    y = torch.empty_like(x)
    for s in range(len(state.alpha)):
        mine = x[s * each : (s + 1) * each]
        hidden = mine @ state.down[s].T
        y[s * each : (s + 1) * each] = mine + state.alpha[s] * (hidden @ state.up[s])
    return y


def ways(
    x: Tensor, seed_of: Tensor, state: SeedTensors, each: int, *, mixed: bool
) -> dict[str, Way]:
    """Ours and the rivals. A rival gets the parameters laid out as it likes them."""
    seeds, tokens = len(state.alpha), len(x)
    into = state.down.transpose(1, 2).contiguous()
    share = state.alpha[:, None, None]
    ends = torch.arange(each, tokens + 1, each, dtype=torch.int32)
    by_token = state.alpha.repeat_interleave(each)[:, None]

    def routed(compute: Callable[[Tensor], Tensor]) -> Way:
        def sort_first() -> Tensor:
            order = torch.argsort(seed_of)
            y = torch.empty_like(x)
            y[order] = compute(x[order])
            return y

        return sort_first if mixed else lambda: compute(x)

    def bmm(t: Tensor) -> Tensor:
        t = t.view(seeds, each, -1)
        return torch.baddbmm(t, torch.bmm(t, into) * share, state.up).view(tokens, -1)

    def bmm_transposed(t: Tensor) -> Tensor:
        t = t.view(seeds, each, -1)
        hidden = torch.bmm(t, state.down.transpose(1, 2)) * share
        return torch.baddbmm(t, hidden, state.up).view(tokens, -1)

    def einsum(t: Tensor) -> Tensor:
        t = t.view(seeds, each, -1)
        hidden = torch.einsum("snw,srw->snr", t, state.down)
        return (t + share * torch.einsum("snr,srw->snw", hidden, state.up)).view(tokens, -1)

    def grouped(t: Tensor) -> Tensor:
        hidden = torch.nn.functional.grouped_mm(t, into, offs=ends) * by_token
        return t + torch.nn.functional.grouped_mm(hidden, state.up, offs=ends)

    return {
        "ours": lambda: seed_tokens(x, seed_of, state)[0],
        "loop": routed(lambda t: looped(t, state, each)),
        "baddbmm": routed(bmm),
        "baddbmm, A transposed": routed(bmm_transposed),
        "einsum": routed(einsum),
        "grouped_mm": routed(grouped),
    }


def batched_chunks(x: Tensor, state: SeedTensors) -> Tensor:
    """Chunks as one batched product, laid back as they came."""
    by_seed = x.view(len(x), len(state.alpha), -1).transpose(0, 1)
    hidden = torch.bmm(by_seed, state.down.transpose(1, 2)) * state.alpha[:, None, None]
    return torch.baddbmm(by_seed, hidden, state.up).transpose(0, 1).reshape(x.shape)


def timed(rivals: dict[str, Way], rounds: int) -> dict[str, float]:
    """Median microseconds of each; the slow ones run in fewer rounds."""
    times: dict[str, list[float]] = {name: [] for name in rivals}
    slow = dict.fromkeys(rivals, 0)
    for name, way in rivals.items():
        way()
        begun = time.perf_counter()
        way()
        slow[name] = 1 + int((time.perf_counter() - begun) / 0.02)
    for number in range(rounds):
        now = [name for name in rivals if number % slow[name] == 0]
        random.shuffle(now)
        for name in now:
            begun = time.perf_counter()
            rivals[name]()
            times[name].append((time.perf_counter() - begun) * 1e6)
    return {name: round(statistics.median(taken), 1) for name, taken in times.items()}


def compared(each: int, rounds: int, *, mixed: bool) -> dict[str, Any]:
    """One case: every way checked, then timed."""
    state = layer(SEEDS, RANK, WIDTH)
    seed_of = torch.arange(SEEDS).repeat_interleave(each)
    x = torch.randn(SEEDS * each, WIDTH)
    if mixed:
        seed_of = seed_of[torch.randperm(len(seed_of))]
    exact, _ = reference_tokens(x, seed_of, state)
    rivals = ways(x, seed_of, state, each, mixed=mixed)
    for name, way in list(rivals.items()):
        error = float((way().double() - exact).norm() / exact.norm())
        assert error <= CLOSE, (name, error)
    took = timed(rivals, rounds)
    best = min((name for name in took if name not in {"ours", "loop"}), key=took.__getitem__)
    return {
        "microseconds": took,
        "vs_loop": round(took["loop"] / took["ours"], 2),
        "best_baseline": best,
        "vs_best_baseline": round(took[best] / took["ours"], 3),
    }


def reference_model(passes: int) -> dict[str, Any]:
    """12 layers of width 768, each with 1,024 seeds of rank 8 by chunk; and all of them at rest."""
    block = torch.nn.Sequential(torch.nn.Linear(768, 768), torch.nn.GELU())
    blocks = [block] + [
        torch.nn.Sequential(torch.nn.Linear(768, 768), torch.nn.GELU()) for _ in range(11)
    ]
    states = [layer(1024, 8, 768) for _ in blocks]
    x, seed_of = torch.randn(16, 768), torch.randint(0, 1024, (16,))

    def host() -> Tensor:
        y = x
        for each in blocks:
            y = each(y)
        return y

    def seeded(*, acting: bool) -> Tensor:
        y = x
        for each, state in zip(blocks, states, strict=True):
            y, _ = seed_tokens(each(y), seed_of, state, acting=acting)
        return y

    def percentiles(way: Way) -> dict[str, float]:
        way()
        taken = []
        for _ in range(passes):
            begun = time.perf_counter()
            way()
            taken.append((time.perf_counter() - begun) * 1e3)
        cuts = statistics.quantiles(taken, n=100, method="inclusive")
        return {"p50_ms": round(cuts[49], 3), "p99_ms": round(cuts[98], 3)}

    rest = timed({"host": host, "at rest": lambda: seeded(acting=False)}, passes)
    return {
        "host": percentiles(host),
        "with 12 x 1024 seeds": percentiles(lambda: seeded(acting=True)),
        "all at rest / host": round(rest["at rest"] / rest["host"], 4),
    }


def on_cpu(rounds: int) -> dict[str, Any]:
    """All cases with 1 and 2 threads."""
    cases: dict[str, Any] = {}
    model: dict[str, Any] = {}
    with torch.inference_mode():
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for each in EACH:
                for mixed in (False, True):
                    name = (
                        f"{threads} threads, {each} tokens each, {'mixed' if mixed else 'sorted'}"
                    )
                    cases[name] = compared(each, rounds, mixed=mixed)
                    print(name, json.dumps(cases[name]), flush=True)
            model[f"{threads} threads"] = reference_model(100)
    wide = torch.randn(16, SEEDS * WIDTH)
    state = layer(SEEDS, RANK, WIDTH)
    torch.set_num_threads(1)
    with torch.inference_mode():
        chunked = timed(
            {
                "ours": lambda: seed_chunks(wide, state)[0],
                "baddbmm": lambda: batched_chunks(wide, state),
            },
            rounds,
        )
    return {
        "cpu_speedup_vs_loop": min(case["vs_loop"] for case in cases.values()),
        "cpu_speedup_vs_best_baseline": min(case["vs_best_baseline"] for case in cases.values()),
        "cpu": cases,
        "cpu_chunks_microseconds": chunked,
        "cpu_model_12x768_16_tokens": model,
    }


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--skip-gpu", action="store_true")
    parser.add_argument("--skip-cpu", action="store_true")
    given = parser.parse_args()
    torch.manual_seed(0)
    random.seed(0)
    result: dict[str, Any] = {
        "torch": torch.__version__, "machine": platform.processor() or platform.machine(),
        "cores": os.cpu_count(), "seeds": SEEDS, "width": WIDTH, "rank": RANK,
    }  # fmt: skip
    if not given.skip_cpu:
        result |= on_cpu(given.rounds)
    result["h200"] = "not measured: --skip-gpu" if given.skip_gpu else seeds_h200.measured()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
