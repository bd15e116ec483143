"""The operator's process: every replica serves admission; one leads, watches and writes.

Leadership is a name on a lease. Whoever loses it ends the process: what it had in its hands may be
stale, and a new process starts from what is there.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

from seedbed.controllers.plan import Defaults
from seedbed.crds.errors import FencedError, SeedbedError
from seedbed.operator.certificate_keeper import CertificateKeeper, Place
from seedbed.operator.kubernetes import KubernetesCluster, connected
from seedbed.operator.metrics import Metrics
from seedbed.operator.reconciler import Reconciler
from seedbed.operator.watch import list_again, list_everything, watch
from seedbed.operator.webhook import serving_webhook
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.coordination.lease import LeaseLostError, while_held
from seedbed.runtime.coordination.port import Coordinator, Lease

log = logging.getLogger(__name__)

LEADER = "operator"
_COLLECT = (10_000, 20, 20)


@dataclass(frozen=True, slots=True)
class Options:
    """How an operator runs.

    Attributes:
        holder: who this is, unique among live replicas.
        lease_seconds: after which another replica may lead when this one does not answer.
        webhook: where the admission webhook's parts are; None for none.
    """

    holder: str
    defaults: Defaults
    lease_seconds: float = 8.0
    webhook: Place | None = None
    webhook_port: int = 9443
    resync: float = 600.0


def worker_environment(settings: Mapping[str, str]) -> tuple[Mapping[str, Any], ...]:
    """Variables that connect a worker to its servers, as a container's `env`."""
    return tuple({"name": name, "value": value} for name, value in settings.items() if value)


async def run_operator(
    *, bus: Bus, coordinator: Coordinator, options: Options, started: Callable[[], None]
) -> None:
    """Serve admission, campaign, lead; until cancelled, or until leadership is lost.

    Args:
        bus: to the engine.
        coordinator: for leadership and the live settings.
        options: how it runs.
        started: called once this replica serves admission, whether it leads or not.

    Raises:
        LeaseLostError, FencedError: it led, and leads no more.
    """
    # What is imported stays, and what a reconcile makes goes without the collector: it may look less.
    gc.freeze()
    gc.set_threshold(*_COLLECT)
    metrics = Metrics()
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(connected(metrics))
        keeper = None
        if options.webhook is not None:
            keeper = CertificateKeeper(cluster, options.webhook)
            await keeper.first()
            await stack.enter_async_context(
                serving_webhook(metrics, keeper.context, options.webhook_port)
            )
        started()
        try:
            async with asyncio.TaskGroup() as tasks:
                if keeper is not None:
                    tasks.create_task(keeper.keep())
                await _campaign(cluster, bus, coordinator, options, metrics)
        except* SeedbedError as group:
            raise group.exceptions[0] from None


async def _campaign(
    cluster: KubernetesCluster,
    bus: Bus,
    coordinator: Coordinator,
    options: Options,
    metrics: Metrics,
) -> None:
    async with coordinator.lease(options.lease_seconds) as lease:
        leading = _lead(lease, cluster, bus, coordinator, options, metrics)
        await while_held(lease, leading)


async def _lead(
    lease: Lease,
    cluster: KubernetesCluster,
    bus: Bus,
    coordinator: Coordinator,
    options: Options,
    metrics: Metrics,
) -> None:
    metrics.leading.set(0)
    ownership = await coordinator.campaign(LEADER, options.holder, lease)
    log.info("%s leads with token %d", options.holder, ownership.token)
    metrics.leading.set(1)
    reconciler = Reconciler(
        cluster,
        bus,
        coordinator,
        ownership,
        options.defaults,
        metrics=metrics,
        resync=options.resync,
    )
    stop = asyncio.Event()
    try:
        await list_everything(cluster, reconciler)
        await reconciler.settle_token()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch(reconciler, stop, asyncio.Event()))
            tasks.create_task(reconciler.run())
            tasks.create_task(list_again(cluster, reconciler, options.resync))
    except* (FencedError, LeaseLostError) as group:
        log.warning("leadership is lost: %s", group.exceptions[0])
        raise group.exceptions[0] from None
    finally:
        stop.set()
        metrics.leading.set(0)
