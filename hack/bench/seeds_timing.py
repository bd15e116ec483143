"""How `seeds_h200` takes time: replays of a CUDA graph, between device events, as medians.

After `rehearse` everything runs on the CPU instead, once and by the wall clock: so what would fail is found
before a GPU is at hand. Such figures mean nothing.
"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

Way = Callable[[], Any]
REPLAYS = 30
_COPIED = 1 << 30


class _Where:
    device = "cuda"


def rehearse() -> None:
    """From now on on the CPU."""
    _Where.device = "cpu"


def device() -> str:
    """Where tensors go."""
    return _Where.device


def rehearsing() -> bool:
    """Whether figures mean nothing."""
    return _Where.device == "cpu"


def settled() -> None:
    """Wait for the device, and give back what is cached."""
    if not rehearsing():
        torch.cuda.synchronize()
        torch.cuda.empty_cache()


def graphed(way: Way) -> Way:
    """The replay of a CUDA graph of the call."""
    if rehearsing():
        return way
    stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]  # torch has no types here
    here: Any = torch.cuda.current_stream()
    stream.wait_stream(here)
    with torch.cuda.stream(stream):
        for _ in range(3):
            way()
    here.wait_stream(stream)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph):
            way()
    finally:  # after a capture that fails torch stays on its stream
        torch.cuda.set_stream(here)
    return graph.replay


def replayed(way: Way, replays: int = REPLAYS) -> float:
    """Median seconds of one replay."""
    return evented(graphed(way), replays)


def evented(way: Way, replays: int) -> float:
    """Median seconds by device events."""
    if rehearsing():
        begun = time.perf_counter()
        way()
        return time.perf_counter() - begun
    way()
    timer: Any = torch.cuda.Event
    marks = [(timer(enable_timing=True), timer(enable_timing=True)) for _ in range(replays)]
    for begin, end in marks:
        begin.record()
        way()
        end.record()
    torch.cuda.synchronize()
    return float(statistics.median(begin.elapsed_time(end) for begin, end in marks)) / 1e3


def tried(measure: Callable[[], float]) -> float | str:
    """Microseconds, or why there are none."""
    try:
        return round(measure() * 1e6, 2)
    except Exception as refusal:  # noqa: BLE001 - whatever a rival raises, Triton's errors have no common base, is its result
        with contextlib.suppress(RuntimeError):  # of a device that is beyond help
            settled()
        return f"did not run: {type(refusal).__name__}: {' '.join(str(refusal).split())[:200]}"


def copy_bandwidth() -> float:
    """Bytes a second, read and written, of a copy of 4 GB on the device."""
    source = torch.randn(1 << 10 if rehearsing() else _COPIED, device=device())
    target = torch.empty_like(source)
    return 2 * source.nbytes / replayed(lambda: target.copy_(source))


def percentiles(way: Way, passes: int) -> dict[str, float]:
    """P50 and P99 in milliseconds of single calls, each waited for."""
    way()
    settled()
    taken = []
    for _ in range(2 if rehearsing() else passes):
        begun = time.perf_counter()
        way()
        if not rehearsing():
            torch.cuda.synchronize()
        taken.append((time.perf_counter() - begun) * 1e3)
    cuts = statistics.quantiles(taken, n=100, method="inclusive")
    return {"p50_ms": round(cuts[49], 3), "p99_ms": round(cuts[98], 3)}
