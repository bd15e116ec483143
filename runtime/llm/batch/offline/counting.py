"""What batches of offline work count, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from seedbed.crds.money import NANOS
from seedbed.runtime.store.batch_work import LineResult
from seedbed.runtime.store.batches import FIRST_ERROR, OPEN

FaultKind = Literal["database", "defect"]


class OfflineMetrics:
    """Beside the gateway's."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._batches = Gauge(
            "seedbed_model_offline_batches",
            "Batches by status, told by the replica that works through them.",
            ["status"],
            registry=registry,
        )
        self._halted = Gauge(
            "seedbed_model_offline_halted",
            "Batches that stand still, told by the same replica.",
            registry=registry,
        )
        self._lines = Counter(
            "seedbed_model_offline_lines",
            "Lines of batches by who answered (provider, gateway, cache, equal, nobody) and outcome.",
            ["way", "outcome"],
            registry=registry,
        )
        self._cost = Counter(
            "seedbed_model_offline_cost_dollars", "Dollars that lines have cost.", registry=registry
        )
        self._saved = Counter(
            "seedbed_model_offline_saved_dollars",
            "Dollars that lines would have cost more, had each been asked by itself.",
            ["way"],
            registry=registry,
        )
        self._faults = Counter(
            "seedbed_model_offline_faults",
            "Pieces of work ended by a fault: database (it refused for good) or defect (of ours).",
            ["kind"],
            registry=registry,
        )
        for kind in get_args(FaultKind):
            self._faults.labels(kind)  # 0 from the start, so that the first one is an increase

    def stand(self, counts: Mapping[str, int], halted: int) -> None:
        """How many batches there are, by status, and how many of them stand still."""
        self._halted.set(halted)
        for status in {*OPEN, *counts}:
            self._batches.labels(status).set(counts.get(status, 0))

    def resigned(self) -> None:
        """Another replica tells them from now on."""
        self._batches.clear()
        self._halted.set(0)

    def fault(self, kind: FaultKind) -> None:
        """Work was ended by something that trying again does not mend."""
        self._faults.labels(kind).inc()

    def answered(self, results: Sequence[LineResult]) -> None:
        """Lines are done."""
        for each in results:
            outcome = "failed" if each.status >= FIRST_ERROR else "ok"
            self._lines.labels(each.way or "nobody", outcome).inc()
            self._cost.inc(each.nanos / NANOS)
            if each.saved:
                self._saved.labels(each.way).inc(each.saved / NANOS)

    def charged(self, nanos: int) -> None:
        """Money was spent in vain."""
        self._cost.inc(nanos / NANOS)
