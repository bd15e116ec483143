"""The workers of one process: independent of each other, and started again when they crash.

One that ends before it should is followed by another after a growing wait; the others go on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress

from seedbed.crds.errors import SeedbedError
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.worker.worker import CONCURRENCY, Worker

LONGEST_RESTART = 30.0

log = logging.getLogger(__name__)


async def serve_workers(
    *,
    bus: Bus,
    coordinator: Coordinator,
    gateway_url: str,
    namespace: str,
    pool: str,
    count: int = 4,
    concurrency: int = CONCURRENCY,
    adapter: str = "python",
    drain: float = 30.0,
    node: str = "",
    stopping: asyncio.Event | None = None,
) -> None:
    """Run `count` workers of `concurrency` lanes each until `stopping` is set or the task is cancelled.

    When stopping, the steps under way may go on for `drain` seconds; then they are given back.
    """
    stop = stopping or asyncio.Event()

    def make() -> Worker:
        return Worker(
            bus=bus,
            coordinator=coordinator,
            gateway_url=gateway_url,
            namespace=namespace,
            pool=pool,
            adapter=adapter,
            stopping=stop,
            node=node,
            concurrency=concurrency,
        )

    make()  # an unknown adapter is one clear error at once
    async with asyncio.TaskGroup() as tasks:
        workers = [tasks.create_task(_always(make, stop)) for _ in range(count)]
        await stop.wait()
        if workers:
            await asyncio.wait(workers, timeout=drain)
        for worker in workers:
            worker.cancel()


async def _always(make: Callable[[], Worker], stop: asyncio.Event) -> None:
    """Run a worker, and another one when it ends before it should."""
    wait = 0.1
    while not stop.is_set():
        began = time.monotonic()
        worker = make()
        try:
            await worker.run()
        except SeedbedError as error:
            log.warning("%s ended: %s", worker.worker_id, error)
        except Exception:
            log.exception("%s crashed", worker.worker_id)
        if stop.is_set():
            return
        wait = 0.1 if time.monotonic() - began > LONGEST_RESTART else min(LONGEST_RESTART, wait * 2)
        with suppress(TimeoutError):
            async with asyncio.timeout(wait):
                await stop.wait()
