"""An engine with workers in one process, on SQLite: enough for what runs do to each other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from seedbed.crds.addresses import engine_address, partition_of, pool_setting, template_setting
from seedbed.crds.engine_requests import Summarise
from seedbed.crds.errors import UnavailableError
from seedbed.crds.messages import RunSummary
from seedbed.crds.pool import PoolSpec
from seedbed.crds.wire import decode, encode
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.store.plans import SqlPlans
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.worker.serving import serve_workers
from seedbed.runtime.worker.worker import CONCURRENCY
from seedbed.runtime.workflow.engine import Engine

NAMESPACE = "team"
ENDED = ("Succeeded", "Failed")


@asynccontextmanager
async def a_store(folder: Path) -> AsyncIterator[SqlStore]:
    store = SqlStore.open(f"sqlite:///{folder / 'runs.db'}")
    await store.migrate()
    yield store
    await store.close()


@asynccontextmanager
async def serving(
    store: SqlStore,
    start: int = 0,
    templates: dict[str, dict[str, Any]] | None = None,
    engines: int = 1,
    others: Iterator[float] | None = None,
    pool: PoolSpec | None = None,
    concurrency: int = CONCURRENCY,
) -> AsyncIterator[MemoryBus]:
    """Engines with four workers, until they are killed: nothing is finished or handed over.

    Args:
        store: what outlives it.
        start: counts the engines on a store, as each has larger fencing tokens than those before.
        templates: specs of Workflows, by name.
        engines: how many stay.
        others: for how many seconds each of those is there that come and go, one after the other.
        pool: settings of the one Pool.
        concurrency: steps that each worker executes side by side.
    """
    bus, coordinator = MemoryBus(), MemoryCoordinator(after=start << 32)
    setting = (pool or PoolSpec()).model_dump_json(by_alias=True).encode()
    await coordinator.put(pool_setting(NAMESPACE, "general"), setting)
    for name, fields in (templates or {}).items():
        spec = WorkflowSpec.model_validate({**fields, "template": True})
        plan = spec.model_dump_json(by_alias=True).encode()
        await coordinator.put(template_setting(NAMESPACE, name), plan)
    workers = serve_workers(
        bus=bus,
        coordinator=coordinator,
        gateway_url="",
        namespace=NAMESPACE,
        pool="general",
        count=4,
        concurrency=concurrency,
        drain=0.0,
        stopping=asyncio.Event(),
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(bus.close)
        await stack.enter_async_context(killed_in_the_end(workers))
        for number in range(engines):
            await stack.enter_async_context(an_engine(store, bus, coordinator, f"engine-{number}"))
        if others is not None:
            await stack.enter_async_context(
                killed_in_the_end(_come_and_go(store, bus, coordinator, others))
            )
        yield bus


def an_engine(
    store: SqlStore, bus: MemoryBus, coordinator: MemoryCoordinator, holder: str
) -> AbstractAsyncContextManager[None]:
    plans = SqlPlans(store)
    engine = Engine(
        store=store, bus=bus, coordinator=coordinator, holder=holder, plans=plans, lease_ttl=1.0
    )
    return killed_in_the_end(engine.run())


async def _come_and_go(
    store: SqlStore, bus: MemoryBus, coordinator: MemoryCoordinator, waits: Iterator[float]
) -> None:
    """Engines one after the other, each killed after a while; partitions move with each."""
    for number, wait in enumerate(waits):
        async with an_engine(store, bus, coordinator, f"passing-{number}"):
            await asyncio.sleep(wait)


@asynccontextmanager
async def killed_in_the_end(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def ask(bus: Bus, run: str, message: Any) -> RunSummary:
    """Ask the owner of the run's partition, for as long as there is none."""
    address = engine_address(partition_of(run))
    while True:
        try:
            return decode(RunSummary, await bus.request(address, encode(message), wait=30.0))
        except UnavailableError as error:
            if error.code != UnavailableError.code:
                raise
            await asyncio.sleep(0.02)


async def until(
    bus: Bus, run: str, holds: Callable[[RunSummary], bool] = lambda _: False
) -> RunSummary:
    """The run's summary once it holds, or the run has ended."""
    while True:
        found = await ask(bus, run, Summarise(run))
        if holds(found) or found.phase in ENDED:
            return found
        await asyncio.sleep(0.02)
