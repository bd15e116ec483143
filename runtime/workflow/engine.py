"""The engine process: owns its share of the 16 partitions, by leases, and serves requests to them.

Each engine registers itself and takes free partitions up to its fair share of the live engines; it hands
back what is above it. When its lease is lost everything it owns stops at once, and it begins anew with
another lease. A partition that meets a newer owner's writes stops alone.
"""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator, Awaitable
from contextlib import AsyncExitStack, nullcontext, suppress
from functools import partial

from seedbed.crds.addresses import PARTITIONS, SETTING_PREFIXES, engine_address, summaries_topic
from seedbed.crds.engine_requests import Submit, Summarise, TakeCheckpoint, decode_request
from seedbed.crds.errors import FencedError, InvalidError, SeedbedError, UnavailableError
from seedbed.crds.spending import SPENDING_PREFIX
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.coordination.lease import while_held
from seedbed.runtime.coordination.port import Change, Coordinator, Lease, Ownership
from seedbed.runtime.coordination.registry import discover, register
from seedbed.runtime.store.plans import Plans
from seedbed.runtime.store.port import Store
from seedbed.runtime.workflow import metrics
from seedbed.runtime.workflow.checkpoint.forgetting import Forgetting
from seedbed.runtime.workflow.checkpoint.origin import Origins
from seedbed.runtime.workflow.checkpoint.taking import Checkpointer
from seedbed.runtime.workflow.checkpoint.vault import Owner, Vault
from seedbed.runtime.workflow.foresight import Foresight
from seedbed.runtime.workflow.partition import Partition
from seedbed.runtime.workflow.plan_sources import Allowed, PlanSources
from seedbed.runtime.workflow.planning.earlier_times import EarlierTimes
from seedbed.runtime.workflow.planning.forecast import Forecaster
from seedbed.runtime.workflow.retired import RetiredQueues
from seedbed.runtime.workflow.world import World

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0
RESTART_AFTER = 0.5
_PREPARED = (Submit, TakeCheckpoint)


def partition_name(number: int) -> str:
    """The name that an owner of a partition holds."""
    return f"partition/{number}"


class Engine:
    """Runs workflows.

    Args:
        holder: says who this is, unique among live engines.
        lease_ttl: seconds after which others may take over when this process does not answer.
        plans: plans that users pushed.
        allowed: where plans may be read from beside.
        vault: the checkpoints; None to take none.
        run_retention: seconds that a run stays which has ended and has a successor; 0 for ever.
    """

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        coordinator: Coordinator,
        holder: str,
        lease_ttl: float = 8.0,
        plans: Plans | None = None,
        allowed: Allowed | None = None,
        vault: Vault | None = None,
        run_retention: float = 0.0,
    ) -> None:
        self._store = store
        self._bus = bus
        self._coordinator = coordinator
        self._holder = holder
        self._ttl = lease_ttl
        self._world = World()
        self._vault = vault
        self._forgetting = Forgetting(store, vault, run_retention) if vault else None
        self._origins = Origins(store, vault)
        self._earlier = EarlierTimes(store)
        self._foresight = Foresight(store)
        self._sources = PlanSources(store, plans, allowed or Allowed())
        self._owned: dict[int, tuple[Partition, asyncio.Task[None]]] = {}

    @property
    def partitions(self) -> frozenset[int]:
        """The partitions that this process owns now."""
        return frozenset(self._owned)

    async def run(self) -> None:
        """Serve until cancelled."""
        self._bus.on_restore(self._restored)
        while True:
            try:
                async with self._coordinator.lease(self._ttl) as lease:
                    await while_held(lease, self._serve(lease))
            except SeedbedError as error:
                log.warning("the engine begins anew: %s", error)
            await asyncio.sleep(RESTART_AFTER)

    def _restored(self) -> None:
        for partition, _ in self._owned.values():
            partition.look_again(resend=True)

    async def _serve(self, lease: Lease) -> None:
        metadata = {"status": "ready"}
        await register(self._coordinator, "engine", self._holder, ("partitions",), metadata, lease)
        # What was deleted while nobody watched must not live on.
        self._world = World()
        metrics.POOL_STEPS.hands = self._world.hands
        async with AsyncExitStack() as stack:
            changes = await stack.enter_async_context(self._coordinator.watch(""))
            for prefix in (*SETTING_PREFIXES, SPENDING_PREFIX):
                for key, value in (await self._coordinator.settings(prefix)).items():
                    self._world.change(Change(key, value))
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._follow(changes))
                    tasks.create_task(self._world.evaluations.run())
                    tasks.create_task(self._retired().run())
                    await self._share(lease, tasks)
            except* SeedbedError as group:
                raise group.exceptions[0] from None
            finally:
                self._owned.clear()
                metrics.PARTITIONS_OWNED.set(0)
                metrics.POOL_STEPS.hands = {}

    def _retired(self) -> RetiredQueues:
        """The queues of Pools that are gone; the owner of the first partition drops them."""
        world = self._world
        return RetiredQueues(self._bus, self._store, world.pulled, lambda: 0 in self._owned)

    async def _follow(self, changes: AsyncIterator[Change]) -> None:
        async for change in changes:
            if change.key.startswith((*SETTING_PREFIXES, SPENDING_PREFIX)):
                self._world.change(change)
                for partition, _ in self._owned.values():
                    partition.look_again()

    async def _share(self, lease: Lease, tasks: asyncio.TaskGroup) -> None:
        """Take free partitions up to the fair share, give back what is above it, for ever."""
        while True:
            try:
                await self._balance(lease, tasks)
            except UnavailableError as error:
                # The lease tells when that has lasted too long.
                log.warning("the coordinator does not answer: %s", error)
            metrics.PARTITIONS_OWNED.set(len(self._owned))
            await asyncio.sleep(LOOK_EVERY)

    async def _balance(self, lease: Lease, tasks: asyncio.TaskGroup) -> None:
        engines = len(await discover(self._coordinator, "engine"))
        share = math.ceil(PARTITIONS / max(1, engines))
        for number in sorted(self._owned)[share:]:
            await self._give_back(number)
        for number in range(PARTITIONS):
            if len(self._owned) >= share:
                break
            if number not in self._owned:
                await self._take(number, lease, tasks)

    async def _take(self, number: int, lease: Lease, tasks: asyncio.TaskGroup) -> None:
        name = partition_name(number)
        ownership = await self._coordinator.acquire(name, self._holder, lease)
        if ownership is None:
            return
        partition = Partition(number, ownership, self._store, self._bus, self._world)
        task = tasks.create_task(self._own(partition, ownership))
        self._owned[number] = (partition, task)

    async def _give_back(self, number: int) -> None:
        _, task = self._owned[number]
        task.cancel()
        await asyncio.wait({task})

    async def _tell(self, partition: Partition, run: str) -> None:
        """Publish how a run stands, as a turn of its partition has it."""
        summary = await partition.ask(Summarise(run))
        await self._bus.publish(summaries_topic(partition.number), summary)

    async def _own(self, partition: Partition, ownership: Ownership) -> None:
        """Run a partition and answer for it; it is given back when this ends."""
        address = engine_address(partition.number)
        owner = Owner(partition.number, ownership.token)
        checkpointer = (
            Checkpointer(partition, owner, self._vault, self._forgetting) if self._vault else None
        )
        checkpointing = checkpointer.running() if checkpointer else nullcontext()
        forecaster = Forecaster(
            partition.number, lambda: partition.live, self._earlier, partial(self._tell, partition)
        )

        def answer(payload: bytes) -> Awaitable[bytes]:
            request = decode_request(payload)
            if isinstance(request, _PREPARED):
                return prepared(request)
            return partition.ask(request)

        async def prepared(request: Submit | TakeCheckpoint) -> bytes:
            if isinstance(request, Submit):
                ready = await self._foresight.ready(await self._sources.ready(request))
                return await partition.ask(await self._origins.begin(ready, time.time()))
            if checkpointer is None:
                raise InvalidError("checkpoint", "this engine keeps none")
            return await checkpointer.take(request.run)

        try:
            async with self._bus.serve(address, answer), checkpointing, forecaster.running():
                await partition.run()
        except FencedError as error:
            metrics.REFUSED.inc()
            log.warning("%s: stops: %s", ownership.name, error)
        finally:
            self._owned.pop(partition.number, None)
            with suppress(SeedbedError):
                await asyncio.shield(self._coordinator.resign(ownership))
