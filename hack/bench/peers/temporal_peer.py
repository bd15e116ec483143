"""Temporal as a peer: activities of one workflow on its server for development, on a SQLite file.

The server is built from its Go modules. A fan-out stays below the limit of a history by starting
child workflows of 500 activities each.
"""

import argparse
import asyncio
import json
import resource
import socket
import statistics
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from importlib.metadata import version
from itertools import pairwise

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.worker import Worker

QUEUE = "bench"
WAVE = 500
LIMIT = timedelta(seconds=60)


@activity.defn
async def noop(number: int) -> int:
    return number


@workflow.defn
class Wave:
    @workflow.run
    async def run(self, count: int) -> int:
        started = (
            workflow.execute_activity(noop, number, start_to_close_timeout=LIMIT)
            for number in range(count)
        )
        return len(await asyncio.gather(*started))


@workflow.defn
class Fan:
    @workflow.run
    async def run(self, count: int) -> int:
        sizes = [min(WAVE, count - start) for start in range(0, count, WAVE)]
        waves = (
            workflow.execute_child_workflow(Wave.run, size, id=f"{workflow.info().run_id}-{at}")
            for at, size in enumerate(sizes)
        )
        return sum(await asyncio.gather(*waves))


@workflow.defn
class Chain:
    @workflow.run
    async def run(self, count: int) -> list[float]:
        times = [workflow.time()]
        for number in range(count):
            await workflow.execute_activity(noop, number, start_to_close_timeout=LIMIT)
            times.append(workflow.time())
        return times


async def connected(address: str) -> Client:
    end = time.monotonic() + 60
    while True:
        try:
            return await Client.connect(address)
        except RuntimeError:
            if time.monotonic() > end:
                raise
            await asyncio.sleep(0.2)


async def measure(address: str, steps: int, chained: int) -> dict[str, object]:
    client = await connected(address)
    options = {"task_queue": QUEUE, "workflows": [Fan, Wave, Chain], "activities": [noop]}
    async with Worker(client, **options, activity_executor=ThreadPoolExecutor(4)):
        await client.execute_workflow(Fan.run, 20, id="warm", task_queue=QUEUE)
        began = time.perf_counter()
        assert await client.execute_workflow(Fan.run, steps, id="fan", task_queue=QUEUE) == steps
        seconds = time.perf_counter() - began
        times = await client.execute_workflow(Chain.run, chained, id="chain", task_queue=QUEUE)
    taken = sorted(after - before for before, after in pairwise(times))
    return {
        "version": f"server 1.32.0, SDK {version('temporalio')}",
        "settings": f"SQLite file, WAL, synchronous=FULL, poll limits raised, waves of {WAVE}",
        "steps": steps,
        "steps_per_second": round(steps / seconds, 1),
        "chain_p50_ms": round(statistics.median(taken) * 1000, 3),
        "chain_p99_ms": round(taken[int(len(taken) * 0.99)] * 1000, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--chain", type=int, required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--server", required=True)
    options = parser.parse_args()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [options.server, f"{options.folder}/temporal.sqlite", str(port)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        figures = asyncio.run(measure(f"127.0.0.1:{port}", options.steps, options.chain))
    finally:
        running.terminate()
        running.wait(30)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures["server_cpu_s"] = round(used.ru_utime + used.ru_stime, 1)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
