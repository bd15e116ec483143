"""How fast the workflow engine is: durable no-op steps, fanned out and chained.

    python hack/bench/workflow.py [--parts embedded,cluster,memory,peers] [--repeat 3]

embedded   engine, workers and bus in one process, the journal on SQLite: WAL, synchronous=FULL
cluster    PostgreSQL, nats-server and etcd as real servers, one engine process, 4 worker processes
memory     resident memory of the engine process with one run of 100,000 steps, and 1,000 of 100
peers      DBOS, LangGraph, Temporal, Prefect and Dask on the same work, where they can be had

`floor_chain_p50_ms` is the least that a chained step can take on this disk, see `floor`.
Every step is journalled twice (scheduled, succeeded) and each of the two is on disk before it has an
effect. The step is an `async def` that does nothing; the plain `def`, which gets a thread a call, is
reported beside it. Each part runs in a process of its own; the last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hack.bench import floor, loads, serving
from hack.bench.loads import Client, chain_steps, percentiles
from hack.bench.peers import workflows
from seedbed.cli.loops import fast_loop
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.worker.serving import serve_workers
from seedbed.runtime.workflow.engine import Engine

FAN = 10_000
CHAIN = 1_000
CONCURRENCY = 64

Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Place:
    """An embedded installation."""

    store: SqlStore
    client: Client
    file: Path


@asynccontextmanager
async def embedded(folder: Path, workers: int = 4, **options: Any) -> AsyncIterator[Place]:
    """Engine and workers in this process."""
    file = folder / "runs.db"
    store = SqlStore.open(f"sqlite:///{file}")
    await store.migrate()
    bus, coordinator = MemoryBus(), MemoryCoordinator()
    await loads.put_pool(coordinator)
    engine = Engine(store=store, bus=bus, coordinator=coordinator, holder="bench")
    working = serve_workers(
        bus=bus,
        coordinator=coordinator,
        gateway_url="",
        namespace=loads.NAMESPACE,
        pool="general",
        count=workers,
        **{"concurrency": CONCURRENCY, **options},
    )
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(engine.run()), group.create_task(working)]
            async with Client.open(bus) as client:
                await client.play(loads.each(100))
                yield Place(store, client, file)
            for task in tasks:
                task.cancel()
    finally:
        await store.close()


def written(file: Path) -> int:
    """Bytes of the database and its write-ahead log."""
    return sum(
        part.stat().st_size for part in (file, file.with_name(f"{file.name}-wal")) if part.exists()
    )


async def measured(repeat: int, play: Callable[[], Awaitable[float]]) -> tuple[float, float, float]:
    """Best and median seconds of some repetitions, and CPU seconds of the best one."""
    taken = []
    for _ in range(repeat):
        cpu = time.process_time()
        seconds = await play()
        taken.append((seconds, time.process_time() - cpu))
    return *min(taken), statistics.median(seconds for seconds, _ in taken)


async def embedded_figures(repeat: int) -> Figures:
    """Steps in one process."""
    with tempfile.TemporaryDirectory() as name:
        async with embedded(Path(name)) as place:
            play = place.client.play
            before = written(place.file)
            best, cpu, median = await measured(repeat, lambda: play(loads.each(FAN)))
            grown = written(place.file) - before
            declared, *_ = await measured(repeat, lambda: play(loads.declared(FAN)))
            plain, *_ = await measured(1, lambda: play(loads.each(FAN, loads.PLAIN)))
            steps: list[float] = []
            least: list[float] = []
            for _ in range(repeat):
                request = loads.chain(CHAIN)
                await play(request)
                steps += await chain_steps(place.store, request.run)
                least += await floor.chain(CHAIN)
            small = [loads.each(1) for _ in range(2000)]
            many, *_ = await measured(1, lambda: play(*small))
    p50, p99 = percentiles(steps)
    return {
        "embedded_steps_per_second": round(FAN / best),
        "embedded_steps_per_second_median": round(FAN / median),
        "embedded_cpu_ms_per_step": round(cpu / FAN * 1000, 4),
        "embedded_bytes_per_step": round(grown / FAN / repeat),
        "embedded_declared_steps_per_second": round(FAN / declared),
        "embedded_plain_def_steps_per_second": round(FAN / plain),
        "chain_p50_ms": p50,
        "chain_p99_ms": p99,
        "floor_chain_p50_ms": round(statistics.median(least) * 1000, 3),
        "embedded_one_step_runs_per_second": round(len(small) / many),
    }


async def cluster_figures(repeat: int) -> Figures:
    """Steps through real servers and processes."""
    async with serving.cluster() as place:
        best, used = float("inf"), {}
        for _ in range(repeat):
            before = place.cpu()
            taken = await place.client.play(loads.each(FAN))
            if taken < best:
                best, used = taken, {kind: cpu - before[kind] for kind, cpu in place.cpu().items()}
        request = loads.chain(CHAIN // 5)
        await place.client.play(request)
        p50, p99 = percentiles(await chain_steps(place.store, request.run))
    return {
        "cluster_steps_per_second": round(FAN / best),
        "cluster_cpu_ms_per_step": {kind: round(cpu / FAN * 1000, 4) for kind, cpu in used.items()},
        "cluster_chain_p50_ms": p50,
        "cluster_chain_p99_ms": p99,
    }


async def memory_figures(_: int) -> Figures:
    """Resident memory of the engine process while large runs are live, above what it has without."""
    figures: Figures = {}
    for name, runs in (
        ("engine_rss_100k_mib", [loads.each(100_000)]),
        ("engine_rss_1000x100_mib", [loads.each(100) for _ in range(1000)]),
    ):
        async with serving.cluster() as place:
            idle = most = serving.rss(place.engine)
            playing = asyncio.create_task(place.client.play(*runs))
            while not playing.done():
                most = max(most, serving.rss(place.engine))
                await asyncio.wait({playing}, timeout=0.2)
            figures[name] = round(most)
            figures[f"{name.removesuffix('_mib')}_idle_mib"] = round(idle)
            figures[f"{name.removesuffix('_mib')}_seconds"] = round(playing.result(), 1)
    return figures


PARTS: dict[str, Callable[[int], Coroutine[Any, Any, Figures]]] = {
    "embedded": embedded_figures,
    "cluster": cluster_figures,
    "memory": memory_figures,
}


def part(name: str, repeat: int) -> Figures:
    """Run a part in a process of its own."""
    command = [sys.executable, __file__, "--only", name, "--repeat", str(repeat)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    figures: Figures = json.loads(done.stdout.splitlines()[-1])
    for key, value in figures.items():
        print(f"{key:45} {value}", flush=True)
    return figures


def peers() -> Figures:
    """What others do here in the same run; see `hack.bench.peers.workflows`."""
    found = workflows.measure_all(list(workflows.PEERS), FAN, CHAIN)
    name, rate = workflows.best_durable(found)
    best = {"best_durable_peer": name, "best_durable_peer_steps_per_second": rate}
    return {**best, "peers": found}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default=",".join((*PARTS, "peers")))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", choices=PARTS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        with asyncio.Runner(loop_factory=fast_loop()) as runner:
            print(json.dumps(runner.run(PARTS[options.only](options.repeat))))
        return
    figures: Figures = {}
    load = [round(one, 2) for one in os.getloadavg()]
    for name in options.parts.split(","):
        figures |= peers() if name == "peers" else part(name, options.repeat)
    figures["conditions"] = {
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before_and_after": [load, [round(one, 2) for one in os.getloadavg()]],
        "step": "async def that returns None; two journal records a step",
        "pool": f"4 workers, concurrency {CONCURRENCY}; workflow parallelism 2,000",
        "disk": "a virtual disk may cache writes: the figures are durable as far as fsync is",
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
