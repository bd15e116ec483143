"""The operator's loop in a process of its own, for `hack.bench.reconcile`.

Everything of the operator's but the webhook: lease and election on etcd, NATS, lists, watches,
metrics. Arguments: the port of the metrics page. Environment: KUBECONFIG, BENCH_ETCD, BENCH_NATS.
"""

from __future__ import annotations

import asyncio
import os
import sys

from seedbed.controllers.plan import Defaults
from seedbed.operator.kubernetes import connected
from seedbed.operator.metrics import Metrics
from seedbed.operator.reconciler import Reconciler
from seedbed.operator.watch import list_everything, watch
from seedbed.runtime.bus.nats import NatsBus
from seedbed.runtime.coordination.etcd import EtcdCoordinator
from seedbed.runtime.telemetry.health import serving_health


async def main() -> None:
    """Lead and reconcile until ended."""
    metrics = Metrics()
    coordinator = EtcdCoordinator.open(os.environ["BENCH_ETCD"])
    bus = await NatsBus.open(os.environ["BENCH_NATS"])
    async with (
        serving_health(host="127.0.0.1", port=int(sys.argv[1])),
        connected(metrics) as cluster,
        coordinator.lease(8.0) as lease,
    ):
        ownership = await coordinator.campaign("operator", str(os.getpid()), lease)
        metrics.leading.set(1)
        reconciler = Reconciler(
            cluster, bus, coordinator, ownership, Defaults(), metrics=metrics, resync=3600
        )
        await list_everything(cluster, reconciler)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(watch(reconciler, asyncio.Event(), asyncio.Event()))
            tasks.create_task(reconciler.run())


if __name__ == "__main__":
    if os.environ.get("BENCH_UVLOOP"):
        import uvloop

        uvloop.run(main())
    else:
        asyncio.run(main())
