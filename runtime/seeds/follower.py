"""A process of a group that does what the first one tells, and serves beside where it can.

With replicated seeds the first process of each pod answers requests of its own; with sharded ones only the
whole group can, so requests go to the first pod.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

from prometheus_client import CollectorRegistry

from seedbed.crds.errors import InvalidError, NotFoundError, SeedbedError
from seedbed.crds.seed_layer import SeedLayerSpec
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.seeds import checkpoint
from seedbed.runtime.seeds.data import AbortedError, Collected, watched
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.figures import SeedMetrics, Served
from seedbed.runtime.seeds.group import Group, GroupLostError, Told
from seedbed.runtime.seeds.host import Host
from seedbed.runtime.seeds.pages import SeedPages
from seedbed.runtime.seeds.places import CheckpointPlace
from seedbed.runtime.seeds.policy import Decision
from seedbed.runtime.seeds.progress import Progress
from seedbed.runtime.seeds.reporting import Pod, Reporter
from seedbed.runtime.seeds.shards import store_shard, told_by_all
from seedbed.runtime.seeds.threads import aside
from seedbed.runtime.telemetry.health import serving_app

_log = logging.getLogger(__name__)


class Obedient:
    """Does what the first process tells, in one thread.

    Attributes:
        host: what it was told to load; None before, and where that failed.
    """

    def __init__(self, group: Group, place: CheckpointPlace) -> None:
        self.host: Host | None = None
        self._refused = ""
        self._group, self._place = group, place

    def obey(self, changed: Callable[[], None]) -> None:
        """Until it is told to end; `changed` is called after a load and after each epoch.

        Raises:
            GroupLostError: another process has gone.
        """
        while (told := self._group.hear()).task != "end":
            match told.task:
                case "load":
                    self._load(told)
                case "take":
                    self._take(told)
                case "epoch":
                    self._epoch(told)
                case "apply":
                    moves = [Decision.unpacked(each) for each in told.about["decisions"]]
                    self._loaded.model.apply(moves)
                case "data":
                    self._loaded.take_data()
                case "save":
                    self._save(told)
                case "ask":
                    self._ask(told)
            if told.task in ("take", "epoch", "apply"):
                changed()

    @property
    def _loaded(self) -> Host:
        if self.host is None:
            raise GroupLostError("this process could not load what the group trains")
        return self.host

    def _load(self, told: Told) -> None:
        self.host, self._refused = None, ""
        spec = SeedLayerSpec.model_validate_json(told.about["spec"])
        try:
            self.host = Host.made(spec, Features(**told.about["features"]), self._group)
        except GroupLostError:
            raise
        except SeedbedError as error:
            self._fails(error)

    def _fails(self, error: SeedbedError) -> None:
        _log.error("%s", error, extra={"code": error.code})
        self._refused = error.message

    def _take(self, told: Told) -> None:
        number, host = told.about["number"], self.host
        if host is not None and number:
            try:
                if not host.resume(self._place, number):
                    self._fails(NotFoundError("checkpoint", str(number)))
            except GroupLostError:
                raise
            except SeedbedError as error:
                self._fails(error)
        if any(told_by_all(self._group, self._refused)):
            self.host = None

    def _epoch(self, told: Told) -> None:
        host = self._loaded
        if told.about["spec"]:
            host.follow(SeedLayerSpec.model_validate_json(told.about["spec"]))
        if host.data is None:
            raise GroupLostError("a group trains on what spec.data names, and there is none")
        with suppress(AbortedError):
            host.model.train_epoch(watched(host.data, self._before_batch))

    def _before_batch(self) -> None:
        while (told := self._group.hear()).task != "step":
            if told.task == "stop":
                raise AbortedError
            self._ask(told)

    def _save(self, told: Told) -> None:
        # A place that refuses is the first one's to tell.
        with suppress(SeedbedError):
            model, number = self._loaded.model, told.about["number"]
            model.checkpoints = number - 1
            store_shard(model, self._place, number)
            checkpoint.note(model)

    def _ask(self, told: Told) -> None:
        routed = told.about["routed"]
        inputs, route = (told.tensors[:-1], told.tensors[-1]) if routed else (told.tensors, None)
        # What the model refuses, it refuses in every process.
        with suppress(InvalidError):
            self._loaded.pass_through(inputs, route)


class SeedFollower:
    """Such a process, with its pages and reports.

    Args:
        serves: whether it is the one of its pod that has pages and reports.
    """

    def __init__(
        self,
        group: Group,
        *,
        pod: Pod,
        bus: Bus,
        checkpoints: str,
        token: str = "",
        serves: bool = True,
        drain: float = 110.0,
        registry: CollectorRegistry | None = None,
    ) -> None:
        self.progress = Progress()
        self._group, self._serves, self._drain = group, serves, drain
        place = CheckpointPlace(checkpoints, f"{pod.namespace}.{pod.layer}")
        self._work = Obedient(group, place)
        metrics, served = SeedMetrics(registry), Served()
        self._reporter = Reporter(pod, bus, self.progress, served, metrics)
        self.pages = SeedPages(
            self.progress, served, metrics, Collected(), trains=False, token=token
        )

    @property
    def waiting(self) -> bool:
        """Whether there is no model yet."""
        return self._work.host is None

    async def run(
        self, host: str, port: int, stopping: asyncio.Event, started: Callable[[int], None]
    ) -> None:
        """Obey until the first process tells the end, or for a while after `stopping` is set.

        Raises:
            GroupLostError: another process has gone.
        """
        loop = asyncio.get_running_loop()

        def changed() -> None:
            loop.call_soon_threadsafe(self._changed)

        obeying = aside(self._work.obey, changed)
        async with AsyncExitStack() as stack:
            if self._serves:
                bound = await stack.enter_async_context(serving_app(self.pages.app(), host, port))
                started(bound)
            else:
                started(0)
            telling = asyncio.ensure_future(self._tell())
            stack.callback(telling.cancel)
            leaving = asyncio.ensure_future(stopping.wait())
            stack.callback(leaving.cancel)
            await _first(obeying, leaving)
            # The first process may want to save with all of them.
            await asyncio.wait({obeying}, timeout=self._drain)
            if obeying.done():
                obeying.result()
        if not stopping.is_set():
            raise GroupLostError(
                "the first process has ended: this one starts anew with the others"
            )

    async def _tell(self) -> None:
        if self._serves:
            await self._reporter.run()

    def _changed(self) -> None:
        """A host is there, or its seeds have moved."""
        host = self._work.host
        if host is None:
            self.progress.enter("Loading", "the model, with the group")
            self.pages.host = self._reporter.host = None
            return
        self._reporter.host = host
        self.pages.host = None if self._group.sharded else host
        if self.progress.phase != "Serving":
            told = "the seeds are sharded: the first pod answers" if self._group.sharded else ""
            self.progress.enter("Serving", told)
        self._reporter.looked()


async def _first(*waiting: asyncio.Future[Any]) -> None:
    """Until one of them is done."""
    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
