"""Measures a model's forward pass, and says whether a later measurement is a regression.

Each batch size is warmed up and then called a fixed number of times; every single time is kept, so that any
figure can be computed again from the stored file. On a GPU the times are of device events, elsewhere of the
monotonic clock. A metric has regressed when it grew by more than the tolerance and the growth is not noise:
the lower end of its bootstrap confidence interval lies above the tolerance too.
"""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch

from seedbed.crds.errors import InvalidError

BATCH_SIZES = (1, 16, 32, 64)
WARM_UP, MEASURED = 10, 100
TOLERANCE = 0.05
CONFIDENCE = 0.95
_RESAMPLES, _BLOCK = 2000, 5
"""Neighbouring times are alike, so blocks of five are drawn and not single ones."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One batch size.

    Attributes:
        batch: samples a call.
        times_ms: of every measured call, in order.
        memory_bytes: most that was held: on the GPU while it was measured, else by the process.
    """

    batch: int
    times_ms: tuple[float, ...]
    memory_bytes: int

    @property
    def mean_ms(self) -> float:
        """Mean time of a call."""
        return statistics.fmean(self.times_ms)

    @property
    def throughput(self) -> float:
        """Samples a second."""
        return self.batch * 1000.0 / self.mean_ms

    def percentile_ms(self, percent: float) -> float:
        """Time below which so many percent of the calls stay."""
        return float(np.percentile(self.times_ms, percent))

    def record(self) -> dict[str, Any]:
        """Everything, with what follows from it, as plain values."""
        return {
            **asdict(self),
            "mean_ms": self.mean_ms,
            "p50_ms": self.percentile_ms(50),
            "p95_ms": self.percentile_ms(95),
            "p99_ms": self.percentile_ms(99),
            "throughput": self.throughput,
        }


@dataclass(frozen=True, slots=True)
class Baseline:
    """A model's figures on a machine.

    Attributes:
        name: of the model.
        device: where it ran.
        batches: by batch size.
        seeds: `seeds_per_layer`, `adaptation_success_rate` and `seed_lifecycle_seconds`, where the model has
            seeds; a rate is None before any try has ended.
        machine: what may explain a difference.
    """

    name: str
    device: str
    batches: tuple[Figures, ...]
    seeds: dict[str, float | None] = field(default_factory=dict)
    machine: dict[str, str] = field(default_factory=dict)

    def record(self) -> dict[str, Any]:
        """As plain values, for a JSON file."""
        return {**asdict(self), "batches": [each.record() for each in self.batches]}

    @classmethod
    def read(cls, record: Any) -> Baseline:
        """Of what `record` gave.

        Raises:
            InvalidError: it is nothing of the kind.
        """
        try:
            batches = tuple(
                Figures(
                    int(one["batch"]),
                    tuple(float(t) for t in one["times_ms"]),
                    int(one["memory_bytes"]),
                )
                for one in record["batches"]
            )
            found = cls(
                record["name"], record["device"], batches, record["seeds"], record["machine"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise InvalidError("baseline", f"is no stored baseline: {error!r}") from error
        times = [time for one in batches for time in one.times_ms]
        whole = all(0 < time < float("inf") for time in times)
        if not batches or not whole or not all(one.times_ms for one in batches):
            raise InvalidError("baseline", "holds no times")
        return found


@dataclass(frozen=True, slots=True)
class Change:
    """One metric of one batch size, then and now.

    Attributes:
        batch: size.
        metric: `p50_ms`, `p95_ms` or `memory_bytes`.
        before: its value then.
        now: its value now.
        surely: by which share it grew at least, at the confidence asked for.
        regressed: whether that is more than the tolerance.
    """

    batch: int
    metric: str
    before: float
    now: float
    surely: float
    regressed: bool

    @property
    def growth(self) -> float:
        """Share by which it grew."""
        return self.now / self.before - 1.0


def measure(
    name: str,
    call: Callable[..., Any],
    sample: Callable[[int], tuple[torch.Tensor, ...]],
    *,
    device: torch.device,
    batch_sizes: Iterable[int] = BATCH_SIZES,
    warm_up: int = WARM_UP,
    measured: int = MEASURED,
) -> Baseline:
    """Measure a model.

    Args:
        name: of the model.
        call: its forward pass.
        sample: inputs of a batch size.
        device: where the model is.
        batch_sizes: to measure.
        warm_up: calls before.
        measured: calls whose time is taken.
    """
    found = []
    for batch in batch_sizes:
        inputs = tuple(each.to(device) for each in sample(batch))
        for _ in range(warm_up):
            call(*inputs)
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(device)
        times = tuple(timed(call, inputs, device) for _ in range(measured))
        found.append(Figures(batch, times, memory(device)))
    return Baseline(name, str(device), tuple(found), machine=machine(device))


def timed(call: Callable[..., Any], inputs: Sequence[torch.Tensor], device: torch.device) -> float:
    """Milliseconds of one call."""
    if device.type == "cuda":
        event: Any = torch.cuda.Event  # its constructor has no types
        start, end = event(enable_timing=True), event(enable_timing=True)
        start.record()
        call(*inputs)
        end.record()
        end.synchronize()
        return float(start.elapsed_time(end))
    began = time.perf_counter_ns()
    call(*inputs)
    return (time.perf_counter_ns() - began) / 1e6


def memory(device: torch.device) -> int:
    """Most bytes held so far: of the GPU since the last reset, else of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def machine(device: torch.device) -> dict[str, str]:
    """What a figure depends on."""
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "chip": chip,
        "cpus": str(os.cpu_count()),
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }


def changes(before: Baseline, now: Baseline, tolerance: float = TOLERANCE) -> list[Change]:
    """Each metric of the batch sizes that both have.

    Raises:
        InvalidError: they share no batch size, or the device differs.
    """
    if before.device != now.device:
        raise InvalidError("baseline", f"was measured on {before.device}, not on {now.device}")
    then = {each.batch: each for each in before.batches}
    both = [(then[each.batch], each) for each in now.batches if each.batch in then]
    if not both:
        raise InvalidError("baseline", "shares no batch size with this measurement")
    found = []
    for old, new in both:
        for percent in (50, 95):
            surely = _least_growth(old.times_ms, new.times_ms, percent)
            found.append(
                Change(
                    new.batch,
                    f"p{percent}_ms",
                    old.percentile_ms(percent),
                    new.percentile_ms(percent),
                    surely,
                    surely > tolerance,
                )
            )
        grown = new.memory_bytes / max(old.memory_bytes, 1) - 1.0
        found.append(
            Change(
                new.batch,
                "memory_bytes",
                float(max(old.memory_bytes, 1)),
                float(new.memory_bytes),
                grown,
                grown > tolerance,
            )
        )
    return found


def _least_growth(old: Sequence[float], new: Sequence[float], percent: float) -> float:
    """Lower end of the confidence interval of a percentile's growth."""
    chance = np.random.default_rng(0)  # the same figures give the same answer
    ratios = _resampled(new, percent, chance) / _resampled(old, percent, chance)
    return float(np.quantile(ratios, 1.0 - CONFIDENCE)) - 1.0


def _resampled(times: Sequence[float], percent: float, chance: np.random.Generator) -> Any:
    """The percentile of many samples drawn from the times, block by block."""
    values = np.asarray(times)
    size = min(_BLOCK, len(values))
    count = -(-len(values) // size)
    starts = chance.integers(0, len(values) - size + 1, (_RESAMPLES, count))
    drawn = values[starts[:, :, None] + np.arange(size)].reshape(_RESAMPLES, -1)
    return np.percentile(drawn, percent, axis=1)
