"""What a cluster's nodes do for Seedbed, in this process.

A Deployment of workers and a StatefulSet of seed pods become a task for each replica. A Pod, which is a
container step, cannot run here: it fails at once and says so.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Awaitable, Callable, Container, Mapping
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
    """One pod that is none.

    Attributes:
        role: what it serves as: `worker` or `seeds`.
        name: unique among all replicas, as a pod's name is; those of a StatefulSet count from 0.
        env: the container's variables; those that come from elsewhere are left out.
        stop: set when the workers shall finish what they have and end.
    """

    name: str
    env: Mapping[str, str]
    stop: asyncio.Event
    role: str = "worker"


_SETS = ("Deployment", "StatefulSet")
_COUNTS = ("replicas", "updatedReplicas", "readyReplicas", "availableReplicas")
Start = Callable[[Replica], Awaitable[None]]


class Kubelet:
    """Keeps as many replicas of each Deployment and StatefulSet running as it wants.

    Args:
        cluster: where they are read and their status is written.
        start: runs one replica until its `stop` is set.
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
                wanted = {key_of(obj): obj for kind in _SETS for obj in self._cluster.listed(kind)}
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
        if obj["kind"] in (*_SETS, "Pod"):
            self._changed.set()

    def _scale(self, key: Key, obj: Raw | None, group: asyncio.TaskGroup) -> None:
        running = self._running.setdefault(key, {})
        env = {} if obj is None else _environment(obj)
        count = 0 if obj is None else int(obj["spec"].get("replicas", 1))
        for serial, (replica, _) in list(running.items()):
            if replica.env != env or len(running) > count:
                replica.stop.set()
                del running[serial]
        while obj is not None and len(running) < count:
            serial = self._next(key, running)
            replica = Replica(f"{key.name}-{serial}", env, asyncio.Event(), _role(obj))
            task = group.create_task(self._one(replica), name=replica.name)
            running[serial] = (replica, task)
        if not running:
            del self._running[key]

    def _next(self, key: Key, running: Container[int]) -> int:
        """The number of a new replica."""
        if key.kind == "StatefulSet":
            return next(number for number in itertools.count() if number not in running)
        self._serial += 1
        return self._serial

    async def _one(self, replica: Replica) -> None:
        await self._start(replica)

    async def _report(self, obj: Raw) -> None:
        count = len(self._running.get(key_of(obj), {}))
        status = {"observedGeneration": obj["metadata"]["generation"]}
        counts = dict.fromkeys(_COUNTS, count)
        await self._cluster.apply_status({**obj, "status": {**status, **counts}})


def _role(obj: Raw) -> str:
    arguments = obj["spec"]["template"]["spec"]["containers"][0].get("args") or ("serve", "worker")
    return str(arguments[1])


def _environment(obj: Raw) -> dict[str, str]:
    container: dict[str, Any] = obj["spec"]["template"]["spec"]["containers"][0]
    return {one["name"]: one["value"] for one in container["env"] if "value" in one}
