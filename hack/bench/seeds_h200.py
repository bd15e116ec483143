"""The part of `seeds` that needs a GPU: each shape by CUDA-graph replay, against what else there is.

    python hack/bench/seeds_h200.py [--dry]

Bytes are logical: x read once, y written once, and of each seed that has tokens and acts the rows of its
rank, once. They are given per second and as a share of what a large copy on the same device moves, in the
same run. For that share a graph holds calls on several x and y, together larger than any cache; what is
compared with rivals is one call on one x, for all of them. Everything that has to be known comes first, then
what may fall off the end of the time: compiled rivals, other block sizes, peft. Every job is printed as it
ends, then one table; the last line is one JSON object. `--dry` rehearses all of it on the CPU in little; its
figures mean nothing.

The jobs run in a process of their own. One that fails says why in its place. After one that hangs, dies or
leaves the device beyond help, a new process goes on with the next.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "hack" / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from hack.bench import seeds_rivals as rivals
from hack.bench.apart import apart
from hack.bench.seeds_case import SHAPES, Case, made, worst
from hack.bench.seeds_checks import at_rest, model, swapped
from hack.bench.seeds_timing import (
    Way,
    copy_bandwidth,
    device,
    evented,
    rehearse,
    rehearsing,
    replayed,
    settled,
    tried,
)
from seedbed.kernels import plan_route, seed_chunks, seed_tokens

CACHED_BYTES = 192 << 20
"""More than any cache holds."""
LIMIT_S = 440
"""No job begins after these seconds, and all ends soon after them."""
JOB_S = 100
"""A job that takes longer is given up."""
TRIES: dict[str, list[tuple[int, int, int, int, int]]] = {
    "narrow": [(64, 0, 0, 8, 3), (128, 0, 0, 8, 3), (64, 0, 0, 4, 4)],
    "vector": [(1, 256, 256, 4, 4), (1, 512, 1024, 4, 4), (1, 1024, 1024, 8, 3)],
    "tiles": [(16, 256, 256, 8, 4), (16, 256, 256, 4, 4), (16, 64, 128, 4, 6), (16, 128, 256, 8, 4)],
}  # fmt: skip
"""Block sizes beside the default: tokens, columns read, columns written, warps, stages."""


def ours(case: Case, *, telemetry: bool = False, planned: bool = True) -> Way:
    """The fused path on a case, sorted before or within the call."""
    if not case.counts:
        return lambda: seed_chunks(case.x, case.state, telemetry=telemetry)
    plan = plan_route(case.seed_of, case.x.shape[:1], case.shape.seeds) if planned else None
    return lambda: seed_tokens(case.x, case.seed_of, case.state, plan=plan, telemetry=telemetry)


def from_memory(case: Case) -> float:
    """Seconds of a call whose x no cache holds, as one of many calls in a graph."""
    many = 2 if rehearsing() else max(2, -(-CACHED_BYTES // case.x.nbytes))
    ways = [ours(case._replace(x=case.x.clone())) for _ in range(many)]
    return replayed(lambda: [way() for way in ways], 10) / many


def first(name: str) -> dict[str, Any]:
    """Right or wrong, and how fast with the default sizes."""
    case = made(name)
    error = worst(case)
    took = [replayed(ours(case)) for _ in range(2)]
    return {
        "microseconds": round(min(took) * 1e6, 2),
        "microseconds_twice": [round(each * 1e6, 2) for each in took],
        "microseconds_from_memory": tried(lambda: from_memory(case)),
        "relative_error": error,
        "logical_gb": round(case.logical_bytes / 1e9, 4),
        "with_telemetry_us": tried(lambda: replayed(ours(case, telemetry=True))),
        "with_sorting_us": tried(lambda: replayed(ours(case, planned=False))),
        "baselines_us": {},
    }


def others(name: str, found: dict[str, Any]) -> None:
    """Adds the rivals that are quick to try."""
    case = made(name)
    found["baselines_us"] |= {
        "loop, eager": tried(lambda: evented(rivals.looped(case), 3)),
        "loop, graphed": tried(lambda: replayed(rivals.looped(case), 5)),
        "baddbmm": tried(lambda: replayed(rivals.batched(case, compiled=False))),
        "grouped_mm": tried(lambda: replayed(rivals.grouped(case, case.shape.seeds))),
        f"grouped_mm, {rivals.WHOLE} groups a call": tried(
            lambda: replayed(rivals.grouped(case, rivals.WHOLE))
        ),
        f"grouped_mm, {rivals.WHOLE} groups a call, turned": tried(
            lambda: replayed(rivals.grouped(case, rivals.WHOLE, turned=True))
        ),
    }


def compiled(name: str, found: dict[str, Any]) -> None:
    """Adds what torch.compile makes of batched products."""
    case = made(name)
    found["baselines_us"]["baddbmm, compiled"] = tried(
        lambda: replayed(rivals.batched(case, compiled=True))
    )


def with_peft(name: str, found: dict[str, Any]) -> None:
    """Adds what peft takes."""
    case = made(name)
    found["baselines_us"]["peft"] = tried(lambda: rivals.peft(case))


def tune(name: str, found: dict[str, Any]) -> None:
    """Tries a few block sizes, leaves the best in place, and notes its time where it beats the default's."""
    from seedbed.kernels import fused  # noqa: PLC0415 - needs Triton

    case = made(name)
    shape, rows = case.shape, case.state.down.shape[1]
    kernel = "tiles" if shape.tokens > shape.seeds else "vector"
    kernel = kernel if case.counts else "narrow"
    key = (kernel, shape.tokens, shape.seeds, shape.columns, rows)
    default = fused.blocks_for(*key)
    tries: dict[str, float | str] = {}
    best, at = found["microseconds"], default
    for numbers in TRIES[kernel]:
        sizes = fused.Blocks(*numbers)
        if sizes == default:
            continue
        fused.tuned[key] = sizes
        took = tries[str(numbers)] = tried(lambda: replayed(ours(case), 10))
        if isinstance(took, float) and took < best:
            best, at = took, sizes
    fused.tuned[key] = at
    found["default_sizes_us"] = found["microseconds"]
    if at != default:
        error = worst(case)
        found["relative_error"] = max(found["relative_error"], error)
        found["microseconds"] = min(found["microseconds"], round(replayed(ours(case)) * 1e6, 2))
        again = tried(lambda: from_memory(case))
        before = found["microseconds_from_memory"]
        if isinstance(again, float) and isinstance(before, float):
            found["microseconds_from_memory"] = min(before, again)
    found["block_sizes"] = {"default": list(default), "best": list(at), "tried_us": tries}


def bandwidth() -> float:
    """Bytes a second that a copy moves."""
    return max(copy_bandwidth(), copy_bandwidth())


JOBS: dict[str, Callable[[], Any]] = {
    "copy_bandwidth": bandwidth,
    **{name: functools.partial(first, name) for name in SHAPES},
    "at_rest": at_rest,
    "swap": swapped,
    "model_12x768": model,
}
MORE: dict[str, tuple[str, Callable[[str, dict[str, Any]], None]]] = {
    f"{name} {extra.__name__}": (name, extra)
    for extra, names in (
        (others, SHAPES),
        (compiled, ("M1", "D1", "L1", "H1", "C1")),
        (tune, SHAPES),
        (with_peft, ("M1", "D1")),
    )
    for name in names
}
"""What adds to the result of a shape."""


def done(label: str, result: dict[str, Any], begun: float) -> None:
    """Do a job, and put what it gives, or why it gives nothing, into the result."""
    if label in JOBS:
        result[label] = _told(label, JOBS[label], begun)
        return
    name, extra = MORE[label]
    found = result.get(name)
    if isinstance(found, dict):
        told = _told(label, functools.partial(extra, name, found), begun)
        if told is not None:
            found[extra.__name__] = told


def _told(label: str, job: Callable[[], Any], begun: float) -> Any:
    if time.perf_counter() - begun > LIMIT_S:
        return f"not measured: {LIMIT_S} s were over"
    found: Any
    try:
        with torch.no_grad():
            found = job()
        settled()
    except Exception as refusal:  # noqa: BLE001 - it is told as the result; one shape must not cost the others
        found = f"failed: {type(refusal).__name__}: {' '.join(str(refusal).split())[:500]}"
    print(label, found, f"{time.perf_counter() - begun:.0f} s", flush=True)
    return found


def worker(labels: list[str], result: dict[str, Any], pipe: Connection) -> None:
    """Do jobs in this process; tells the result after each, and whether the device can still be used."""
    if result["rehearsal"]:
        rehearse()
    for label in labels:
        done(label, result, result["begun"])
        usable = _usable()
        pipe.send((result, usable))
        if not usable:
            return


def _usable() -> bool:
    try:
        torch.zeros(1, device=device()).item()
    except RuntimeError:
        return False
    return True


def _lost(label: str, result: dict[str, Any], told: str) -> None:
    """Note a job of which nothing came back."""
    print(label, told, flush=True)
    if label in JOBS:
        result[label] = told
    elif isinstance(found := result.get(MORE[label][0]), dict):
        found[MORE[label][1].__name__] = told


def measured(*, dry: bool = False) -> dict[str, Any] | str:
    """All shapes and the three other checks; or why there is no figure."""
    if not dry and not torch.cuda.is_available():
        return "not measured: no CUDA device at hand"
    begun = time.perf_counter()
    result: dict[str, Any] = {"torch": torch.__version__, "rehearsal": dry, "begun": begun}
    if not dry:
        properties = torch.cuda.get_device_properties(0)
        result |= {"device": properties.name, "multiprocessors": properties.multi_processor_count}
    result = apart([*JOBS, *MORE], result, worker, _lost, each=JOB_S, until=begun + LIMIT_S + 20)
    del result["begun"]
    copied = result.pop("copy_bandwidth")
    known = isinstance(copied, float)
    result["copy_gb_per_s"] = round(copied / 1e9, 1) if known else copied
    for name in SHAPES:
        if isinstance(result[name], dict):
            _judged(result[name], copied if known else float("nan"))
    table(result)
    result["seconds"] = round(time.perf_counter() - begun, 1)
    return result


def _judged(found: dict[str, Any], copied: float) -> None:
    """Adds the shares, once everything is known; `copied` is in bytes a second."""
    took = found["microseconds"]
    cold = found["microseconds_from_memory"]
    cold = cold if isinstance(cold, float) else took
    ran = {n: t for n, t in found["baselines_us"].items() if isinstance(t, float) and t > 0}
    best = min(ran, key=ran.__getitem__) if ran else None
    share = found["logical_gb"] * 1e9 / (cold / 1e6) / copied
    found["share_of_copy"] = round(share, 4) if share == share else None  # noqa: PLR0124 - not NaN
    found["best_baseline"] = best
    found["vs_best_baseline"] = round(ran[best] / took, 3) if best else None


def table(result: dict[str, Any]) -> None:
    """One line a shape."""
    print(f"{'shape':6}{'us':>10}{'of copy':>9}{'error':>10}{'x best':>8}  best baseline")
    for name in SHAPES:
        line = result[name]
        if isinstance(line, str):
            print(f"{name:6}{line}")
            continue
        print(
            f"{name:6}{line['microseconds']:>10}{line['share_of_copy'] or '-':>9}"
            f"{line['relative_error']:>10.1e}{line['vs_best_baseline'] or '-':>8}"
            f"  {line['best_baseline']}"
        )


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--dry", action="store_true", help="Rehearse on the CPU, in little.")
    print(json.dumps({"h200": measured(dry=parser.parse_args().dry)}))


if __name__ == "__main__":
    main()
