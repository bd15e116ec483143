"""How many Workflows a minute go through the API server, and at which rate it stops.

    python hack/bench/sustained.py [--name dev] [--rate 1000] [--minutes 5]

One-step Workflows are applied evenly at the rate, as a user's tool would, and a watch tells when each
one has succeeded. After that the rate grows by a half every 40 seconds until less than 97 % of a
stage's Workflows have succeeded 5 seconds after the stage. Everything, the load as well, runs on this
machine. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hack.bench import node
from hack.cluster import binaries

NAMESPACE = "bench-sustained"
NOOP = {"steps": [{"name": "noop", "call": {"entry": "builtins:dict"}}]}
AT_ONCE = 64
STAGE_SECONDS = 40.0
GRACE = 5.0
ENOUGH = 0.97
GROWTH = 1.5


class Load:
    """Applies Workflows and hears when they succeed."""

    def __init__(self, on: node.Stage) -> None:
        self._on = on
        self._begun: dict[str, float] = {}
        self.taken: dict[str, float] = {}
        self.refused = 0
        self.watches = 1

    async def hear(self, env: dict[str, str]) -> None:
        """Take in who has succeeded, for ever; a watch that ends is begun again with what there is."""
        command = [
            *(str(binaries.path("kubectl")), "get", "workflows", "-n", NAMESPACE),
            *("--watch", "--output-watch-events"),
            *("-o", "jsonpath={.object.metadata.name} {.object.status.phase}{'\\n'}"),
        ]
        while True:
            watching = await asyncio.create_subprocess_exec(
                *command, stdout=asyncio.subprocess.PIPE, env=env
            )
            assert watching.stdout is not None
            try:
                while line := await watching.stdout.readline():
                    self._take(line.decode())
            finally:
                if watching.returncode is None:
                    watching.terminate()
                await watching.wait()
            self.watches += 1

    def _take(self, line: str) -> None:
        name, _, phase = line.strip().partition(" ")
        if phase == "Succeeded" and name in self._begun:
            self.taken.setdefault(name, time.perf_counter() - self._begun[name])

    async def apply(self, prefix: str, per_minute: float, seconds: float) -> list[str]:
        """Apply evenly; the names, also of those that could not be applied in time."""
        count = int(per_minute * seconds / 60)
        began = time.perf_counter()
        gate = asyncio.Semaphore(AT_ONCE)
        names = [f"{prefix}-{number}" for number in range(count)]
        async with asyncio.TaskGroup() as tasks:
            for number, name in enumerate(names):
                wait = began + number * 60 / per_minute - time.perf_counter()
                if wait > 0:
                    await asyncio.sleep(wait)
                await gate.acquire()
                tasks.create_task(self._one(name, gate))
        return names

    async def _one(self, name: str, gate: asyncio.Semaphore) -> None:
        self._begun[name] = time.perf_counter()
        try:
            await self._on.apply("Workflow", name, NOOP)
        except Exception as error:  # noqa: BLE001 - a refused one is counted, the load goes on
            self.refused += 1
            print(f"{name}: {error}", file=sys.stderr)
        finally:
            gate.release()


@asynccontextmanager
async def listening(env: dict[str, str]) -> AsyncIterator[Load]:
    """A load in its namespace, with the watch open."""
    async with node.stage(NAMESPACE, {"replicas": 1, "workersPerReplica": 8}) as on:
        load = Load(on)
        hearing = asyncio.create_task(load.hear(env))
        try:
            yield load
        finally:
            hearing.cancel()
            await asyncio.wait({hearing})


async def played(load: Load, per_minute: float, seconds: float) -> dict[str, Any]:
    """One stage: its rate, the share that succeeded in time, and latencies of those."""
    prefix = f"w{uuid.uuid4().hex[:6]}"
    began = time.perf_counter()
    names = await load.apply(prefix, per_minute, seconds)
    applied = time.perf_counter() - began
    await asyncio.sleep(GRACE)
    taken = [load.taken[name] * 1000 for name in names if name in load.taken]
    cuts = statistics.quantiles(taken, n=100) if len(taken) > 1 else [0.0] * 99
    stage = {
        "per_minute": round(per_minute),
        "applied_per_minute": round(len(names) / applied * 60),
        "succeeded_share": round(len(taken) / len(names), 4),
        "p50_ms": round(cuts[49], 1),
        "p95_ms": round(cuts[94], 1),
        "p99_ms": round(cuts[98], 1),
    }
    print(json.dumps(stage), flush=True)
    return stage


def sustained(stage: dict[str, Any]) -> bool:
    """Whether the stage kept up: what was to be applied was, and has succeeded."""
    on_time = float(stage["applied_per_minute"]) >= ENOUGH * float(stage["per_minute"])
    return on_time and float(stage["succeeded_share"]) >= ENOUGH


async def run(env: dict[str, str], rate: float, minutes: float) -> dict[str, Any]:
    """The sustained rate, then faster and faster."""
    async with listening(env) as load:
        await played(load, 300, 10)
        first = await played(load, rate, minutes * 60)
        stages = [first]
        while sustained(stages[-1]):
            await asyncio.sleep(GRACE)
            stages.append(await played(load, stages[-1]["per_minute"] * GROWTH, STAGE_SECONDS))
        kept = [stage["per_minute"] for stage in stages if sustained(stage)]
        return {
            "sustained": sustained(first),
            **{f"sustained_{key}": value for key, value in first.items()},
            "minutes": minutes,
            "highest_sustained_per_minute": max(kept, default=0),
            "stops_at_per_minute": stages[-1]["per_minute"],
            "refused": load.refused,
            "watches": load.watches,
            "stages": stages,
        }


def main() -> None:
    """Bring the cluster up where it is not, measure, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="dev")
    parser.add_argument("--rate", type=float, default=1000.0)
    parser.add_argument("--minutes", type=float, default=5.0)
    options = parser.parse_args()
    env = node.installed(options.name)
    figures = asyncio.run(run(env, options.rate, options.minutes))
    print(json.dumps({**figures, "conditions": node.conditions()}))


if __name__ == "__main__":
    main()
