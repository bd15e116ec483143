"""An engine killed again and again in mid-run: how soon the run goes on, and whether anything is lost.

    python -m hack.bench.kill [--steps 2000] [--kills 100] [--seconds 1500]

Four engines and a worker as processes, on real PostgreSQL, NATS and etcd. A run of layered steps whose
outputs depend on each other is executed once undisturbed and once with the owner of its partition
SIGKILLed at random points of its progress; another takes over, and the killed one is started again.
The run is resumed when its new owner answers for it; the time counts from the signal, which holds the
two seconds after which the dead engine's lease ends, and from the takeover, when the failure is known.
When its journal goes on is told too: that holds what is left of the steps under way. The last line is
one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import orjson

from seedbed.crds.addresses import engine_address, partition_of, pool_setting
from seedbed.crds.engine_requests import Submit, Summarise
from seedbed.crds.errors import UnavailableError
from seedbed.crds.messages import RunRequest
from seedbed.crds.pool import PoolSpec
from seedbed.crds.wire import encode
from seedbed.runtime.bus.nats import NatsBus
from seedbed.runtime.coordination.etcd import EtcdCoordinator
from seedbed.runtime.coordination.registry import discover
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.workflow.engine import partition_name
from seedbed.runtime.workflow.records import RunFinished, StepSucceeded
from seedbed.runtime.workflow.replay import records_of
from tests.servers import EtcdServer, NatsServer, PostgresServer, free_port

WIDTH = 50
LEASE = 2
LIMIT = 5.0
ENGINES = ("one", "two", "three", "four")

# No step here asks an agent; and what a dead engine had not acknowledged comes back soon.
ROLE = """
import seedbed.cli.serve as serve
serve._load_agents = lambda: None
from seedbed.cli.main import app
app()
"""


def plan(steps: int, wait: float) -> list[dict[str, Any]]:
    """Layers of steps, each of which needs two of the layer before."""
    made = []
    for at in range(steps):
        level, place = divmod(at, WIDTH)
        before = (
            [(level - 1) * WIDTH + (place + shift) % WIDTH for shift in (0, 7)] if level else []
        )
        of = [f"${{steps['s{need}'].output}}" for need in before]
        args = {"n": at, "of": of, "wait": wait}
        made.append(
            {"name": f"s{at}", "call": {"entry": "hack.bench.kill_steps:mixed", "args": args}}
        )
    return made


@dataclass
class Place:
    """Servers and the processes on them."""

    folder: Path
    store: SqlStore
    bus: NatsBus
    coordinator: EtcdCoordinator
    settings: dict[str, str]
    namespace: str
    processes: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)

    async def start(self, role: str, name: str) -> None:
        """Start a role."""
        own = {"POD_NAME": name, "SEEDBED_HEALTH_PORT": str(free_port())}
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-c", ROLE, "serve", role),
                env=os.environ | self.settings | own,
                stdout=log,
                stderr=log,
            )

    async def kill(self, name: str) -> None:
        """SIGKILL, and wait until it is gone."""
        process = self.processes[name]
        if process.returncode is None:
            process.kill()
        await process.wait()

    async def owner(self, run: str) -> tuple[str, int]:
        """The engine that owns the run's partition, and its token."""
        while True:
            found = await self.coordinator.holder(partition_name(partition_of(run)))
            if found is not None:
                return found
            await asyncio.sleep(0.02)

    async def submit(self, steps: int, wait: float) -> str:
        """Submit a run."""
        run = f"run-{uuid.uuid4().hex[:8]}"
        spec = {"steps": plan(steps, wait), "parallelism": WIDTH}
        message = encode(Submit(RunRequest(run, self.namespace, "plan", spec)))
        while True:
            try:
                await self.bus.request(engine_address(partition_of(run)), message, wait=10.0)
            except UnavailableError:
                await asyncio.sleep(0.1)
            else:
                return run

    async def progress(self, run: str) -> tuple[int, bool]:
        """Steps that have succeeded, and whether the run is over."""
        while True:
            try:
                row = await self.store.run(run)
            except UnavailableError:
                continue
            if row is not None:
                return orjson.loads(row.summary)["counts"]["succeeded"], row.finished
            await asyncio.sleep(0.02)

    async def length(self, run: str) -> int:
        """Entries in the run's journal."""
        entries = await self.store.journal(run)
        return entries[-1].seq if entries else 0

    async def outcome(self, run: str) -> tuple[Counter[str], Any]:
        """Successes in the journal by step, and the result."""
        succeeded: Counter[str] = Counter()
        result = None
        async for _, record in records_of(self.store, run):
            if isinstance(record, StepSucceeded):
                succeeded[str(record.key)] += 1
            elif isinstance(record, RunFinished):
                result = (record.phase, record.result)
        return succeeded, result


def _made(folder: Path) -> Path:
    folder.mkdir()
    return folder


async def until(condition: Callable[[], Awaitable[bool]], every: float = 0.02) -> None:
    """Look again and again until it holds."""
    while not await condition():  # noqa: ASYNC110  # what is looked at is in other processes
        await asyncio.sleep(every)


@asynccontextmanager
async def opened(folder: Path) -> AsyncIterator[Place]:
    """Everything runs while the context is open."""
    etcd = EtcdServer(_made(folder / "etcd"))
    nats = NatsServer(_made(folder / "nats"))
    postgres = PostgresServer(_made(folder / "postgres"))
    async with AsyncExitStack() as stack:
        for server in (etcd, nats, postgres):
            await asyncio.to_thread(server.start)
            stack.callback(server.stop)
        url = postgres.database()
        store = SqlStore.open(url)
        stack.push_async_callback(store.close)
        await store.migrate()
        coordinator = EtcdCoordinator.open(etcd.endpoint)
        stack.push_async_callback(coordinator.close)
        bus = await NatsBus.open(nats.url, name="bench")
        stack.push_async_callback(bus.close)
        namespace = "bench"
        pool = PoolSpec().model_dump_json(by_alias=True).encode()
        await coordinator.put(pool_setting(namespace, "general"), pool)
        settings = {
            "SEEDBED_NATS_URL": nats.url,
            "SEEDBED_ETCD_ENDPOINT": etcd.endpoint,
            "SEEDBED_DATABASE_URL": url,
            "SEEDBED_GATEWAY_URL": "http://127.0.0.1:9",
            "SEEDBED_NAMESPACE": namespace,
            "SEEDBED_POOL": "general",
            "SEEDBED_WORKERS": "16",
            "SEEDBED_LEASE_SECONDS": str(LEASE),
        }
        place = Place(folder, store, bus, coordinator, settings, namespace)
        try:
            for name in ENGINES:
                await place.start("engine", name)
            await place.start("worker", "worker")
            yield place
        finally:
            for name in place.processes:
                await place.kill(name)


async def disturbed(place: Place, steps: int, wait: float, kills: int, limit: float) -> Any:
    """A run whose owner is killed; returns its id and how long each resumption took."""
    chosen = random.Random(7)
    points = sorted(chosen.sample(range(1, steps - WIDTH), kills))
    end = time.monotonic() + limit
    run = await place.submit(steps, wait)
    resumed: list[tuple[float, float, float]] = []
    for point in points:
        await until(partial(_beyond, place, run, point), 0.005)
        await until(partial(_ready, place))
        if (await place.progress(run))[1]:
            break
        owner, token = await place.owner(run)
        began = time.monotonic()
        await place.kill(owner)
        before = await place.length(run)
        await place.start("engine", owner)
        await until(partial(_taken, place, run, token), 0.01)
        taken = time.monotonic() - began
        await until(partial(_answers, place, run), 0.01)
        answered = time.monotonic() - began
        await until(partial(_longer, place, run, before), 0.01)
        resumed.append((taken, answered, time.monotonic() - began))
        print(
            f"killed {owner} at {point} of {steps} steps: taken over after {taken:.2f} s, "
            f"resumed after {answered:.2f} s, next entry after {resumed[-1][2]:.2f} s",
            flush=True,
        )
        if time.monotonic() > end:
            break
    await until(partial(_over, place, run))
    return run, resumed


async def _beyond(place: Place, run: str, point: int) -> bool:
    return (await place.progress(run))[0] >= point


async def _ready(place: Place) -> bool:
    """Whether engines are there to take over; one of them may still be starting again."""
    return len(await discover(place.coordinator, "engine")) >= len(ENGINES) - 1


async def _taken(place: Place, run: str, before: int) -> bool:
    return (await place.owner(run))[1] > before


async def _answers(place: Place, run: str) -> bool:
    """Whether the new owner has the run again: it answers once its journal is read."""
    try:
        address = engine_address(partition_of(run))
        await place.bus.request(address, encode(Summarise(run)), wait=1.0)
    except UnavailableError:
        return False
    return True


async def _longer(place: Place, run: str, before: int) -> bool:
    return await place.length(run) > before


async def _over(place: Place, run: str) -> bool:
    return (await place.progress(run))[1]


async def measure(
    folder: Path, steps: int, kills: int, limit: float, wait: float
) -> dict[str, Any]:
    """The figures."""
    async with opened(folder) as place:
        quiet = await place.submit(steps, 0.0)
        await until(partial(_over, place, quiet))
        run, resumed = await disturbed(place, steps, wait, kills, limit)
        _, expected = await place.outcome(quiet)
        succeeded, found = await place.outcome(run)
    since_signal = sorted(answered for _, answered, _ in resumed)
    since_takeover = sorted(answered - taken for taken, answered, _ in resumed)
    return {
        "kills": len(resumed),
        "signal_to_resumed_s": _spread(since_signal),
        "takeover_to_resumed_s": _spread(since_takeover),
        "signal_to_next_entry_s": _spread(sorted(entry for _, _, entry in resumed)),
        "resumed_within_5_s_of_the_signal": sum(one <= LIMIT for one in since_signal),
        "resumed_within_5_s_of_the_takeover": sum(one <= LIMIT for one in since_takeover),
        "steps_completed_once": sum(count == 1 for count in succeeded.values()),
        "steps_completed_more_than_once": sum(count > 1 for count in succeeded.values()),
        "equal_to_undisturbed": found == expected and expected[0] == "Succeeded",
    }


def _spread(found: list[float]) -> dict[str, float]:
    at95 = found[max(0, int(len(found) * 0.95) - 1)]
    figures = {"median": statistics.median(found), "p95": at95, "max": found[-1]}
    return {name: round(value, 2) for name, value in figures.items()}


def main() -> None:
    """Print the figures; the last line is JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seconds", type=float, default=1500.0, help="after which no more kills")
    parser.add_argument("--wait", type=float, default=1.0, help="seconds that a step takes")
    given = parser.parse_args()
    load = round(os.getloadavg()[0], 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # the database's user has to get through
        wanted = (given.steps, given.kills, given.seconds, given.wait)
        found = asyncio.run(measure(folder, *wanted))
    conditions = {
        "bench": "kill",
        "steps": given.steps,
        "step_s": given.wait,
        "layout": "4 engines, 1 worker process of 16, PostgreSQL, NATS, etcd",
        "lease_s": LEASE,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": load,
    }
    print(json.dumps({**conditions, **found}))


if __name__ == "__main__":
    main()
