"""What a pod of a SeedLayer measures of itself: times, rates, memory, and the counters for Prometheus."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

WINDOW = 60.0
"""Seconds over which percentiles and rates are told."""
_KEPT = 100_000
_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)


@dataclass(frozen=True, slots=True)
class Percentiles:
    """Seconds of the forward passes of the last minute."""

    p50: float
    p95: float
    p99: float


class Served:
    """The forward passes of the last minute.

    Args:
        clock: seconds, growing.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._passes: deque[tuple[float, float, int]] = deque(maxlen=_KEPT)

    def add(self, seconds: float, examples: int) -> None:
        """One pass has ended."""
        self._passes.append((self._clock(), seconds, examples))

    def percentiles(self) -> Percentiles | None:
        """By nearest rank; None where there was no pass."""
        self._forget()
        if not self._passes:
            return None
        ordered = sorted(seconds for _, seconds, _ in self._passes)

        def at(share: float) -> float:
            return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]

        return Percentiles(at(0.5), at(0.95), at(0.99))

    @property
    def throughput(self) -> float:
        """Examples a second."""
        self._forget()
        return sum(examples for _, _, examples in self._passes) / WINDOW

    def _forget(self) -> None:
        while self._passes and self._passes[0][0] < self._clock() - WINDOW:
            self._passes.popleft()


class SeedMetrics:
    """The counters of one pod. One registry each, so that two pods in one process do not mix."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.registry = registry or CollectorRegistry()
        mine = self.registry
        self.seeds = Gauge("seedbed_seeds", "Seeds by stage.", ["stage"], registry=mine)
        self.forward = Histogram(
            "seedbed_seed_forward_seconds", "A forward pass.", buckets=_SECONDS, registry=mine
        )
        self.examples = Counter("seedbed_seed_examples", "Examples served.", registry=mine)
        self.steps = Counter("seedbed_seed_steps", "Training steps.", registry=mine)
        self.epochs = Counter("seedbed_seed_epochs", "Epochs.", registry=mine)
        self.decisions = Counter(
            "seedbed_seed_decisions",
            "Moves of seeds, by the stage entered.",
            ["stage"],
            registry=mine,
        )
        self.errors = Counter(
            "seedbed_seed_errors",
            "Requests and epochs that failed, by code.",
            ["code"],
            registry=mine,
        )
        self.checkpoint = Histogram(
            "seedbed_seed_checkpoint_seconds", "A checkpoint.", registry=mine
        )
        self.accuracy = Gauge(
            "seedbed_seed_accuracy", "On the data to measure by, as served.", registry=mine
        )
        self.oldest = Gauge(
            "seedbed_seed_longest_stage_seconds",
            "Since the active seed that moved longest ago has moved; 0 where none is active.",
            registry=mine,
        )
        self.memory = Gauge(
            "seedbed_seed_memory_bytes", "Of the GPU, else of the process.", registry=mine
        )
        self.memory_share = Gauge(
            "seedbed_seed_gpu_memory_ratio",
            "Share of the GPU's memory in use.",
            ["device"],
            registry=mine,
        )
        self.utilisation = Gauge(
            "seedbed_seed_gpu_utilisation_ratio",
            "Of the GPU; absent figures stay 0.",
            registry=mine,
        )


def memory_bytes(device: torch.device) -> int:
    """Of the GPU as torch holds it, else of the process."""
    if device.type == "cuda":
        return torch.cuda.memory_reserved(device)
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def gpu_memory_share(device: torch.device) -> float | None:
    """Share of the GPU's memory that is in use; None on a CPU."""
    if device.type != "cuda":
        return None
    free, total = torch.cuda.mem_get_info(device)
    return 1.0 - free / total


def gpu_utilisation(device: torch.device) -> float | None:
    """Of the GPU over the last moments, 0 to 1; None on a CPU, or where the driver's library is not there."""
    if device.type != "cuda" or find_spec("pynvml") is None:
        return None
    try:
        return torch.cuda.utilization(device) / 100
    except (RuntimeError, OSError):
        return None
