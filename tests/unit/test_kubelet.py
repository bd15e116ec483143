"""The stand-in for a node: replicas of workers come and go with their Deployment."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from seedbed.cli.embedded.cluster import MemoryCluster
from seedbed.cli.embedded.kubelet import Kubelet, Replica
from seedbed.controllers.plan import Key
from tests.conftest import run_async

KEY = Key("Deployment", "default", "pool")


def deployment(replicas: int, workers: str = "4") -> dict[str, Any]:
    env = [{"name": "SEEDBED_WORKERS", "value": workers}, {"name": "POD_NAME", "valueFrom": {}}]
    pod = {"containers": [{"name": "worker", "env": env}]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "pool", "namespace": "default"},
        "spec": {"replicas": replicas, "template": {"spec": pod}},
    }


@asynccontextmanager
async def kubelet(cluster: MemoryCluster) -> AsyncIterator[dict[str, Replica]]:
    """A running kubelet, and the replicas that run now, by name."""
    running: dict[str, Replica] = {}

    async def work(replica: Replica) -> None:
        running[replica.name] = replica
        await replica.stop.wait()
        del running[replica.name]

    async with asyncio.TaskGroup() as group:
        task = group.create_task(Kubelet(cluster, work).run())
        yield running
        task.cancel()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0)


def ready(cluster: MemoryCluster) -> int:
    found = cluster.get(KEY)
    assert found is not None
    count: int = found.get("status", {}).get("readyReplicas", -1)
    return count


def test_replicas_follow_the_deployment() -> None:
    async def body() -> None:
        cluster = MemoryCluster()
        async with kubelet(cluster) as running:
            await cluster.apply(deployment(2))
            await until(lambda: len(running) == 2 and ready(cluster) == 2)
            assert next(iter(running.values())).env == {"SEEDBED_WORKERS": "4"}
            await cluster.apply(deployment(1))
            await until(lambda: len(running) == 1 and ready(cluster) == 1)
            await cluster.apply(deployment(0))
            await until(lambda: not running and ready(cluster) == 0)

    run_async(body())


def test_a_changed_template_replaces_the_replicas() -> None:
    async def body() -> None:
        cluster = MemoryCluster()
        async with kubelet(cluster) as running:
            await cluster.apply(deployment(1))
            await until(lambda: len(running) == 1)
            (before,) = running
            await cluster.apply(deployment(1, workers="8"))
            await until(lambda: len(running) == 1 and before not in running)
            (after,) = running.values()
            assert after.env["SEEDBED_WORKERS"] == "8"

    run_async(body())


def test_a_deleted_deployment_ends_its_replicas() -> None:
    async def body() -> None:
        cluster = MemoryCluster()
        stored = await cluster.apply(deployment(1))
        async with kubelet(cluster) as running:
            await until(lambda: len(running) == 1)
            await cluster.delete(KEY, stored["metadata"]["uid"])
            await until(lambda: not running)

    run_async(body())


def test_a_pod_fails_and_says_that_it_needs_a_cluster() -> None:
    async def body() -> None:
        cluster = MemoryCluster()
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": "step", "namespace": "default"},
            "spec": {},
        }
        async with kubelet(cluster):
            await cluster.apply(pod)
            key = Key("Pod", "default", "step")
            await until(lambda: "status" in (cluster.get(key) or {}))
        found = cluster.get(key)
        assert found is not None
        assert found["status"]["phase"] == "Failed"
        assert "need a cluster" in found["status"]["message"]

    run_async(body())
