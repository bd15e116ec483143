"""The cluster layout on one machine: real servers, one engine process and worker processes."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import DEVNULL, Popen

from hack.bench import loads
from hack.bench.loads import Client
from seedbed.runtime.bus.nats import NatsBus
from seedbed.runtime.coordination.etcd import EtcdCoordinator
from seedbed.runtime.coordination.registry import discover
from seedbed.runtime.store.sql import SqlStore
from tests.servers import EtcdServer, NatsServer, PostgresServer, free_port

ROOT = Path(__file__).resolve().parents[2]
_TICKS = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Cluster:
    """The processes, and a client of them."""

    client: Client
    store: SqlStore
    bus: NatsBus
    engine: int
    processes: dict[str, list[int]]

    def cpu(self) -> dict[str, float]:
        """CPU seconds so far, by kind of process, children included."""
        return {kind: sum(map(_cpu, pids)) for kind, pids in self.processes.items()}


@asynccontextmanager
async def cluster(workers: int = 4, concurrency: int = 64) -> AsyncIterator[Cluster]:
    """PostgreSQL, NATS, etcd, one engine process and `workers` processes of one worker each."""
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        nats, etcd, postgres = stack.enter_context(_servers(folder))
        url = postgres.database()
        store = SqlStore.open(url)
        stack.push_async_callback(store.close)
        await store.migrate()
        bus = await NatsBus.open(nats.url)
        stack.push_async_callback(bus.close)
        coordinator = EtcdCoordinator.open(etcd.endpoint)
        stack.push_async_callback(coordinator.close)
        await loads.put_pool(coordinator)
        environment = {
            "SEEDBED_NATS_URL": nats.url,
            "SEEDBED_ETCD_ENDPOINT": etcd.endpoint,
            "SEEDBED_DATABASE_URL": url,
            "SEEDBED_GATEWAY_URL": "http://127.0.0.1:1",
            "SEEDBED_NAMESPACE": loads.NAMESPACE,
            "SEEDBED_POOL": "general",
            "SEEDBED_WORKERS": "1",
            "SEEDBED_CONCURRENCY": str(concurrency),
            "SEEDBED_LOG_LEVEL": "error",
        }
        engine = stack.enter_context(role("engine", environment))
        served = [
            stack.enter_context(role("worker", {**environment, "POD_NAME": f"w{n}"}))
            for n in range(workers)
        ]
        client = await stack.enter_async_context(Client.open(bus))
        async with asyncio.timeout(120):
            await _until_registered(coordinator, workers)
            await client.play(loads.each(500))
        yield Cluster(
            client,
            store,
            bus,
            engine.pid,
            {
                "engine": [engine.pid],
                "workers": [one.pid for one in served],
                "nats": [nats.pid],
                "postgres": _family(postgres.pid),
            },
        )


@contextmanager
def _servers(folder: Path) -> Iterator[tuple[NatsServer, EtcdServer, PostgresServer]]:
    made = []
    try:
        for form in (NatsServer, EtcdServer, PostgresServer):
            place = folder / form.__name__
            place.mkdir()
            made.append(form(place))
            made[-1].start()
        yield tuple(made)  # type: ignore[misc]  # one of each, in this order
    finally:
        for server in made:
            server.stop()


@contextmanager
def role(name: str, environment: dict[str, str]) -> Iterator[Popen[bytes]]:
    """One `seedbed serve ROLE` process."""
    command = [sys.executable, "-c", "from seedbed.cli.main import app; app()", "serve", name]
    path = os.pathsep.join((str(ROOT), os.environ.get("PYTHONPATH", "")))
    settings = {"SEEDBED_HEALTH_PORT": str(free_port()), "PYTHONPATH": path, **environment}
    process = Popen(command, env={**os.environ, **settings}, cwd=ROOT, stdout=DEVNULL)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


async def _until_registered(coordinator: EtcdCoordinator, workers: int) -> None:
    async with coordinator.watch("services/worker/") as changes:
        while len(await discover(coordinator, "worker")) < workers:
            await anext(changes)


def rss(pid: int) -> float:
    """Resident memory of a process in MiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _family(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in _family(int(child)))]


def _cpu(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except FileNotFoundError:
        return 0.0
    return sum(map(int, fields[11:15])) / _TICKS
