"""The plans that the workflow benchmarks run, and how one run is driven and measured through a bus.

A plan goes in as the operator submits it, and its end is heard as the operator hears it: by the run's
summaries. Latencies are read from the journal's records afterwards, so measuring costs the run nothing.
"""

from __future__ import annotations

import asyncio
import itertools
import statistics
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from seedbed.crds.addresses import engine_address, partition_of, pool_setting
from seedbed.crds.engine_requests import Submit
from seedbed.crds.errors import UnavailableError
from seedbed.crds.messages import RunRequest, RunSummary
from seedbed.crds.pool import PoolSpec
from seedbed.crds.run_ids import run_id
from seedbed.crds.wire import decode, encode
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.bus.port import Bus, Message
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.store.port import Store
from seedbed.runtime.workflow.records import StepSucceeded
from seedbed.runtime.workflow.replay import records_of

NAMESPACE = "bench"
NOTHING = "hack.bench.steps:nothing"
PLAIN = "hack.bench.steps:plain"
LIMIT = 300.0
"""Seconds that one run may take."""


def each(count: int, entry: str = NOTHING, parallelism: int = 2000) -> RunRequest:
    """`count` independent steps as the items of one forEach."""
    items = {"name": "each", "forEach": f"lists.range({count})", "call": {"entry": entry}}
    return _request([items], parallelism)


def declared(count: int, parallelism: int = 2000) -> RunRequest:
    """`count` independent steps, each one written in the plan."""
    steps = [{"name": f"s{n}", "call": {"entry": NOTHING}} for n in range(count)]
    return _request(steps, parallelism)


def chain(count: int, entry: str = NOTHING) -> RunRequest:
    """`count` steps that wait for each other."""
    steps: list[dict[str, Any]] = [{"name": "s0", "call": {"entry": entry}}]
    steps += [
        {"name": f"s{n}", "needs": [f"s{n - 1}"], "call": {"entry": entry}} for n in range(1, count)
    ]
    return _request(steps, 100)


def _request(steps: list[dict[str, Any]], parallelism: int) -> RunRequest:
    spec = WorkflowSpec.model_validate(
        {"steps": steps, "parallelism": parallelism, "result": "true"}
    )
    plan = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return RunRequest(run_id(uuid.uuid4().hex, spec), NAMESPACE, "bench", plan)


async def put_pool(coordinator: Coordinator, limit: int = 100_000) -> None:
    """Make the Pool known to the engine."""
    spec = PoolSpec.model_validate({"queueLimit": limit})
    await coordinator.put(
        pool_setting(NAMESPACE, "general"), spec.model_dump_json(by_alias=True).encode()
    )


class Client:
    """Submits runs and waits for their ends."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self._ended: dict[str, asyncio.Future[RunSummary]] = {}

    @classmethod
    @asynccontextmanager
    async def open(cls, bus: Bus) -> AsyncIterator[Client]:
        """A client that hears the ends of runs while the context is open."""
        client = cls(bus)
        async with bus.hear("runs.*") as summaries:
            hearing = asyncio.create_task(client._hear(summaries))
            try:
                yield client
            finally:
                hearing.cancel()
                await asyncio.wait({hearing})

    async def _hear(self, summaries: AsyncIterator[Message]) -> None:
        async for message in summaries:
            if b'"phase":"Running"' in message.payload[:500]:
                continue
            summary = decode(RunSummary, message.payload)
            waiting = self._ended.get(summary.run)
            if waiting is not None and not waiting.done() and summary.finished:
                waiting.set_result(summary)

    async def play(self, *requests: RunRequest, may_fail: bool = False) -> float:
        """Run plans to their ends, all at once; gives the seconds from first submit to last end."""
        loop = asyncio.get_running_loop()
        for request in requests:
            self._ended[request.run] = loop.create_future()
        async with asyncio.timeout(LIMIT):
            began = time.perf_counter()
            await asyncio.gather(*(self._submit(request) for request in requests))
            ends = await asyncio.gather(*(self._ended[each.run] for each in requests))
            taken = time.perf_counter() - began
        for request in requests:
            del self._ended[request.run]
        bad = [end for end in ends if end.phase != "Succeeded"]
        if bad and not may_fail:
            raise RuntimeError(f"a run did not succeed: {bad[0]}")
        return taken

    async def _submit(self, request: RunRequest) -> None:
        message = encode(Submit(request))
        while True:
            try:
                address = engine_address(partition_of(request.run))
                await self._bus.request(address, message, wait=30.0)
            except UnavailableError:
                await asyncio.sleep(0.05)
            else:
                return


async def chain_steps(store: Store, run: str) -> list[float]:
    """Milliseconds from each end of a step in the journal to the next one's, in order."""
    ends = [
        record.at async for _, record in records_of(store, run) if isinstance(record, StepSucceeded)
    ]
    return [(after - before) * 1000 for before, after in itertools.pairwise(ends)]


def percentiles(taken: Sequence[float]) -> tuple[float, float]:
    """P50 and P99."""
    cuts = statistics.quantiles(taken, n=100)
    return round(cuts[49], 3), round(cuts[98], 3)
