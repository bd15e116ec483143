"""Counts what the cache does: for Prometheus at once, and for the store in sums that are taken away."""

from __future__ import annotations

from collections import defaultdict

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from seedbed.crds.money import NANOS
from seedbed.runtime.llm.cache.memory import Memory
from seedbed.runtime.llm.cache.stats import HITS, Result, timed
from seedbed.runtime.store.answers import AnswerRow

_SECONDS = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.2, 1)
_LONG = (0.001, 0.005, 0.02, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

Sums = dict[tuple[str, str], float]
"""Amounts by namespace and name."""


class Counting:
    """See the module."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        registry = registry or CollectorRegistry()
        self._sums: Sums = defaultdict(float)
        name = "seedbed_model_cache"
        self._results = Counter(
            f"{name}_requests",
            "Requests by what the cache did: exact, semantic, stale, miss, bypass.",
            ["namespace", "result"],
            registry=registry,
        )
        self._withheld = Counter(
            f"{name}_withheld",
            "Hits that were not served, because the cache is being built or rolled out.",
            ["namespace", "tier"],
            registry=registry,
        )
        self._lookup = Histogram(
            f"{name}_lookup_seconds",
            "Time of a look-up, the model's not included.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._seconds = Histogram(
            f"{name}_request_seconds",
            "Time of requests behind the cache, hits and misses apart.",
            ["result"],
            buckets=(*_SECONDS[:5], *_LONG),
            registry=registry,
        )
        self._saved = Counter(
            f"{name}_saved_dollars",
            "Dollars that hits have saved.",
            ["namespace"],
            registry=registry,
        )
        self._tokens = Counter(
            f"{name}_saved_tokens",
            "Tokens that hits have saved.",
            ["namespace", "direction"],
            registry=registry,
        )
        self._stored = Counter(
            f"{name}_stored", "Answers that were kept.", ["namespace"], registry=registry
        )
        self._verified = Counter(
            f"{name}_verified",
            "Semantic hits that were asked anyway: right or wrong.",
            ["namespace", "outcome"],
            registry=registry,
        )
        self._busy = Counter(
            f"{name}_passed_by",
            "Requests that were not compared, because the embedding model was busy.",
            ["namespace"],
            registry=registry,
        )
        self._rows = Gauge(f"{name}_entries", "Answers in memory.", registry=registry)
        self._bytes = Gauge(f"{name}_bytes", "Their size.", registry=registry)

    def watch(self, memory: Memory) -> None:
        """Also report what is in memory."""
        self._rows.set_function(lambda: len(memory))
        self._bytes.set_function(lambda: memory.size)

    def looked(self, namespace: str, seconds: float) -> None:
        """A look-up took so long."""
        self._lookup.observe(seconds)
        self._sums[namespace, timed("lookup", seconds)] += 1

    def result(self, namespace: str, result: Result, seconds: float | None = None) -> None:
        """A request ended so, within so many seconds."""
        self._results.labels(namespace, result).inc()
        self._sums[namespace, result] += 1
        if seconds is not None:
            self._seconds.labels(result).observe(seconds)
            self._sums[namespace, timed("hit" if result in HITS else "miss", seconds)] += 1

    def withheld(self, namespace: str, tier: Result) -> None:
        """A hit was not served."""
        self._withheld.labels(namespace, tier).inc()
        self._sums[namespace, f"withheld_{tier}"] += 1

    def busy(self, namespace: str) -> None:
        """A request was not compared with similar ones."""
        self._busy.labels(namespace).inc()
        self._sums[namespace, "passed_by"] += 1

    def saved(self, row: AnswerRow) -> None:
        """An answer was served instead of being asked for."""
        space = row.namespace
        self._saved.labels(space).inc(row.nanos / NANOS)
        self._tokens.labels(space, "prompt").inc(row.prompt_tokens)
        self._tokens.labels(space, "completion").inc(row.completion_tokens)
        self._sums[space, "saved_nanos"] += row.nanos
        self._sums[space, "saved_prompt_tokens"] += row.prompt_tokens
        self._sums[space, "saved_completion_tokens"] += row.completion_tokens

    def spent(self, namespace: str, nanos: int) -> None:
        """A model's answer cost so much."""
        self._sums[namespace, "spent_nanos"] += nanos

    def stored(self, namespace: str) -> None:
        """An answer was kept."""
        self._stored.labels(namespace).inc()
        self._sums[namespace, "stored"] += 1

    def verified(self, namespace: str, *, correct: bool) -> None:
        """A semantic hit was asked anyway."""
        self._verified.labels(namespace, "right" if correct else "wrong").inc()
        self._sums[namespace, "verified"] += 1
        if not correct:
            self._sums[namespace, "verified_wrong"] += 1

    def take(self) -> Sums:
        """What was counted since the last time."""
        found, self._sums = self._sums, defaultdict(float)
        return found

    def give_back(self, sums: Sums) -> None:
        """What was taken could not be written."""
        for key, amount in sums.items():
            self._sums[key] += amount
