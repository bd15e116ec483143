"""What the model service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from seedbed.runtime.llm.providers import Json, Provider

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


@dataclass(frozen=True, slots=True)
class ModelMetrics:
    """One registry per service, so that two services in one process do not mix."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    requests: Counter = field(init=False)
    seconds: Histogram = field(init=False)
    tokens: Counter = field(init=False)

    def __post_init__(self) -> None:
        def put(name: str, value: object) -> None:
            object.__setattr__(self, name, value)

        put(
            "requests",
            Counter(
                "seedbed_model_requests",
                "Chat completions by outcome: ok, or the error's code.",
                ["model", "outcome"],
                registry=self.registry,
            ),
        )
        put(
            "seconds",
            Histogram(
                "seedbed_model_request_seconds",
                "Time of a chat completion, waiting included.",
                ["model"],
                buckets=_SECONDS,
                registry=self.registry,
            ),
        )
        put(
            "tokens",
            Counter(
                "seedbed_model_tokens",
                "Tokens by direction: prompt or completion.",
                ["model", "direction"],
                registry=self.registry,
            ),
        )

    def watch(self, providers: Mapping[str, Provider]) -> None:
        """Also report how many requests each provider has taken and not answered."""
        gauge = Gauge(
            "seedbed_model_waiting",
            "Requests taken and not yet answered.",
            ["model"],
            registry=self.registry,
        )
        for provider in set(providers.values()):
            gauge.labels(provider.name).set_function(partial(getattr, provider, "waiting"))

    def count(self, model: str, outcome: str, seconds: float, usage: Json | None) -> None:
        """Count one request that has ended."""
        self.requests.labels(model, outcome).inc()
        self.seconds.labels(model).observe(seconds)
        for direction in ("prompt", "completion"):
            spent = (usage or {}).get(f"{direction}_tokens") or 0
            self.tokens.labels(model, direction).inc(spent)

    def text(self) -> bytes:
        """All of it in Prometheus' text form."""
        return generate_latest(self.registry)
