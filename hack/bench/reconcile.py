"""Measures the operator on a real API server, etcd and NATS.

    python -m hack.bench.reconcile --objects 1000 [--restart-objects 3000] [--idle-seconds 300]

1. Creates N Pools with no replicas: each makes one Deployment and one status. Counts the time from
   the first create to the last current status, and the operator's CPU and writes.
2. Leaves them alone and counts writes.
3. Fills up to M objects, starts the operator anew, and counts the time from leadership, listing
   included, to the last reconcile.

The control plane runs without its controller manager, so that a Deployment stays as written. Load
generator, API server, etcd, NATS and operator share the machine. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import platform
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hack.bench.kubeconfig import tls_of
from hack.cluster import ControlPlane, control_plane, etcd_server
from tests.servers import NatsServer

CRDS = Path("charts/seedbed/files/crds")
NAMESPACE = "bench"
CREATORS = 32
LIMIT = 300.0


@dataclass(frozen=True, slots=True)
class Sample:
    """The operator at one moment."""

    at: float
    cpu: float
    writes: float
    reconciles: float


class Operator:
    """An operator process under measurement.

    Args:
        environment: its settings.
        port: where it serves its metrics.
    """

    def __init__(self, environment: dict[str, str], port: int, log: Path) -> None:
        self._port = port
        self.log = log
        self.started = time.perf_counter()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [str(Path(sys.executable).parent / "seedbed"), "serve", "operator"],
                env={**os.environ, **environment, "SEEDBED_HEALTH_PORT": str(port)},
                stdout=output,
                stderr=output,
            )

    def metrics(self) -> dict[str, float]:
        """Every sample of its metrics page, by name with labels."""
        try:
            with urllib.request.urlopen(
                f"http://127.0.0.1:{self._port}/metrics", timeout=10
            ) as page:
                text = page.read().decode()
        except OSError:
            if self._process.poll() is not None:
                tail = self.log.read_text()[-3000:]
                raise RuntimeError(f"the operator ended:\n{tail}") from None
            return {}
        lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in lines if name}

    def sample(self) -> Sample:
        """Its counters now."""
        found = self.metrics()
        return Sample(
            time.perf_counter(),
            self._cpu(),
            total(found, "seedbed_api_writes_total"),
            total(found, "seedbed_reconciles_total"),
        )

    def _cpu(self) -> float:
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_mib(self) -> float:
        """Resident memory."""
        status = Path(f"/proc/{self._process.pid}/status").read_text()
        found = re.search(r"VmRSS:\s+(\d+)", status)
        assert found is not None
        return int(found[1]) / 1024

    def quiet(self, seconds: float = 1.5) -> Sample:
        """Wait until it has reconciled nothing for a while."""
        last = self.sample()
        while True:
            time.sleep(seconds)
            now = self.sample()
            if now.reconciles == last.reconciles and now.writes == last.writes:
                return now
            last = now

    def wait(self, what: str, at_least: float) -> float:
        """Wait until a metric reaches a value; gives the time."""
        deadline = time.monotonic() + LIMIT
        while total(self.metrics(), what) < at_least:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{what} stays under {at_least}")
            time.sleep(0.02)
        return time.perf_counter()

    def stop(self) -> None:
        """End it in good order."""
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def total(metrics: dict[str, float], name: str) -> float:
    """The sum of a metric over its labels."""
    return sum(v for n, v in metrics.items() if n == name or n.startswith(f"{name}{{"))


@contextmanager
def operator(environment: dict[str, str], folder: Path) -> Iterator[Operator]:
    """A running operator that leads."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    running = Operator(environment, port, folder / "operator.log")
    try:
        running.wait("seedbed_leading", 1)
        yield running
    finally:
        running.stop()


@asynccontextmanager
async def session(cluster: ControlPlane) -> AsyncIterator[aiohttp.ClientSession]:
    """A connection to the API server as administrator."""
    with tls_of(cluster.kubeconfig) as context:
        connector = aiohttp.TCPConnector(ssl=context, limit=CREATORS + 4)
        async with aiohttp.ClientSession(cluster.url, connector=connector) as found:
            yield found


async def create(cluster: ControlPlane, first: int, count: int) -> float:
    """Create Pools and wait until each has a current status; gives the seconds it took."""
    path = f"/apis/seedbed.dev/v1alpha1/namespaces/{NAMESPACE}/pools"
    names = iter(range(first, first + count))
    async with session(cluster) as http:

        async def creator() -> None:
            for number in names:
                pool = {
                    "apiVersion": "seedbed.dev/v1alpha1",
                    "kind": "Pool",
                    "metadata": {"name": f"pool-{number}"},
                    "spec": {"replicas": 0},
                }
                async with http.post(path, json=pool) as answer:
                    answer.raise_for_status()

        async with http.get(path, params={"limit": 1}) as answer:
            since = (await answer.json())["metadata"]["resourceVersion"]
        began = time.perf_counter()
        async with asyncio.timeout(LIMIT), asyncio.TaskGroup() as tasks:
            current = tasks.create_task(all_current(http, path, since, count))
            for _ in range(CREATORS):
                tasks.create_task(creator())
        return current.result() - began


async def all_current(http: aiohttp.ClientSession, path: str, since: str, count: int) -> float:
    """Watch until `count` objects have a status of their generation; gives the time."""
    done: set[str] = set()
    while True:  # the API server ends a watch when it likes
        params = {"watch": "true", "resourceVersion": since}
        async with http.get(path, params=params, timeout=aiohttp.ClientTimeout()) as answer:
            async for line in answer.content:
                obj = json.loads(line)["object"]
                since = obj["metadata"]["resourceVersion"]
                status: dict[str, Any] = obj.get("status") or {}
                if status.get("observedGeneration") == obj["metadata"].get("generation"):
                    done.add(obj["metadata"]["name"])
                if len(done) == count:
                    return time.perf_counter()


def measure(options: argparse.Namespace, cluster: ControlPlane, folder: Path) -> dict[str, Any]:
    """All phases."""
    environment = {
        "KUBECONFIG": str(cluster.kubeconfig),
        "SEEDBED_ETCD_ENDPOINT": options.etcd,
        "SEEDBED_NATS_URL": options.nats,
        "SEEDBED_GATEWAY_URL": "http://127.0.0.1:9",
        "SEEDBED_WEBHOOK_ENABLED": "false",
        "POD_NAMESPACE": NAMESPACE,
    }
    count, more = options.objects, max(0, options.restart_objects - options.objects)
    with operator(environment, folder) as first:
        asyncio.run(create(cluster, 10**6, 20))
        before = first.quiet()
        say(f"creating {count} objects")
        seconds = asyncio.run(create(cluster, 0, count))
        after = first.quiet()
        say(f"idle for {options.idle_seconds:g} s")
        time.sleep(options.idle_seconds)
        idle = first.sample()
        say(f"creating {more} objects more")
        if more:
            asyncio.run(create(cluster, count, more))
            first.quiet()
        kinds = {n: v for n, v in first.metrics().items() if n.startswith("seedbed_api_writes")}
        say(f"writes: {kinds}")
    say("starting anew")
    whole = count + more + 20
    with operator(environment, folder) as second:
        led = time.perf_counter()
        finished = second.wait("seedbed_reconciles_total", whole)
        rest = second.quiet()
        rss = second.rss_mib()
        restart_writes = rest.writes
        from_exec = finished - second.started
    return {
        "objects_per_second": round(count / seconds, 1),
        "restart_objects_per_second": round(whole / (finished - led), 1),
        "cpu_ms_per_object": round((after.cpu - before.cpu) * 1000 / count, 2),
        "writes_per_object": round((after.writes - before.writes) / count, 3),
        "idle_writes": round(idle.writes - after.writes),
        "idle_cpu_ms_per_second": round((idle.cpu - after.cpu) * 1000 / (idle.at - after.at), 2),
        "rss_mib": round(rss, 1),
        "restart_writes": round(restart_writes),
        "restart_seconds_from_exec": round(from_exec, 2),
        "reconciles_per_object": round((after.reconciles - before.reconciles) / count, 2),
        "conditions": conditions(options, whole),
    }


def conditions(options: argparse.Namespace, whole: int) -> dict[str, Any]:
    """What the figures were taken on."""
    return {
        "objects": options.objects,
        "restart_objects": whole,
        "idle_seconds": options.idle_seconds,
        "work": "one child (Deployment, replicas 0) and one status an object",
        "cpus": os.cpu_count(),
        "load_average": os.getloadavg()[0],
        "python": platform.python_version(),
        "kopf": version("kopf"),
        "aiohttp": version("aiohttp"),
        "controller_manager": False,
        "webhook": False,
    }


def say(text: str) -> None:
    """Progress, apart from the result."""
    print(f"# {text}", file=sys.stderr, flush=True)


def install(cluster: ControlPlane) -> None:
    """The CRDs and a namespace."""
    for file in sorted(CRDS.glob("*.yaml")):
        cluster.kubectl("apply", "--server-side", "-f", str(file))
    cluster.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    cluster.kubectl("create", "namespace", NAMESPACE)


def main() -> None:
    """Start everything, measure, print."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--objects", type=int, default=1000)
    parser.add_argument("--restart-objects", type=int, default=3000)
    parser.add_argument("--idle-seconds", type=float, default=300.0)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="seedbed-bench-")))
        say("starting the API server, etcd and NATS")
        options.etcd = f"http://{stack.enter_context(etcd_server()).endpoint}"
        nats = NatsServer(folder)
        nats.start()
        stack.callback(nats.stop)
        options.nats = nats.url
        cluster = stack.enter_context(control_plane(controller_manager=False))
        install(cluster)
        print(json.dumps(measure(options, cluster, folder)))


if __name__ == "__main__":
    main()
