"""The load of `reconcile`: creates Pools as fast as the API server takes them, and takes them away.

It shares the processors with what it measures, so it is made cheap: bodies are bytes, answers are not
read, and of the watch only what tells that a status is current.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from http import HTTPStatus

import aiohttp
import orjson
import uvloop
from yarl import URL

from hack.bench.kubeconfig import tls_of
from hack.cluster import ControlPlane

NAMESPACE = "bench"
CREATORS = 32
LIMIT = 300.0
POOLS = f"/apis/seedbed.dev/v1alpha1/namespaces/{NAMESPACE}/pools"
DEPLOYMENTS = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments"


def create(cluster: ControlPlane, first: int, count: int) -> float:
    """Create Pools and wait until each has a status of its generation; gives the seconds it took."""
    return uvloop.run(_create(cluster, first, count))


def clear(cluster: ControlPlane) -> None:
    """Delete every Pool, and every Deployment: no garbage collector runs."""
    uvloop.run(_clear(cluster))


@asynccontextmanager
async def _session(cluster: ControlPlane) -> AsyncIterator[aiohttp.ClientSession]:
    with tls_of(cluster.kubeconfig) as context:
        connector = aiohttp.TCPConnector(ssl=context, limit=CREATORS + 4)
        async with aiohttp.ClientSession(cluster.url, connector=connector) as found:
            yield found


async def _create(cluster: ControlPlane, first: int, count: int) -> float:
    names = iter(range(first, first + count))
    path = URL(POOLS, encoded=True)
    headers = {"Content-Type": "application/json"}
    async with _session(cluster) as http:

        async def creator() -> None:
            for number in names:
                pool = {
                    "apiVersion": "seedbed.dev/v1alpha1",
                    "kind": "Pool",
                    "metadata": {"name": f"pool-{number}"},
                    "spec": {"replicas": 0},
                }
                async with http.post(path, data=orjson.dumps(pool), headers=headers) as answer:
                    answer.raise_for_status()

        async with http.get(path, params={"limit": "1"}) as answer:
            since = (await answer.json())["metadata"]["resourceVersion"]
        began = time.perf_counter()
        async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as tasks:
            current = tasks.create_task(_all_current(http, since, count))
            for _ in range(CREATORS):
                tasks.create_task(creator())
        return current.result() - began


async def _all_current(http: aiohttp.ClientSession, since: str, count: int) -> float:
    """Watch until `count` objects have a status of their generation; gives the time."""
    done: set[str] = set()
    while True:  # the API server ends a watch when it likes, and refuses it while it prepares
        params = {"watch": "true", "resourceVersion": since}
        async with http.get(POOLS, params=params, timeout=aiohttp.ClientTimeout()) as answer:
            if answer.status != HTTPStatus.OK:
                await asyncio.sleep(0.2)
                continue
            async for line in answer.content:
                obj = orjson.loads(line)["object"]
                since = obj["metadata"]["resourceVersion"]
                status = obj.get("status") or {}
                if status.get("observedGeneration") == obj["metadata"].get("generation"):
                    done.add(obj["metadata"]["name"])
                if len(done) == count:
                    return time.perf_counter()


async def _clear(cluster: ControlPlane) -> None:
    async with _session(cluster) as http, asyncio.timeout(LIMIT):
        for path in (POOLS, DEPLOYMENTS):
            async with http.delete(path, timeout=aiohttp.ClientTimeout()) as answer:
                answer.raise_for_status()
            while True:
                async with http.get(path, params={"limit": "1"}) as answer:
                    if not (await answer.json())["items"]:
                        break
                await asyncio.sleep(0.2)
