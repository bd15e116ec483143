"""The pod of a SeedLayer: loads, serves, trains, obeys the flags, saves, tells.

    wishes (spec and flags, live) ─► host (model with seeds) ─► pages, trainer ─► reports, event log
                                        ▲                          │
                                        └────── checkpoints ◄──────┘

The first pod trains. The others serve what it has checkpointed, and take each newer checkpoint over, or
train with it (`spec.distribution`): then they are led by it, see `follower`.

A model that cannot be loaded is told and tried again when the spec changes; the process stays, so that the
reason can be read. A change of what gives the state its shape is obeyed by saving and loading anew.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace

from prometheus_client import CollectorRegistry

from seedbed.crds.errors import (
    FencedError,
    InvalidError,
    NotFoundError,
    RetryableError,
    SeedbedError,
)
from seedbed.crds.seed_layer import SeedLayerSpec
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.seeds.begun import SHAPE
from seedbed.runtime.seeds.data import Collected
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.figures import SeedMetrics, Served
from seedbed.runtime.seeds.group import Alone, GroupLostError
from seedbed.runtime.seeds.host import Host
from seedbed.runtime.seeds.pages import SeedPages
from seedbed.runtime.seeds.places import CheckpointPlace
from seedbed.runtime.seeds.progress import Progress
from seedbed.runtime.seeds.reporting import Pod, Reporter
from seedbed.runtime.seeds.threads import aside, limit_threads
from seedbed.runtime.seeds.trainer import Trainer
from seedbed.runtime.seeds.wishes import Wishes
from seedbed.runtime.telemetry.health import serving_app

RETRY = 30.0
"""Seconds after which a model or data that could not be loaded are tried again."""
FOLLOW = 2.0
"""Seconds between two looks for a newer checkpoint, of pods that only serve."""
FAREWELL = 5.0
"""Seconds in which the other processes of a group have to hear that the pod ends."""
BEAT = 30.0
"""Seconds between two signs of life to the processes of a group, while there is nothing to do."""
_SHARE = 0.5
_SAVE_AGAIN = 0.5
# Features that only a model made anew can obey; the others change between two epochs.
_LASTING = ("chunked_architecture", "extended_lifecycle", "triton_kernels")
_log = logging.getLogger(__name__)


class SeedServer:
    """One pod.

    Attributes:
        progress: how far it has come.

    Args:
        checkpoints: path or URL of the place for checkpoints.
        drain: seconds in which the state has to be safe when the pod ends.
        environment: whose variables override flags, and the number of threads, see `threads`.
        group: the processes that train together, of which this is the first.
    """

    def __init__(
        self,
        *,
        pod: Pod,
        bus: Bus,
        coordinator: Coordinator,
        checkpoints: str,
        environment: Mapping[str, str],
        drain: float = 110.0,
        token: str = "",
        registry: CollectorRegistry | None = None,
        group: Alone | None = None,
    ) -> None:
        self.progress = Progress()
        self._group = group or Alone()
        self._left_loading = False
        self._pod, self._drain, self._environment = pod, drain, environment
        self._wishes = Wishes(coordinator, pod.namespace, pod.layer, environment)
        self._place = CheckpointPlace(checkpoints, f"{pod.namespace}.{pod.layer}")
        self._metrics = SeedMetrics(registry)
        served, self._collected = Served(), Collected()
        self._reporter = Reporter(pod, bus, self.progress, served, self._metrics)
        self.pages = SeedPages(
            self.progress,
            served,
            self._metrics,
            self._collected,
            trains=pod.trains,
            token=token,
        )

    @property
    def waiting(self) -> bool:
        """Whether nothing is served now."""
        return self.pages.host is None

    async def run(
        self, host: str, port: int, stopping: asyncio.Event, started: Callable[[int], None]
    ) -> None:
        """Serve until `stopping` is set, and save.

        Args:
            host: address to listen on.
            port: port to listen on; 0 for any.
            stopping: ends it.
            started: told the port once the pages answer, whether the model is there or not.
        """
        _log.info("computing with %d threads", limit_threads(self._environment))
        async with serving_app(self.pages.app(), host, port) as bound:
            started(bound)
            async with asyncio.TaskGroup() as tasks:
                helping = [
                    tasks.create_task(self._wishes.follow()),
                    tasks.create_task(self._reporter.run()),
                ]
                await self._serve(stopping)
                for task in helping:
                    task.cancel()
            await self._reporter.tell()
            if not self._left_loading:  # else the others are in the middle of something with it
                with suppress(GroupLostError, TimeoutError):
                    async with asyncio.timeout(FAREWELL):
                        await aside(self._group.tell, "end", {})

    async def _serve(self, stopping: asyncio.Event) -> None:
        """One host after the other."""
        if not await _unless(stopping, self._wishes.first()):
            return
        while not stopping.is_set():
            self._wishes.changed.clear()
            assert self._wishes.spec is not None
            self.progress.enter("Loading", "the model")
            try:
                await self._with_host(self._wishes.spec, stopping)
            except GroupLostError:
                raise
            except SeedbedError as error:
                await self._failed(error, stopping)

    async def _failed(self, error: SeedbedError, stopping: asyncio.Event) -> None:
        """Say so, and wait for a change."""
        _log.error("%s", error, extra={"code": error.code})
        self.progress.fail(error)
        wait = (error.retry_after if isinstance(error, RetryableError) else None) or RETRY
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await _unless(stopping, self._wishes.changed.wait())

    async def _with_host(self, spec: SeedLayerSpec, stopping: asyncio.Event) -> None:
        """Load a host and serve it, until the pod ends or the features ask for another one.

        Raises:
            SeedbedError: it cannot be loaded, or trained, or saved.
        """
        loading = asyncio.ensure_future(self._load(spec))
        if not await _unless(stopping, loading):
            self._left_loading = True
            return
        host = loading.result()
        beating = asyncio.ensure_future(host.keep_together(BEAT))
        try:
            self.progress.resume(host.extra)
            self._reporter.host = self.pages.host = host
            self._reporter.looked()
            self.progress.serve(host.refused)
            _log.info("serving %s with %d layers", self._pod.layer, len(host.model.layers))
            await self._work(host, spec, stopping)
        finally:
            beating.cancel()
            self.pages.host = None
            await host.close()

    async def _load(self, spec: SeedLayerSpec) -> Host:
        """A host, whose checkpoints no former pod writes any more.

        Raises:
            SeedbedError: as `Host.load`.
        """
        if self._pod.trains:
            try:
                await aside(self._place.claim)
            except RetryableError as error:
                _log.warning("%s", error)  # it may serve all the same
        return await Host.load(spec, self._wishes.features, self._place, self._group)

    async def _work(self, host: Host, spec: SeedLayerSpec, stopping: asyncio.Event) -> None:
        over = asyncio.Event()
        trainer = Trainer(
            host,
            self._wishes,
            self._place,
            self._reporter,
            self.progress,
            self._metrics,
            self._collected,
        )
        trains = self._pod.trains and bool(host.model.layers)
        watching = asyncio.ensure_future(self._until_over(host, spec, stopping, over))
        try:
            if trains:
                await self._train(host, trainer, over)
                await self._save(trainer, stopping)
            elif host.model.layers:
                await self._follow(host, over)
            else:
                self.progress.act("Off")
                await over.wait()
        except FencedError as error:
            _log.error("a newer pod trains, and this one follows it: %s", error)
            self.progress.serve_only(error)
            await self._follow(host, over)
        finally:
            watching.cancel()
        if stopping.is_set():
            self.progress.enter("Ending")

    async def _save(self, trainer: Trainer, stopping: asyncio.Event) -> None:
        """Take the last checkpoint; a pod that ends asks again where the place does not answer.

        Raises:
            FencedError: another process writes there now.
            UnavailableError: it was not taken.
        """
        if stopping.is_set():
            self.progress.enter("Ending", "its state is being saved")
        end = time.monotonic() + self._drain * _SHARE
        while True:
            try:
                return await trainer.save()
            except RetryableError as error:
                if not stopping.is_set() or time.monotonic() > end:
                    raise
                _log.warning("the last checkpoint is tried again: %s", error)
            await asyncio.sleep(_SAVE_AGAIN)

    async def _until_over(
        self, host: Host, spec: SeedLayerSpec, stopping: asyncio.Event, over: asyncio.Event
    ) -> None:
        """Set `over` when the pod ends, or when features or spec ask for a model made anew."""
        wanted = self._wishes.features
        while (
            not stopping.is_set()
            and _same(self._wishes.features, wanted)
            and self._wishes.spec is not None
            and _same_shape(self._wishes.spec, spec)
        ):
            host.features = host.model.features = replace(
                self._wishes.features,
                **{name: getattr(host.features, name) for name in _LASTING},
            )
            self._wishes.changed.clear()
            await _unless(stopping, self._wishes.changed.wait())
        over.set()

    async def _await_data(self, host: Host, over: asyncio.Event) -> None:
        """Where the data cannot be had, serve without them and look again now and then."""
        if host.unfit is None:
            return
        while host.unfit is not None and not over.is_set():
            _log.error("%s", host.unfit)
            self.progress.serve_only(host.unfit)
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY):
                    await over.wait()
            if not over.is_set():
                looking = asyncio.ensure_future(host.look_for_data())
                if await _unless(over, looking):
                    looking.result()
        self.progress.serve(host.refused)

    async def _train(self, host: Host, trainer: Trainer, over: asyncio.Event) -> None:
        """Train until it is over; an epoch that takes too long then is given up.

        Where the data turn out to be unfit, what was learnt so far is served on, and they are looked for
        again: every batch of them is tried before training goes on.
        """
        while not over.is_set():
            await self._await_data(host, over)
            training = asyncio.ensure_future(trainer.run(over))
            try:
                while not training.done() and not over.is_set():
                    await _unless(over, asyncio.wait({training}))
                if not training.done():
                    await asyncio.wait({training}, timeout=self._drain * _SHARE)
                    host.abort()
                await training
            except InvalidError as error:
                host.data, host.unfit = None, error
            finally:
                training.cancel()

    async def _follow(self, host: Host, over: asyncio.Event) -> None:
        """Serve what the first pod has checkpointed."""
        while not over.is_set():
            try:
                if await host.refresh(self._place):
                    self.progress.resume(host.extra)
                    self._reporter.looked()
            except (RetryableError, InvalidError, NotFoundError) as error:
                _log.warning("%s", error)
            with suppress(TimeoutError):
                async with asyncio.timeout(FOLLOW):
                    await over.wait()


def _same(now: Features, before: Features) -> bool:
    return all(getattr(now, name) == getattr(before, name) for name in _LASTING)


def _same_shape(now: SeedLayerSpec, before: SeedLayerSpec) -> bool:
    return all(getattr(now, name) == getattr(before, name) for name in SHAPE)


async def _unless(stopping: asyncio.Event, waiting: object) -> bool:
    """Wait for something, or for the end; whether it was the former."""
    first = asyncio.ensure_future(waiting)  # type: ignore[call-overload]  # any awaitable
    second = asyncio.ensure_future(stopping.wait())
    try:
        await asyncio.wait({first, second}, return_when=asyncio.FIRST_COMPLETED)
        return bool(first.done())
    finally:
        first.cancel()
        second.cancel()
