"""What the operator measures, for Prometheus."""

from __future__ import annotations

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram


class Metrics:
    """The operator's metrics; one per process, or one per test with a registry of its own."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.queue_depth = Gauge(
            "seedbed_queue_depth", "Keys that wait for a reconcile.", registry=registry
        )
        self.reconcile_seconds = Histogram(
            "seedbed_reconcile_seconds",
            "Time of one reconcile, with its writes.",
            ["kind"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0),
            registry=registry,
        )
        self.reconciles = Counter(
            "seedbed_reconciles_total",
            "Reconciles by kind and result.",
            ["kind", "result"],
            registry=registry,
        )
        self.api_writes = Counter(
            "seedbed_api_writes_total", "Writes to the API server.", ["verb"], registry=registry
        )
        self.leading = Gauge(
            "seedbed_leading", "1 while this process leads, else 0.", registry=registry
        )
        self.conditions = Gauge(
            "seedbed_objects",
            "Objects by kind, condition and its status.",
            ["kind", "condition", "status"],
            registry=registry,
        )
        self.admissions = Counter(
            "seedbed_admissions_total",
            "Objects judged by the admission webhook.",
            ["kind", "allowed"],
            registry=registry,
        )
