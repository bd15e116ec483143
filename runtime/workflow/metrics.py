"""What the engine measures, for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Counts
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from time import time

from prometheus_client import REGISTRY, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from seedbed.crds.errors import SeedbedError


class Distribution(Collector):
    """A histogram of what one thread sees very often: an observation takes no lock.

    Args:
        name: of the metric.
        documentation: what is observed.
        buckets: upper bounds, ascending.
    """

    def __init__(self, name: str, documentation: str, buckets: Sequence[float]) -> None:
        self._name = name
        self._documentation = documentation
        self._bounds = buckets
        self._counts = [0] * (len(buckets) + 1)
        self._sum = 0.0
        REGISTRY.register(self)

    def observe(self, value: float) -> None:
        """Count a value."""
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """See prometheus_client."""
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        family = HistogramMetricFamily(self._name, self._documentation)
        family.add_metric([], buckets, self._sum)
        yield family


class Tally(Collector):
    """A counter, by one label, of what one thread sees very often: to count takes no lock.

    Args:
        name: of the metric, without `_total`.
        documentation: what is counted.
        label: by which it is told apart.
        known: a value of the label that is there from the beginning.
    """

    def __init__(self, name: str, documentation: str, label: str, known: str) -> None:
        self._name = name
        self._documentation = documentation
        self._label = label
        self._counts = Counts({known: 0})
        self._since = {known: time()}
        REGISTRY.register(self)

    def add(self, value: str, count: int = 1) -> None:
        """Count."""
        if value not in self._since:
            self._since[value] = time()
        self._counts[value] += count

    def collect(self) -> Iterator[CounterMetricFamily]:
        """See prometheus_client."""
        family = CounterMetricFamily(self._name, self._documentation, labels=[self._label])
        for value, since in tuple(self._since.items()):
            family.add_metric([value], self._counts[value], created=since)
        yield family


STEPS = Tally("seedbed_engine_steps", "Attempts that ended, by result.", "result", "succeeded")
REJECTED = Counter(
    "seedbed_engine_rejected_steps_total",
    "Attempts that a full queue failed, by code: queue_full, queue_timeout, queue_shed.",
    ["code"],
)
DOUBLED = Counter(
    "seedbed_engine_doubled_steps_total", "Items that were started a second time: stragglers."
)
EXPRESSIONS = Counter(
    "seedbed_engine_expressions_total",
    "Expressions that were evaluated beside the engine, by outcome: value, invalid, or the limit "
    "that they went beyond: time, memory, result.",
    ["outcome"],
)
EXPRESSION_SECONDS = Histogram(
    "seedbed_engine_expression_seconds",
    "Time of evaluating one expression beside the engine.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0),
)
REPLANS = Counter(
    "seedbed_engine_replans_total",
    "Changes of plans after failures, by what the error was about, and what became of them.",
    ["reason", "outcome"],
)
COMMIT_SECONDS = Distribution(
    "seedbed_engine_commit_seconds",
    "Time of one group commit.",
    buckets=(0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.0),
)
GROUP_SIZE = Distribution(
    "seedbed_engine_group_records",
    "Records in one group commit.",
    buckets=(1, 2, 5, 10, 20, 50, 100, 500, 2000),
)
RUNS = Gauge("seedbed_engine_runs", "Runs that have not finished, by partition.", ["partition"])
STUCK = Gauge(
    "seedbed_engine_stuck_runs",
    "Runs that cannot be resumed, by partition: what their objects say is CannotResume.",
    ["partition"],
)
LONGEST_REMAINING = Gauge(
    "seedbed_engine_longest_remaining_seconds",
    "Until the last of a partition's runs is expected to end.",
    ["partition"],
)
FORECAST_SECONDS = Histogram(
    "seedbed_engine_forecast_seconds",
    "Time of one look ahead at one run.",
    buckets=(0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0),
)
PARTITIONS_OWNED = Gauge("seedbed_engine_partitions", "Partitions that this process owns.")
REFUSED = Counter(
    "seedbed_engine_refused_writes_total", "Writes refused because a newer owner exists."
)
CHILDREN = Counter(
    "seedbed_engine_child_runs_total", "Runs asked for that do the work of `workflow` steps."
)
PLANS_READ = Counter(
    "seedbed_engine_plans_read_total",
    "Documents with steps that were read, by source and result: ok, or the error's code.",
    ["source", "result"],
)


class PoolSteps(Collector):
    """Steps that Pools have in hand, counted where they are told apart already: it costs nothing until asked.

    Attributes:
        hands: by namespace and name of the Pool, as the engine's world keeps them.
    """

    def __init__(self) -> None:
        self.hands: Mapping[tuple[str, str], int] = {}

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """See prometheus_client."""
        steps = GaugeMetricFamily(
            "seedbed_engine_pool_steps",
            "Steps handed to a Pool that have not ended: what autoscalers of Pools go by.",
            labels=["namespace", "pool"],
        )
        for (namespace, pool), count in tuple(self.hands.items()):
            steps.add_metric([namespace, pool], count)
        yield steps


POOL_STEPS = PoolSteps()
REGISTRY.register(POOL_STEPS)


@contextmanager
def plan_read(source: str) -> Iterator[None]:
    """Count the reading of a document with steps, however it ends."""
    result = "ok"
    try:
        yield
    except SeedbedError as error:
        result = error.code
        raise
    finally:
        PLANS_READ.labels(source, result).inc()
