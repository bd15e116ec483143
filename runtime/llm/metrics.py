"""What the model service counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Literal

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from seedbed.crds.money import NANOS
from seedbed.runtime.llm.call import Call
from seedbed.runtime.llm.notices import Notice
from seedbed.runtime.llm.resilience.quota import ALERT_AT, UNITS, Unit
from seedbed.runtime.llm.resilience.targets import Target

_SECONDS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_CHECK_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 1)
_WAIT_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.25)
_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
_STATES = {"closed": 0, "half-open": 1, "open": 2}
BudgetState = Literal["fine", "alert", "halted"]
_BUDGET_STATES: Mapping[BudgetState, int] = {"fine": 0, "alert": 1, "halted": 2}


class ModelMetrics:
    """One registry per service, so that two services in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._found: dict[tuple[int | str, ...], Counter] = {}
        self.requests = self._counter(
            "requests", "Requests by outcome: ok, or the error's code.", "model", "outcome"
        )
        self.seconds = Histogram(
            "seedbed_model_request_seconds",
            "Time of a request, waiting included.",
            ["model"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.tokens = self._counter(
            "tokens",
            "Tokens by direction: prompt, cached (of the prompt), completion.",
            "model",
            "direction",
        )
        self.attempts = self._counter(
            "attempts", "Times a model was asked, or why it was not.", "model", "outcome"
        )
        self.failovers = self._counter(
            "failovers", "Requests that another model answered than the first.", "first", "answered"
        )
        self.cost = self._counter("cost_dollars", "Dollars spent.", "model")
        self.breaker = self._gauge(
            "breaker_state", "0 closed, 1 half-open, 2 open: the model is not asked.", "model"
        )
        self.transitions = self._counter(
            "breaker_transitions", "Times a model's breaker changed to a state.", "model", "state"
        )
        self.waiting = self._gauge("waiting", "Requests taken and not yet answered.", "model")
        self.quota_used = self._gauge(
            "quota_used_ratio", "Share of a rate limit in use.", "model", "unit"
        )
        self.quota_alert = self._gauge(
            "quota_alert", f"1 from {ALERT_AT:.0%} of a rate limit on.", "model", "unit"
        )
        self.collapsed = self._counter(
            "collapsed",
            "Requests that shared an equal one's answer while it was under way.",
            "model",
        )
        self.batch_size = Histogram(
            "seedbed_model_batch_size",
            "Requests that went to the provider as one.",
            ["model"],
            buckets=_SIZES,
            registry=self.registry,
        )
        self.batch_wait = Histogram(
            "seedbed_model_batch_wait_seconds",
            "Time that the first of a batch waited for others.",
            ["model"],
            buckets=_WAIT_SECONDS,
            registry=self.registry,
        )
        self.budget_used = self._gauge(
            "budget_used_ratio", "Spent share of a budget that was used since the start.", "account"
        )
        self.budget_state = self._gauge(
            "budget_state", "0 fine, 1 runs out (from alertAt on), 2 halted.", "account"
        )
        self.prompt_saved = self._counter(
            "prompt_saved_bytes", "Of prompts, not sent: duplicate or compression.", "reason"
        )
        self.prompt_patterns = self._gauge(
            "prompt_patterns", "Patterns that prompts were found to have.", "namespace"
        )
        self.prompt_seconds = Histogram(
            "seedbed_model_prompt_match_seconds",
            "Time of finding what a prompt has in common with others.",
            buckets=_CHECK_SECONDS,
            registry=self.registry,
        )
        self.budget_refused = self._counter(
            "budget_refusals", "Calls that a budget did not allow.", "namespace"
        )
        self.ledger_folded = self._counter(
            "ledger_folded_calls", "Calls of days gone by that the ledger keeps as sums by now."
        )
        self.budget_check = Histogram(
            "seedbed_model_budget_check_seconds",
            "Time that reserving money took.",
            buckets=_CHECK_SECONDS,
            registry=self.registry,
        )

    def watch(self, target: Target) -> None:
        """Also report what waits for a model, and how much of its quota is used."""
        name = target.entry.name
        self.waiting.labels(name).set_function(partial(getattr, target.provider, "waiting"))
        for unit in UNITS:
            self.quota_used.labels(name, unit).set_function(partial(_used, target, unit))
            self.quota_alert.labels(name, unit).set_function(partial(_alert, target, unit))
        self.breaker.labels(name).set(0)

    def gathered(self, model: str, size: int, waited: float) -> None:
        """Requests go to a provider as one."""
        self.batch_size.labels(model).observe(size)
        self.batch_wait.labels(model).observe(waited)

    def noticed(self, notice: Notice) -> None:
        """Count a model's breaker that is in another state now."""
        if notice.kind == "model.breaker":
            state = str(notice.facts["state"])
            self.breaker.labels(notice.of).set(_STATES[state])
            self.transitions.labels(notice.of, state).inc()

    def budget_stands(self, account: str, used: float, state: BudgetState) -> None:
        """A budget that pays is spent so far."""
        self.budget_used.labels(account).set(used)
        self.budget_state.labels(account).set(_BUDGET_STATES[state])

    def count(self, model: str, outcome: str, seconds: float, call: Call | None) -> None:
        """Count one request that has ended."""
        self._add(self.requests, 1, model, outcome)
        self.seconds.labels(model).observe(seconds)
        if call is None:
            return
        self.spent(call)
        for attempt in call.attempts:
            self._add(self.attempts, 1, attempt.model, attempt.outcome)
        if call.attempts and call.served_by and call.attempts[0].model != call.served_by:
            self.failovers.labels(call.attempts[0].model, call.served_by).inc()

    def spent(self, call: Call) -> None:
        """Count the tokens and the money of a call."""
        for spent in call.spent:
            self._add(self.tokens, spent.prompt_tokens, spent.model, "prompt")
            if spent.cached_tokens:
                self._add(self.tokens, spent.cached_tokens, spent.model, "cached")
            self._add(self.tokens, spent.completion_tokens, spent.model, "completion")
            self._add(self.cost, spent.nanos / NANOS, spent.model)

    def _add(self, counter: Counter, amount: float, *labels: str) -> None:
        """Count; the library takes longer to find a label's counter than to count."""
        key: tuple[int | str, ...] = (id(counter), *labels)
        found = self._found.get(key)
        if found is None:
            found = self._found[key] = counter.labels(*labels)
        found.inc(amount)

    def text(self) -> bytes:
        """All of it in Prometheus' text form."""
        return generate_latest(self.registry)

    def _counter(self, name: str, told: str, *labels: str) -> Counter:
        return Counter(f"seedbed_model_{name}", told, labels, registry=self.registry)

    def _gauge(self, name: str, told: str, *labels: str) -> Gauge:
        return Gauge(f"seedbed_model_{name}", told, labels, registry=self.registry)


def _used(target: Target, unit: Unit) -> float:
    return target.quota.used(target.now())[unit]


def _alert(target: Target, unit: Unit) -> float:
    return float(_used(target, unit) >= ALERT_AT)
