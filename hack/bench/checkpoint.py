"""What a checkpoint of a large run costs: the pause of its turn, what else the loop feels, sizes.

A run of independent steps, each with a small output, stands half done. A full checkpoint is taken, the
run goes on for a while, a delta is taken, and so on. Store: SQLite, synchronous=FULL. The last line is
one JSON object.

    python -m hack.bench.checkpoint [--steps 10000] [--output-bytes 200] [--between 500]
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from seedbed.crds.messages import RunRequest, StepKey, StepResult
from seedbed.crds.pool import PoolSpec
from seedbed.crds.step import EntryCall, Step
from seedbed.runtime.coordination.port import Change
from seedbed.runtime.store.checkpoints import CheckpointRow, SqlCheckpoints
from seedbed.runtime.store.port import Commit, RunRow
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.workflow.checkpoint.content import capture
from seedbed.runtime.workflow.checkpoint.keys import KeyRing
from seedbed.runtime.workflow.checkpoint.vault import Owner, Vault
from seedbed.runtime.workflow.decide import accept, advance
from seedbed.runtime.workflow.plan import RunPlan, plan_of
from seedbed.runtime.workflow.record_form import decode_records
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.world import World

OWNER = Owner(0, 1)
DELTAS = 5
PAUSES = 15


class LargeRun:
    """A run in memory whose steps end when they are told to."""

    def __init__(self, steps: int, output_bytes: int) -> None:
        self._random = random.Random(4)
        self._bytes = output_bytes
        self._left = [f"step-{at:06d}" for at in range(steps)]
        self._random.shuffle(self._left)
        self._world = World()
        limit = PoolSpec().model_copy(update={"queue_limit": steps})
        self._world.change(
            Change("pools/team/general", limit.model_dump_json(by_alias=True).encode())
        )
        request = RunRequest("run-1", "team", "plan", {"parallelism": steps})
        plan = plan_of(request, tuple(_step(at) for at in range(steps)))
        self.state = RunState(request, self._world.hands, plan)
        advance(self.state, 1000.0, self._world)

    def end(self, count: int) -> None:
        """Some steps more succeed."""
        for _ in range(count):
            key = StepKey(self._left.pop())
            text = f"{self._random.getrandbits(4 * self._bytes):x}"
            result = StepResult("run-1", key, 1, "w", {"text": text}, None, 1000.5, 1001.0)
            accept(self.state, result, 1001.0)


def _step(at: int) -> Step:
    call = EntryCall(entry="team.steps:work", args={"n": at})
    return Step(name=f"step-{at:06d}", call=call)


async def measure(steps: int, output_bytes: int, between: int, folder: Path) -> dict[str, Any]:
    """Figures for one run."""
    store = SqlStore.open(f"sqlite:///{folder}/store.db")
    try:
        await store.migrate()
        await store.claim(OWNER.partition, OWNER.token)
        row = RunRow("run-1", OWNER.partition, "team", "plan", b"{}", b"{}", finished=False)
        await store.commit(OWNER.partition, OWNER.token, Commit(runs=[row]))
        vault = Vault(SqlCheckpoints(store), KeyRing.at(folder / "keys"))
        run = LargeRun(steps, output_bytes)
        run.end(steps // 2)
        gc.collect()
        pauses = [_pause(run) for _ in range(PAUSES)]
        rows, lags, took = [], [], []
        for _ in range(1 + DELTAS):
            async with _lag() as lag:
                began = time.perf_counter()
                rows.append(await _keep(vault, run))
                took.append(time.perf_counter() - began)
            lags.append(max(lag))
            run.end(min(between, steps // 20))
        began = time.perf_counter()
        content = await vault.load("run-1", rows[-1].number)
        records = decode_records(content.records)
        read = time.perf_counter() - began
        plan = RunPlan(run.state.spec, run.state.graph)
        restored = RunState(content.request, None, plan)
        for record in records:
            restored.apply(record)
        assert restored.counts["succeeded"] == rows[-1].ended
        return _told(rows, pauses, lags, took, read)
    finally:
        await store.close()


def _pause(run: LargeRun) -> tuple[float, float]:
    """Seconds that a turn stands still: by the clock, and of the processor's time."""
    began, spent = time.perf_counter(), time.thread_time()
    capture(run.state)
    return time.perf_counter() - began, time.thread_time() - spent


async def _keep(vault: Vault, run: LargeRun) -> CheckpointRow:
    captured = capture(run.state)
    return await vault.keep(captured, OWNER, cause="demand", retention=1e6, most=1000)


@asynccontextmanager
async def _lag() -> AsyncIterator[list[float]]:
    """How late the event loop is meanwhile, in seconds."""
    found = [0.0]

    async def tick() -> None:
        while True:
            wanted = time.perf_counter() + 0.001
            await asyncio.sleep(0.001)
            found.append(time.perf_counter() - wanted)

    task = asyncio.create_task(tick())
    try:
        await asyncio.sleep(0)
        yield found
    finally:
        task.cancel()


def _told(
    rows: list[CheckpointRow],
    pauses: list[tuple[float, float]],
    lags: list[float],
    took: list[float],
    read: float,
) -> dict[str, Any]:
    full, deltas = rows[0], rows[1:]
    delta = statistics.median(row.size_bytes for row in deltas)
    return {
        "pause_ms_median": round(statistics.median(wall for wall, _ in pauses) * 1000, 2),
        "pause_ms_max": round(max(wall for wall, _ in pauses) * 1000, 2),
        "pause_cpu_ms_median": round(statistics.median(cpu for _, cpu in pauses) * 1000, 2),
        "loop_lag_ms_max": round(max(lags) * 1000, 2),
        "full_write_ms": round(took[0] * 1000, 1),
        "delta_write_ms_median": round(statistics.median(took[1:]) * 1000, 1),
        "state_bytes": full.content_bytes,
        "full_bytes": full.size_bytes,
        "full_ratio": round(full.compression_ratio, 2),
        "delta_bytes_median": int(delta),
        "delta_of_full": round(delta / full.size_bytes, 4),
        "read_chain_ms": round(read * 1000, 1),
        "chain": len(rows),
    }


def main() -> None:
    """Print the figures; the last line is JSON."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--output-bytes", type=int, default=200)
    parser.add_argument("--between", type=int, default=500)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(measure(given.steps, given.output_bytes, given.between, Path(folder)))
    conditions = {
        "bench": "checkpoint",
        "steps": given.steps,
        "output_bytes": given.output_bytes,
        "steps_between": given.between,
        "store": "sqlite, synchronous=FULL",
        "python": platform.python_version(),
        "cores": os.cpu_count(),
        "load_before": round(os.getloadavg()[0], 1),
    }
    print(f"The turn stands still for {found['pause_ms_median']} ms; the rest is beside it.")
    print(json.dumps({**conditions, **found}))


if __name__ == "__main__":
    main()
