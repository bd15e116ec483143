"""Events through a real nats-server: rate and order over a minute, and critical ones under a flood.

    python hack/bench/events.py [--seconds 60] [--rate 30000] [--runs 1000]

It needs about one core of its own. On a machine that does other work, `echo -20 > /proc/self/autogroup`
in its session gives it that; the conditions say so.

First a process puts `rate` events a second, of 1,000 runs and normal priority, and another follows all 16
partitions, checks that each run's events come complete and in order, and tells how old they are. Then a
process floods the log with low priority as fast as it can, so that its buffer sheds, while critical
events are put and followed 50 times a second; the same without the flood stands beside it.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from prometheus_client import REGISTRY

from seedbed.crds.addresses import partition_of
from seedbed.runtime.bus.events import NEW, Event, EventSettings
from seedbed.runtime.bus.nats import NatsBus
from tests.servers import NatsServer

PAYLOAD = json.dumps(
    {"name": "fetch[12]", "state": "Succeeded", "attempt": 1, "worker": "worker_0123456789ABCDEF",
     "started": 1795244339.433335, "finished": 1795244339.4503691, "output": {"status": "ok"}}
).encode()  # fmt: skip
TICK = 0.01
PROBES = 50
EDGE = 10


@asynccontextmanager
async def opened(url: str, settings: EventSettings | None = None) -> AsyncIterator[NatsBus]:
    """A connection of its own."""
    bus = await NatsBus.open(url, events=settings)
    try:
        yield bus
    finally:
        await bus.close()


async def produce(url: str, runs: int, rate: int, seconds: float) -> dict[str, Any]:
    """Put events at a rate; returns how many there were."""
    names = [f"run-{uuid.uuid4().hex}" for _ in range(runs)]
    counts = [0] * runs
    done, began = 0, time.perf_counter()
    async with opened(url, EventSettings(overflow="Wait", patience=60.0)) as bus:
        while (elapsed := time.perf_counter() - began) < seconds:
            due = int(elapsed * rate)
            while done < due:
                which = done % runs
                counts[which] += 1
                payload = b"%d " % counts[which] + PAYLOAD
                await bus.events.emit(Event(names[which], "step", time.time(), payload))
                done += 1
            await asyncio.sleep(TICK)
        await bus.events.flush(30.0)
        took = time.perf_counter() - began
    return {"put": done, "seconds": took, "cpu": time.process_time()}


async def consume(url: str, idle: float) -> dict[str, Any]:
    """Follow everything until nothing has come for `idle` seconds."""
    newest: dict[str, int] = defaultdict(int)
    wrong, last_age = 0, 0.0
    ages: dict[int, list[float]] = defaultdict(list)
    first = last = time.time()
    ready = 0

    async def follow(bus: NatsBus, partition: int) -> None:
        nonlocal wrong, last_age, last, first, ready
        async with bus.events.follow("", partition, ("normal",), start=NEW) as follower:
            ready += 1
            if ready == 16:
                print("ready", flush=True)
            while (delivered := await follower.next(idle)) is not None:
                last = time.time()
                if not newest:
                    first = last
                for event in delivered.events:
                    number = int(event.payload.split(b" ", 1)[0])
                    wrong += number != newest[event.key] + 1
                    newest[event.key] = number
                last_age = last - delivered.events[-1].at
                ages[int(last - first)].append(last - delivered.events[0].at)
                await follower.ack(delivered)

    async with opened(url) as bus, asyncio.TaskGroup() as tasks:
        for partition in range(16):
            tasks.create_task(follow(bus, partition))
    by_second = [statistics.mean(ages[second]) * 1000 for second in sorted(ages)]
    edge = max(1, min(EDGE, len(by_second) // 3))
    return {
        "handled": sum(newest.values()),
        "out_of_order": wrong,
        "seconds": last - first,
        "lag_end_ms": round(last_age * 1000, 1),
        "lag_first_ms": round(statistics.mean(by_second[:edge]), 1),
        "lag_last_ms": round(statistics.mean(by_second[-edge - 1 : -1] or by_second), 1),
        "cpu": time.process_time(),
    }


async def flood(url: str, seconds: float) -> dict[str, Any]:
    """Put events of low priority as fast as this process can."""
    names = [f"noise-{uuid.uuid4().hex}" for _ in range(1000)]
    put, end = 0, time.perf_counter() + seconds
    async with opened(url) as bus:
        while time.perf_counter() < end:
            now = time.time()
            for _ in range(500):
                bus.events.put(Event(names[put % 1000], "noise", now, PAYLOAD, "low"))
                put += 1
            await asyncio.sleep(0)
    shed = REGISTRY.get_sample_value("seedbed_events_shed_total") or 0.0
    return {"put": put, "shed": int(shed)}


async def probe(url: str, seconds: float) -> list[float]:
    """Milliseconds from putting to following critical events, one by one."""
    key = f"probe-{uuid.uuid4().hex}"
    taken = []
    async with (
        opened(url) as bus,
        opened(url) as other,
        other.events.follow("", partition_of(key), ("critical",), start=NEW) as follower,
    ):
        for number in range(int(seconds * PROBES)):
            began = time.perf_counter()
            bus.events.put(Event(key, "probe", time.time(), b"%d" % number, "critical"))
            delivered = await follower.next(10.0)
            assert delivered is not None
            taken.append((time.perf_counter() - began) * 1000)
            await follower.ack(delivered)
            await asyncio.sleep(max(0.0, 1 / PROBES - taken[-1] / 1000))
    return taken


def percentile(values: list[float], which: int) -> float:
    """A percentile in the values' unit."""
    return round(statistics.quantiles(values, n=100)[which - 1], 2)


async def role(*arguments: str) -> asyncio.subprocess.Process:
    """Another process of this file."""
    return await asyncio.create_subprocess_exec(
        sys.executable, __file__, *arguments, stdout=asyncio.subprocess.PIPE
    )


async def told(process: asyncio.subprocess.Process) -> dict[str, Any]:
    """What a process told in its last line."""
    assert process.stdout is not None
    lines = (await process.stdout.read()).decode().splitlines()
    if await process.wait() != 0:
        raise RuntimeError(f"a process of the benchmark failed: {lines}")
    found: dict[str, Any] = json.loads(lines[-1])
    return found


async def measure(url: str, options: argparse.Namespace) -> dict[str, Any]:
    """All figures."""
    idle = await probe(url, options.probe_seconds)
    print(f"critical, idle: p50 {percentile(idle, 50)} ms, p99 {percentile(idle, 99)} ms")
    consumer = await role("--role", "consume", "--url", url)
    assert consumer.stdout is not None
    await consumer.stdout.readline()
    numbers = ["--rate", str(options.rate), "--seconds", str(options.seconds)]
    producer = await role("--role", "produce", "--url", url, "--runs", str(options.runs), *numbers)
    put, got = await told(producer), await told(consumer)
    print(f"put {put}")
    print(f"got {got}")
    flooding = await role(
        "--role", "flood", "--url", url, "--seconds", str(options.probe_seconds + 6)
    )
    await asyncio.sleep(3.0)
    flooded = await probe(url, options.probe_seconds)
    shed = await told(flooding)
    print(f"flood {shed}: p50 {percentile(flooded, 50)} ms, p99 {percentile(flooded, 99)} ms")
    assert got["handled"] == put["put"], "events are missing"
    assert got["out_of_order"] == 0, "a run's events are out of order"
    return {
        "events_per_second": round(got["handled"] / got["seconds"]),
        "seconds": round(got["seconds"], 1),
        "events": got["handled"],
        "out_of_order": got["out_of_order"],
        "lag_first_ms": got["lag_first_ms"],
        "lag_last_ms": got["lag_last_ms"],
        "lag_end_ms": got["lag_end_ms"],
        "producer_cpu_us_per_event": round(put["cpu"] / put["put"] * 1e6, 1),
        "consumer_cpu_us_per_event": round(got["cpu"] / got["handled"] * 1e6, 1),
        "critical_idle_p50_ms": percentile(idle, 50),
        "critical_idle_p99_ms": percentile(idle, 99),
        "critical_p50_ms": percentile(flooded, 50),
        "critical_p99_ms": percentile(flooded, 99),
        "low_put": shed["put"],
        "low_shed": shed["shed"],
    }


def scheduling() -> str:
    """What share of a busy machine these processes have, where the kernel tells."""
    group = Path("/proc/self/autogroup")
    told = group.read_text().split(maxsplit=1)[1].strip() if group.exists() else ""
    return f"own nice {os.nice(0)}, session {told}".strip()


def main() -> None:
    """Start the server, measure, print the figures; or play one role."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--probe-seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=int, default=30_000)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--role", choices=("produce", "consume", "flood"))
    parser.add_argument("--url", default="")
    options = parser.parse_args()
    match options.role:
        case "produce":
            work = produce(options.url, options.runs, options.rate, options.seconds)
            print(json.dumps(asyncio.run(work)))
        case "consume":
            print(json.dumps(asyncio.run(consume(options.url, 10.0))))
        case "flood":
            print(json.dumps(asyncio.run(flood(options.url, options.seconds))))
        case _:
            everything(options)


def everything(options: argparse.Namespace) -> None:
    """Measure on a server of its own and print the figures."""
    with tempfile.TemporaryDirectory() as folder:
        server = NatsServer(Path(folder))
        server.start()
        try:
            figures = asyncio.run(measure(server.url, options))
        finally:
            server.stop()
    conditions = {
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "server": "one nats-server, JetStream on file, all processes on this machine",
        "rate": options.rate,
        "runs": options.runs,
        "payload_bytes": len(PAYLOAD),
        "scheduling": scheduling(),
        "load": [round(each, 2) for each in os.getloadavg()],
    }
    print(json.dumps({**figures, "conditions": conditions}))


if __name__ == "__main__":
    main()
