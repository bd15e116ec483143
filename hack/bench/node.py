"""A real node with the chart on it, as the benchmarks use it: brought up where it is not there."""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from hack import demo_cluster
from hack.cluster import binaries, cluster
from hack.cluster.modes import Mode
from seedbed.operator.kubernetes import KubernetesCluster, connected, path_of

APPLY = {"Content-Type": "application/apply-patch+yaml"}
HEAD = {"apiVersion": "seedbed.dev/v1alpha1"}
DESCRIPTION = "one real node: kubelet, containerd; etcd, NATS, PostgreSQL, 2 operators, 1 engine"


def installed(name: str) -> dict[str, str]:
    """The environment of kubectl and seedbed for the cluster of this name, with the chart on it."""
    cluster.up(name, Mode.NODE, None)
    binaries.ensure(["kubectl", "helm"])
    digest = demo_cluster.bring_images(name)
    env = demo_cluster.environment(name)
    demo_cluster.install(env, digest)
    os.environ.update(env)
    return env


def conditions() -> dict[str, Any]:
    """What the figures were measured on."""
    return {
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "cluster": DESCRIPTION,
        "load": [round(each, 2) for each in os.getloadavg()],
    }


async def apply(api: KubernetesCluster, path: str, obj: dict[str, Any]) -> None:
    """Server-side apply as a user of its own."""
    await api.request("PATCH", f"{path}?fieldManager=bench&force=true", obj, APPLY)


class Stage:
    """A namespace of a benchmark, with a Pool whose workers are ready."""

    def __init__(self, api: KubernetesCluster, namespace: str) -> None:
        self.api = api
        self.namespace = namespace

    def path(self, kind: str, name: str) -> str:
        """The address of an object in it."""
        return path_of(kind, self.namespace, name)

    async def apply(self, kind: str, name: str, spec: dict[str, Any]) -> None:
        """Apply an object of one of the five kinds."""
        metadata = {"name": name, "namespace": self.namespace}
        obj = {**HEAD, "kind": kind, "metadata": metadata, "spec": spec}
        await apply(self.api, self.path(kind, name), obj)

    async def get(self, kind: str, name: str) -> dict[str, Any]:
        """An object."""
        found: dict[str, Any] = await self.api.request("GET", self.path(kind, name))
        return found


@asynccontextmanager
async def stage(namespace: str, pool: dict[str, Any]) -> AsyncIterator[Stage]:
    """The namespace with its Pool `general`, deleted afterwards."""
    async with connected() as api:
        made = Stage(api, namespace)
        space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}}
        await apply(api, f"/api/v1/namespaces/{namespace}", space)
        try:
            await made.apply("Pool", "general", pool)
            async with asyncio.timeout(120):
                while True:
                    if _ready(await made.get("Pool", "general")):
                        break
                    await asyncio.sleep(0.5)
            yield made
        finally:
            await api.request("DELETE", f"/api/v1/namespaces/{namespace}")


def _ready(obj: dict[str, Any]) -> bool:
    found = (obj.get("status") or {}).get("conditions") or ()
    return any(one["type"] == "Ready" and one["status"] == "True" for one in found)
