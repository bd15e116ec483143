"""The loop of the pod that trains: an epoch, the policy's decisions, a checkpoint; at the spec's pace.

Decisions are made and carried out between epochs only. A checkpoint is taken where a seed has moved, where
the spec's interval is over, and at the end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from contextlib import suppress

from seedbed.crds.base import seconds
from seedbed.crds.errors import InvalidError, RetryableError, SeedbedError
from seedbed.crds.seed_layer import SeedLayerSpec
from seedbed.crds.seed_messages import SeedCheckpointed
from seedbed.runtime.seeds.data import AbortedError, Collected, paced
from seedbed.runtime.seeds.deciding import Deciders, copied
from seedbed.runtime.seeds.figures import SeedMetrics
from seedbed.runtime.seeds.host import Host
from seedbed.runtime.seeds.places import CheckpointPlace
from seedbed.runtime.seeds.progress import Progress, stage_key
from seedbed.runtime.seeds.reporting import Reporter
from seedbed.runtime.seeds.telemetry import Telemetry
from seedbed.runtime.seeds.training import Data
from seedbed.runtime.seeds.wishes import Wishes

IDLE_REST = 5.0
"""Seconds between epochs when no seed has been active for long: only measurement is left of them."""
_LOOK = 1.0
_log = logging.getLogger(__name__)


class Trainer:
    """Trains the seeds of one host until it is stopped.

    Args:
        collected: what callers have sent; trained on where the spec names no data.
    """

    def __init__(
        self,
        host: Host,
        wishes: Wishes,
        place: CheckpointPlace,
        reporter: Reporter,
        progress: Progress,
        metrics: SeedMetrics,
        collected: Collected,
    ) -> None:
        self._host, self._wishes, self._place = host, wishes, place
        self._reporter, self._progress, self._metrics = reporter, progress, metrics
        self._collected = collected
        self._saved_at = time.monotonic()
        self._saved_epoch = host.model.epoch
        self._idle = 0
        self._deciders = Deciders()

    async def run(self, stopping: asyncio.Event) -> None:
        """Train until `stopping` is set, then take the last checkpoint.

        Raises:
            InvalidError: the data do not fit the model.
        """
        while not stopping.is_set():
            spec = self._spec()
            data = self._data(spec)
            if spec.training.epochs and self._host.model.epoch >= spec.training.epochs:
                await self._finish_checkpoint()
                self._progress.act("Ended")
                await _rest(_LOOK, stopping)
            elif data is None:
                self._progress.act("Waiting")
                await _rest(_LOOK, stopping)
            else:
                self._progress.act("Training")
                await self._one(spec, data)
                await self._pause(spec, stopping)

    async def save(self) -> None:
        """Take a checkpoint of what is there now.

        Raises:
            UnavailableError: the place does not take it.
        """
        spec = self._spec()
        began = time.perf_counter()
        size = await self._host.save(self._place, self._progress.kept(), spec.checkpoint.keep)
        self._metrics.checkpoint.observe(time.perf_counter() - began)
        self._saved_at, self._saved_epoch = time.monotonic(), self._host.model.epoch
        self._progress.checkpoint = SeedCheckpointed(time.time(), self._saved_epoch, size)
        self._progress.news.set()

    def _spec(self) -> SeedLayerSpec:
        assert self._wishes.spec is not None, "a host was made of it"
        return self._host.fitted(self._wishes.spec)

    def _data(self, spec: SeedLayerSpec) -> Data | None:
        if self._host.data is not None:
            return self._host.data
        return paced(self._collected.data(), spec.training) if self._collected.ready else None

    async def _one(self, spec: SeedLayerSpec, data: Data) -> None:
        """One epoch, and what follows from it."""
        host = self._host
        self._follow(spec)
        loop = asyncio.get_running_loop()

        def count() -> None:
            loop.call_soon_threadsafe(self._stepped)

        try:
            telemetry = await host.epoch(paced(data, spec.training), count)
        except AbortedError:
            return
        except InvalidError as error:
            if host.data is not None:
                raise
            self._collected.forget()
            self._failed(error)
            return
        asleep = telemetry.samples == 0 and not bool(host.model.state.members("active").any())
        self._idle = self._idle + 1 if asleep else 0
        moved = await self._decide(spec, telemetry)
        self._reporter.measured(telemetry)
        over = time.monotonic() - self._saved_at >= seconds(spec.checkpoint.interval)
        if moved or over:
            await self._checkpoint()

    def _follow(self, spec: SeedLayerSpec) -> None:
        """What may change between two epochs without loading anew."""
        self._host.follow(spec)

    def _stepped(self) -> None:
        self._progress.step += 1
        self._metrics.steps.inc()

    async def _decide(self, spec: SeedLayerSpec, telemetry: Telemetry) -> bool:
        host, learns = self._host, self._host.features.neural_controller
        before = copied(host.model.state) if learns else None
        policy = self._deciders.policy(spec, host.features)
        decisions = policy.decide(telemetry, host.model.state)
        done = await host.apply(decisions) if decisions else []
        if before is not None:
            after = copied(host.model.state)
            await asyncio.to_thread(self._deciders.watch, telemetry, before, after)
        now = time.time()
        for decision in done:
            record = self._progress.log(decision, now)
            self._metrics.decisions.labels(stage_key(decision.target)).inc()
            self._reporter.stream("decision", record)
            _log.info(
                "epoch %d: seed %d of %s becomes %s: %s",
                *(decision.epoch, decision.slot, decision.layer),
                *(decision.target.label, decision.reason),
            )
        return bool(done)

    async def _checkpoint(self) -> None:
        """Take a checkpoint; where its place does not answer, training goes on and the next one comes."""
        try:
            await self.save()
        except RetryableError as error:
            self._failed(error)

    async def _finish_checkpoint(self) -> None:
        if self._saved_epoch != self._host.model.epoch:
            await self._checkpoint()

    def _failed(self, error: SeedbedError) -> None:
        _log.warning("%s", error)
        self._progress.errors += 1
        self._metrics.errors.labels(error.code).inc()

    async def _pause(self, spec: SeedLayerSpec, stopping: asyncio.Event) -> None:
        wait = seconds(spec.training.interval)
        if self._idle > spec.lifecycle.patience + spec.lifecycle.stages.embargo + 2:
            wait = max(wait, IDLE_REST)
        if wait > 0:
            self._progress.act("Resting")
            await _rest(wait, stopping)


async def _rest(wait: float, stopping: asyncio.Event) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(wait):
            await stopping.wait()
