"""A thousand seeds in one call, against a loop and against batched and grouped products.

    python hack/bench/seeds.py [--rounds 40] [--skip-gpu]

Needs torch and numba (`compiled_loops` in the result) and nothing else of Seedbed's; with an H200 at hand
it measures that too, in under 8 minutes, see `seeds_h200`. On the CPU: S = 1,024 seeds, width 64,
rank 8, fp32, each seed with 1, 4, 16 or 64 tokens.
Three cases of each, in which all ways know the same:

- told, sorted: the tokens come in even blocks in the order of the seeds, and all know it; nobody sorts.
- told, mixed: random order; the sorted order and the way back are at hand for all, as for the second layer
  of a model whose layers serve one batch.
- found, mixed: random order, and all sort within the call.

The rivals compute nothing but a low-rank seed of full rank that acts. Ours looks at the state of each seed
in each call. "Ours, told nothing" finds the order of the tokens in the call where the others are told; it
does not count below. Compiling comes before the first call and is not measured.
Rivals get the parameters laid out as they like them and write over nothing but copies of their own.
Every way is checked against the fp64 reference first. In each round the ways run in another order, a
few calls each. The figure is the median; the shortest call stands beside, and figures of 1 and 2 threads side
by side. `cpu_speedup_vs_loop` and `cpu_speedup_vs_best_baseline` are the smallest over the cases of up to 16
tokens a seed, which is what tenants send at once. With 64 each product of the loop is large by itself, and
the loop loses little: those cases stand beside, with figures of their own.
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
from seedbed.kernels import SeedTensors, plan_route, prepare, seed_chunks, seed_tokens
from seedbed.kernels.reference import reference_tokens

SEEDS, WIDTH, RANK = 1024, 64, 8
EACH = (1, 4, 16, 64)
FEW = 16
CLOSE = 1e-5
TURN = 4
NO_RIVALS = {"ours", "ours, told nothing", "loop"}
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
    x: Tensor, seed_of: Tensor, state: SeedTensors, each: int, *, told: bool, mixed: bool
) -> dict[str, Way]:
    """Ours and the rivals."""
    seeds, tokens = len(state.alpha), len(x)
    into = state.down.transpose(1, 2).contiguous()
    share = state.alpha[:, None, None]
    ends = torch.arange(each, tokens + 1, each, dtype=torch.int32)
    by_token = state.alpha.repeat_interleave(each)[:, None]
    known = torch.argsort(seed_of, stable=True)
    each_place = torch.arange(tokens)
    back = torch.empty_like(known).scatter_(0, known, each_place)
    plan = plan_route(seed_of, (tokens,), seeds) if told else None

    def routed(compute: Callable[[Tensor], Tensor]) -> Way:
        def by_order() -> Tensor:
            return compute(x.index_select(0, known)).index_select(0, back)

        def by_order_found() -> Tensor:
            order = torch.argsort(seed_of, stable=True)
            places = torch.empty_like(order).scatter_(0, order, each_place)
            return compute(x.index_select(0, order)).index_select(0, places)

        if not mixed:
            return lambda: compute(x)
        return by_order if told else by_order_found

    def bmm(t: Tensor) -> Tensor:
        t = t.view(seeds, each, -1)
        return torch.baddbmm(t, torch.bmm(t, into).mul_(share), state.up).view(tokens, -1)

    def bmm_transposed(t: Tensor) -> Tensor:
        t = t.view(seeds, each, -1)
        hidden = torch.bmm(t, state.down.transpose(1, 2)).mul_(share)
        return torch.baddbmm(t, hidden, state.up).view(tokens, -1)

    def einsum(t: Tensor) -> Tensor:
        t = t.view(seeds, each, -1)
        hidden = torch.einsum("snw,srw->snr", t, state.down).mul_(share)
        return torch.einsum("snr,srw->snw", hidden, state.up).add_(t).view(tokens, -1)

    def grouped(t: Tensor) -> Tensor:
        hidden = torch.nn.functional.grouped_mm(t, into, offs=ends).mul_(by_token)
        return torch.nn.functional.grouped_mm(hidden, state.up, offs=ends).add_(t)

    return {
        "ours": lambda: seed_tokens(x, seed_of, state, plan=plan)[0],
        "ours, told nothing": lambda: seed_tokens(x, seed_of, state)[0],
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


def timed(rivals: dict[str, Way], rounds: int) -> dict[str, list[float]]:
    """Microseconds of each one's calls; the slow ones run in fewer rounds.

    A turn is a few calls of one way, of which the first, for which the caches are full of the last way's
    data, does not count.
    """
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
            rivals[name]()
            for _ in range(TURN if slow[name] == 1 else 1):
                begun = time.perf_counter()
                rivals[name]()
                times[name].append((time.perf_counter() - begun) * 1e6)
    return times


def medians(times: dict[str, list[float]]) -> dict[str, float]:
    """The median call of each."""
    return {name: round(statistics.median(taken), 1) for name, taken in times.items()}


def compared(each: int, rounds: int, *, told: bool, mixed: bool) -> dict[str, Any]:
    """One case: every way checked, then timed."""
    state = layer(SEEDS, RANK, WIDTH)
    seed_of = torch.arange(SEEDS).repeat_interleave(each)
    x = torch.randn(SEEDS * each, WIDTH)
    if mixed:
        seed_of = seed_of[torch.randperm(len(seed_of))]
    exact, _ = reference_tokens(x, seed_of, state)
    rivals = ways(x, seed_of, state, each, told=told, mixed=mixed)
    for name, way in list(rivals.items()):
        error = float((way().double() - exact).norm() / exact.norm())
        assert error <= CLOSE, (name, error)
    times = timed(rivals, rounds)
    took = medians(times)
    best = min((name for name in took if name not in NO_RIVALS), key=took.__getitem__)
    return {
        "microseconds": took,
        "shortest_microseconds": {name: round(min(taken), 1) for name, taken in times.items()},
        "vs_loop": round(took["loop"] / took["ours"], 2),
        "best_baseline": best,
        "vs_best_baseline": round(took[best] / took["ours"], 3),
    }


def on_cpu(rounds: int) -> dict[str, Any]:
    """All cases with 1 and 2 threads."""
    few: dict[str, Any] = {}
    many: dict[str, Any] = {}
    with torch.inference_mode():
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for each in EACH:
                cases = few if each <= FEW else many
                for told, mixed in ((True, False), (True, True), (False, True)):
                    order = f"{'told' if told else 'found'}, {'mixed' if mixed else 'sorted'}"
                    name = f"{threads} threads, {each} tokens each, {order}"
                    cases[name] = compared(each, rounds, told=told, mixed=mixed)
                    print(name, json.dumps(cases[name]), flush=True)
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
        "cpu_speedup_vs_loop": min(case["vs_loop"] for case in few.values()),
        "cpu_speedup_vs_best_baseline": min(case["vs_best_baseline"] for case in few.values()),
        "cpu": few,
        "cpu_64_tokens": many,
        "cpu_chunks_microseconds": medians(chunked),
    }


def on_cpu_model() -> dict[str, Any]:
    """A whole model with its seeds, where all of Seedbed's packages are installed."""
    try:
        from hack.bench import seeds_model  # noqa: PLC0415 - needs more than torch
    except ImportError as missing:
        return {"cpu_model": f"not measured: {missing}"}
    return seeds_model.measured()


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
        "compiled_loops": prepare(),
    }  # fmt: skip
    if not given.skip_cpu:
        result |= on_cpu(given.rounds)
        result |= on_cpu_model()
    result["h200"] = "not measured: --skip-gpu" if given.skip_gpu else seeds_h200.measured()
    print(json.dumps(result))


if __name__ == "__main__":
    main()
