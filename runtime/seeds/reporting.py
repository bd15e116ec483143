"""Tells others of a pod: reports to the operator, telemetry and decisions to the event log, metrics.

Reports are part of how the operator works and go always; the stream of telemetry and decisions goes only
where the feature message_bus is on, in the batches of the event log.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from contextlib import suppress
from dataclasses import dataclass

import orjson

from seedbed.crds.errors import SeedbedError
from seedbed.crds.seed_features import FEATURES
from seedbed.crds.seed_messages import REPORT_SECONDS, SeedReport, seeds_topic
from seedbed.crds.wire import encode
from seedbed.runtime.bus.events import Event, Priority
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.seeds.figures import (
    SeedMetrics,
    Served,
    gpu_memory_share,
    gpu_utilisation,
    memory_bytes,
)
from seedbed.runtime.seeds.host import Host
from seedbed.runtime.seeds.progress import Progress, stage_key
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.telemetry import Telemetry, summary

_SOON = 0.5
"""Seconds between two reports, however much happens."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pod:
    """Which pod this is. The first of a SeedLayer trains."""

    namespace: str
    layer: str
    uid: str
    name: str

    @property
    def trains(self) -> bool:
        """Whether it is the one that trains."""
        return self.name.rpartition("-")[2] == "0"

    @property
    def key(self) -> str:
        """What its events belong to."""
        return f"seeds/{self.namespace}/{self.layer}"


class Reporter:
    """Tells what is known of one pod.

    Attributes:
        host: what is loaded; None before, and while nothing can be.
    """

    def __init__(
        self, pod: Pod, bus: Bus, progress: Progress, served: Served, metrics: SeedMetrics
    ) -> None:
        self.host: Host | None = None
        self._pod, self._bus = pod, bus
        self._progress, self._served, self._metrics = progress, served, metrics
        self._moved: dict[int, float] = {}
        self._told: dict[str, object] = {}

    async def run(self) -> None:
        """Report until cancelled: at once when something has changed, and now and then."""
        while True:
            self._progress.news.clear()
            await self.tell()
            with suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS):
                    await self._progress.news.wait()
            await asyncio.sleep(_SOON)

    async def tell(self) -> None:
        """Report once; a bus that is away is no failure of the pod."""
        topic = seeds_topic(self._pod.namespace, self._pod.layer)
        try:
            await self._bus.publish(topic, encode(self.report()))
        except SeedbedError as error:
            _log.info("a report was not sent: %s", error)

    def measured(self, telemetry: Telemetry) -> None:
        """An epoch has ended: note the state of the seeds, which nobody changes now."""
        host = self.host
        assert host is not None
        self.looked()
        metrics = self._metrics
        metrics.epochs.inc()
        metrics.accuracy.set(telemetry.accuracy)
        self.stream("telemetry", summary(telemetry, host.model.state))

    def looked(self) -> None:
        """Take the counts of the seeds over; to be called when no epoch runs."""
        host = self.host
        if host is None or not host.model.layers:
            self._told, self._moved = {}, {}
            for each in Stage:
                self._metrics.seeds.labels(stage_key(each)).set(0)
            self._metrics.accuracy.set(math.nan)
            return
        counts = {stage_key(stage): count for stage, count in host.model.state.counts().items()}
        for stage, count in counts.items():
            self._metrics.seeds.labels(stage).set(count)
        parameters, added = host.model.parameters()
        accuracies = host.model.accuracies
        self._told = {
            "stages": {stage: count for stage, count in counts.items() if count},
            "layers": len(host.model.layers),
            "epoch": host.model.epoch,
            "accuracy": accuracies[-1] if accuracies else None,
            "base_accuracy": accuracies[0] if accuracies else None,
            "new_parameters": added / parameters if parameters else None,
        }
        self._note_moves(host)
        self._progress.news.set()

    def _note_moves(self, host: Host) -> None:
        """Since when each active seed has been in its stage, as far as this process knows."""
        state = host.model.state
        active = state.members("active").nonzero().flatten().tolist()
        now = time.time()
        last = {record["seed"]: record["at"] for record in self._progress.decisions}
        self._moved = {seed: last.get(seed, self._moved.get(seed, now)) for seed in active}

    def stream(self, kind: str, told: object) -> None:
        """Put something into the event log, where the feature is on."""
        if self.host is None or not self.host.features.message_bus:
            return
        payload = orjson.dumps(told, option=orjson.OPT_NON_STR_KEYS)
        priority: Priority = "low" if kind == "telemetry" else "normal"
        event = Event(self._pod.key, f"seeds.{kind}", time.time(), payload, priority)
        try:
            self._bus.events.put(event)
        except SeedbedError as error:
            _log.info("the event log takes no %s now: %s", kind, error)

    def report(self) -> SeedReport:
        """Everything as it is now."""
        host, progress = self.host, self._progress
        found = self._served.percentiles()
        device = None if host is None else host.model.device
        memory = 0 if device is None else memory_bytes(device)
        utilisation = None if device is None else gpu_utilisation(device)
        self._gauge(memory, utilisation, None if device is None else gpu_memory_share(device))
        on = [] if host is None else [name for name in FEATURES if getattr(host.features, name)]
        return SeedReport(
            namespace=self._pod.namespace,
            layer=self._pod.layer,
            uid=self._pod.uid,
            pod=self._pod.name,
            at=time.time(),
            phase=progress.phase,
            reason=progress.reason,
            message=progress.message,
            trains=self._pod.trains,
            activity=progress.activity,
            features=tuple(on),
            step=progress.step,
            p50=found.p50 if found else None,
            p95=found.p95 if found else None,
            p99=found.p99 if found else None,
            throughput=self._served.throughput,
            memory_bytes=memory,
            gpu_utilisation=utilisation,
            errors=progress.errors,
            decision=progress.last_decision(),
            decisions=progress.decided,
            checkpoint=progress.checkpoint,
            **self._told,  # type: ignore[arg-type]  # made in `looked` of the report's own fields
        )

    def _gauge(self, memory: int, utilisation: float | None, share: float | None) -> None:
        metrics = self._metrics
        metrics.memory.set(memory)
        if utilisation is not None:
            metrics.utilisation.labels("cuda").set(utilisation)
        if share is not None:
            metrics.memory_share.labels("cuda").set(share)
        oldest = min(self._moved.values(), default=0.0)
        metrics.oldest.set(time.time() - oldest if oldest else 0.0)
