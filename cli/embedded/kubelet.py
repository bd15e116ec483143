"""What a cluster's nodes do for Seedbed, in this process.

A Deployment of workers becomes a task for each replica. A Pod, which is a container step, cannot run
here: it fails at once and says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from seedbed.cli.embedded.cluster import Change, MemoryCluster, key_of
from seedbed.controllers.plan import Key, Raw

_STOP_SECONDS = 5.0
_NO_PODS = {
    "phase": "Failed",
    "reason": "NeedsCluster",
    "message": "container steps need a cluster: `kubectl apply` the same manifests there",
}


@dataclass(frozen=True, slots=True)
class Replica:
    """One worker pod that is none.

    Attributes:
        name: unique among all replicas, as a pod's name is.
        env: the container's variables; those that come from elsewhere are left out.
        stop: set when the workers shall finish what they have and end.
    """

    name: str
    env: Mapping[str, str]
    stop: asyncio.Event


Start = Callable[[Replica], Awaitable[None]]


class Kubelet:
    """Keeps as many replicas of each Deployment running as it wants.

    Args:
        cluster: where Deployments are read and their status is written.
        start: runs the workers of one replica until its `stop` is set.
    """

    def __init__(self, cluster: MemoryCluster, start: Start) -> None:
        self._cluster = cluster
        self._start = start
        self._changed = asyncio.Event()
        self._running: dict[Key, dict[int, tuple[Replica, asyncio.Task[None]]]] = {}
        self._serial = 0

    async def run(self) -> None:
        """Run until cancelled; an error of a worker ends it."""
        self._cluster.listen(self._heard)
        async with asyncio.TaskGroup() as group:
            while True:
                await self._changed.wait()
                self._changed.clear()
                wanted = {key_of(obj): obj for obj in self._cluster.listed("Deployment")}
                for key in {*wanted, *self._running}:
                    self._scale(key, wanted.get(key), group)
                for obj in wanted.values():
                    await self._report(obj)
                for pod in self._cluster.listed("Pod"):
                    await self._cluster.apply_status({**pod, "status": _NO_PODS})

    async def drain(self) -> None:
        """Ask every replica to end, and give it a moment for what it has in hand."""
        tasks = [task for running in self._running.values() for _, task in running.values()]
        for running in self._running.values():
            for replica, _ in running.values():
                replica.stop.set()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_SECONDS)

    def _heard(self, _: Change, obj: Raw) -> None:
        if obj["kind"] in ("Deployment", "Pod"):
            self._changed.set()

    def _scale(self, key: Key, obj: Raw | None, group: asyncio.TaskGroup) -> None:
        running = self._running.setdefault(key, {})
        env = {} if obj is None else _environment(obj)
        count = 0 if obj is None else int(obj["spec"].get("replicas", 1))
        for serial, (replica, _) in list(running.items()):
            if replica.env != env or len(running) > count:
                replica.stop.set()
                del running[serial]
        while len(running) < count:
            self._serial += 1
            replica = Replica(f"{key.name}-{self._serial}", env, asyncio.Event())
            task = group.create_task(self._one(replica), name=replica.name)
            running[self._serial] = (replica, task)
        if not running:
            del self._running[key]

    async def _one(self, replica: Replica) -> None:
        await self._start(replica)

    async def _report(self, obj: Raw) -> None:
        count = len(self._running.get(key_of(obj), {}))
        status = {"observedGeneration": obj["metadata"]["generation"]}
        counts = dict.fromkeys(("replicas", "readyReplicas", "availableReplicas"), count)
        await self._cluster.apply_status({**obj, "status": {**status, **counts}})


def _environment(obj: Raw) -> dict[str, str]:
    container: dict[str, Any] = obj["spec"]["template"]["spec"]["containers"][0]
    return {one["name"]: one["value"] for one in container["env"] if "value" in one}
