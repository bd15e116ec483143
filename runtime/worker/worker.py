"""The worker: pulls a step, executes it, reports its result to the engine, acknowledges.

A worker executes one step at a time. The work item is acknowledged only after the engine has journalled
the result, so a worker that dies loses nothing but time: the item is delivered again. Workers of one
process are independent: one that crashes is started again with a growing wait, the others go on.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, suppress
from typing import Any

from seedbed.crds.errors import (
    InvalidError,
    NotFoundError,
    RetryableError,
    SeedbedError,
    TerminalError,
    UnavailableError,
)
from seedbed.crds.failure import class_of
from seedbed.crds.messages import (
    Report,
    StepError,
    StepResult,
    StepTask,
    decode,
    encode,
    engine_address,
    partition_of,
    work_queue,
)
from seedbed.runtime.bus.port import Bus, Delivery
from seedbed.runtime.coordination.port import Coordinator, Lease
from seedbed.runtime.coordination.registry import Registration, deregister, register
from seedbed.runtime.worker.adapters import Adapter, EntryFailedError, adapter_named

log = logging.getLogger(__name__)

Pull = Callable[[float], Awaitable[Delivery | None]]

PULL_WAIT = 5.0
PULL_AGAIN = 0.2
REDELIVER_AFTER = 30.0
REPORT_WAIT = 5.0
LONGEST_RESTART = 30.0
LEASE_TTL = 10.0


def new_worker_id() -> str:
    """`worker_` and 16 upper-case hexadecimal digits."""
    return f"worker_{secrets.token_hex(8).upper()}"


class Worker:
    """Executes the steps of one Pool, one at a time.

    Attributes:
        worker_id: unique among all live workers.
        health: `healthy` once the adapter has started and the worker is registered.
    """

    def __init__(
        self,
        *,
        bus: Bus,
        coordinator: Coordinator,
        gateway_url: str,
        namespace: str,
        pool: str,
        adapter: str,
        stopping: asyncio.Event,
        node: str = "",
        worker_id: str | None = None,
    ) -> None:
        self.worker_id = worker_id or new_worker_id()
        self.health = "starting"
        self._bus = bus
        self._coordinator = coordinator
        self._gateway_url = gateway_url
        self._namespace = namespace
        self._pool = pool
        self._adapter: Adapter = adapter_named(adapter)
        self._adapter_name = adapter
        self._stopping = stopping
        self._node = node or socket.gethostname()
        self._agents: Any = None

    async def run(self) -> None:
        """Start the adapter, register, and serve until stopped.

        Raises:
            TerminalError: the adapter cannot start.
            ConflictError: a live worker has this id.
            UnavailableError: the lease was lost.
        """
        try:
            await self._adapter.start()
        except SeedbedError:
            self.health = "failed"
            log.exception("%s: adapter %s failed", self.worker_id, self._adapter_name)
            raise
        async with AsyncExitStack() as stack:
            lease = await stack.enter_async_context(self._coordinator.lease(LEASE_TTL))
            registration = await self._register(lease)
            stack.push_async_callback(self._deregister, registration)
            self.health = "healthy"
            log.info("%s: ready for %s/%s", self.worker_id, self._namespace, self._pool)
            queue = work_queue(self._namespace, self._pool)
            pull = await stack.enter_async_context(
                self._bus.pull_work(queue, redeliver_after=REDELIVER_AFTER)
            )
            try:
                await self._serve(pull, lease)
            finally:
                self.health = "stopped"
                if self._agents is not None:
                    await self._agents.__aexit__(None, None, None)
                    self._agents = None

    async def _register(self, lease: Lease) -> Registration:
        metadata = {
            "namespace": self._namespace,
            "pool": self._pool,
            "node": self._node,
            "worker_id": self.worker_id,
            "started_at": int(time.time() * 1000),
            "status": "ready",
        }
        capabilities = ("steps", self._adapter_name)
        return await register(
            self._coordinator, "worker", self.worker_id, capabilities, metadata, lease
        )

    async def _deregister(self, registration: Registration) -> None:
        with suppress(SeedbedError):
            await deregister(self._coordinator, registration)

    async def _serve(self, pull: Pull, lease: Lease) -> None:
        while not self._stopping.is_set():
            if lease.lost.is_set():
                raise UnavailableError(f"{self.worker_id}: the lease was lost")
            try:
                delivery = await self._next(pull)
            except UnavailableError as error:
                log.info("%s: no work can be pulled: %s", self.worker_id, error)
                await asyncio.sleep(PULL_AGAIN)
                continue
            if delivery is not None:
                await self._handle(delivery)

    async def _next(self, pull: Pull) -> Delivery | None:
        """The next item, or None after a while or when the worker is to stop."""
        pulling = asyncio.ensure_future(pull(PULL_WAIT))
        stopping = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait({pulling, stopping}, return_when=asyncio.FIRST_COMPLETED)
            return pulling.result() if pulling.done() else None
        finally:
            stopping.cancel()
            if not pulling.done():
                pulling.cancel()
                with suppress(asyncio.CancelledError):
                    late = await pulling
                    if late is not None:
                        await late.give_back()

    async def _handle(self, delivery: Delivery) -> None:
        try:
            task = decode(StepTask, delivery.payload)
        except InvalidError:
            log.exception("%s: a work item that cannot be read is dropped", self.worker_id)
            await delivery.ack()
            return
        keeping = asyncio.create_task(_keep(delivery))
        try:
            result = await self.execute(task)
            await self._report(result)
            await delivery.ack()
        except asyncio.CancelledError:
            with suppress(SeedbedError):
                await asyncio.shield(delivery.give_back())
            raise
        except UnavailableError as error:
            # The result is journalled; the engine drops it where the item comes a second time.
            log.info("%s: %s cannot be acknowledged: %s", self.worker_id, task.key, error)
        finally:
            keeping.cancel()
            with suppress(asyncio.CancelledError):
                await keeping

    async def execute(self, task: StepTask) -> StepResult:
        """Execute one attempt of a step; every failure is part of the result."""
        started, clock = time.time(), time.monotonic()
        output, error = None, None
        try:
            async with asyncio.timeout(_time_left(task, started)):
                output = await self._run(task)
        except TimeoutError:
            error = StepError("timeout", f"not done within {task.timeout:g} s")
        except SeedbedError as failure:
            error = _step_error(failure)
            log.info("%s: %s of %s failed: %s", self.worker_id, task.key, task.run, failure)
        except Exception as failure:
            # A defect in an agent's library is a failed attempt, not the end of the worker; its
            # text may hold what nobody should read, so it goes to the log alone.
            log.exception("%s: %s of %s met a defect", self.worker_id, task.key, task.run)
            name = type(failure).__name__
            message = f"{name} in the worker, see its log"
            error = StepError("internal", message, category=class_of("internal", name))
        finished = started + (time.monotonic() - clock)
        return StepResult(
            task.run, task.key, task.attempt, self.worker_id, output, error, started, finished
        )

    async def _run(self, task: StepTask) -> Any:
        if task.kind == "call":
            entry = str(task.program["entry"])
            return await self._adapter.call(entry, task.inputs, task.idempotency_key)
        return await self._ask(task.program, task)

    async def _ask(self, program: Mapping[str, Any], task: StepTask) -> Any:
        if self._agents is None:
            # A Pool whose steps ask no Agent never loads the packages that Agents need.
            from seedbed.runtime.agents.host import AgentHost  # noqa: PLC0415

            self._agents = await AgentHost(self._gateway_url).__aenter__()
        return await self._agents.answer(
            program,
            task.inputs,
            timeout=task.timeout,
            traceparent=task.traceparent,
            idempotency_key=task.idempotency_key,
        )

    async def _report(self, result: StepResult) -> None:
        """Tell the engine, for as long as it takes: the result exists only here."""
        address = engine_address(partition_of(result.run))
        message = encode(Report(result))
        wait = 0.05
        while True:
            try:
                await self._bus.request(address, message, wait=REPORT_WAIT)
            except RetryableError as error:
                log.info("%s: the engine does not answer: %s", self.worker_id, error)
                await asyncio.sleep(wait)
                wait = min(2.0, wait * 2)
            except NotFoundError:
                log.info("%s: the run of %s is gone", self.worker_id, result.key)
                return
            else:
                return


def _time_left(task: StepTask, now: float) -> float:
    if task.deadline is None:
        return task.timeout
    return max(0.0, min(task.timeout, task.deadline - now))


def _step_error(failure: SeedbedError) -> StepError:
    kind = failure.kind if isinstance(failure, EntryFailedError) else ""
    category = class_of(failure.code, kind)
    return StepError(failure.code, failure.message, _may_help(failure), category)


def _may_help(error: SeedbedError) -> bool:
    return not isinstance(error, TerminalError)


async def _keep(delivery: Delivery) -> None:
    """Tell the bus that the item is in good hands."""
    while True:
        await asyncio.sleep(REDELIVER_AFTER / 3)
        with suppress(SeedbedError):
            await delivery.working()


async def serve_workers(
    *,
    bus: Bus,
    coordinator: Coordinator,
    gateway_url: str,
    namespace: str,
    pool: str,
    count: int = 4,
    adapter: str = "python",
    drain: float = 30.0,
    node: str = "",
    stopping: asyncio.Event | None = None,
) -> None:
    """Run `count` workers until `stopping` is set or the task is cancelled.

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
