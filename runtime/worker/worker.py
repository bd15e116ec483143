"""The worker: pulls steps, executes them, reports their results to the engine, acknowledges.

A worker executes up to `concurrency` steps side by side, because most steps wait for a model. It pulls
no more items than it can start at once, so that a free worker takes the work of a slow one.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import socket
import time
from collections.abc import Mapping
from contextlib import AsyncExitStack, closing, suppress
from typing import Any

from seedbed.crds.addresses import PARTITIONS, work_queue, worker_address
from seedbed.crds.errors import (
    InvalidError,
    SeedbedError,
    TerminalError,
    UnavailableError,
)
from seedbed.crds.failure import class_of
from seedbed.crds.messages import StepError, StepResult, StepTask
from seedbed.crds.values import written
from seedbed.crds.wire import decode, encode
from seedbed.runtime.agents.errors import AnswerMalformedError
from seedbed.runtime.bus.item_stream import ItemSource
from seedbed.runtime.bus.port import Bus, Delivery, Pull
from seedbed.runtime.coordination.port import Coordinator, Lease
from seedbed.runtime.coordination.registry import Registration, deregister, register
from seedbed.runtime.worker.adapters import Adapter, EntryFailedError, adapter_named
from seedbed.runtime.worker.goals import GOAL, take_apart
from seedbed.runtime.worker.lanes import Lanes
from seedbed.runtime.worker.limit import is_stopped
from seedbed.runtime.worker.reporting import Hands
from seedbed.runtime.worker.unwanted import Hearing, Lane

log = logging.getLogger(__name__)

PULL_WAIT = 5.0
PULL_AGAIN = 0.2
REDELIVER_AFTER = 30.0
LEASE_TTL = 10.0
CONCURRENCY = 4
"""Steps that a worker executes side by side."""


def new_worker_id() -> str:
    """`worker_` and 16 upper-case hexadecimal digits."""
    return f"worker_{secrets.token_hex(8).upper()}"


class Worker:
    """Executes the steps of one Pool, up to `concurrency` side by side.

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
        concurrency: int = CONCURRENCY,
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
        self._concurrency = concurrency
        self._answering = asyncio.Semaphore(concurrency)
        self._unwanted = Hearing(bus, namespace)
        self._agents: Any = None
        self._starting_agents = asyncio.Lock()

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
            address = worker_address(self.worker_id)
            await stack.enter_async_context(self._bus.serve(address, self._answer))
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
        capabilities = ("steps", "answers", self._adapter_name)
        return await register(
            self._coordinator, "worker", self.worker_id, capabilities, metadata, lease
        )

    async def _deregister(self, registration: Registration) -> None:
        with suppress(SeedbedError):
            await deregister(self._coordinator, registration)

    async def _serve(self, pull: Pull, lease: Lease) -> None:
        """Serve until stopped or the lease is lost; then end what is in hand."""
        lanes = Lanes(self._concurrency)
        try:
            async with asyncio.TaskGroup() as tasks:
                hands = Hands(self._bus, self.worker_id, REDELIVER_AFTER)
                try:
                    pulling = tasks.create_task(self._pull_all(pull, lanes, hands))
                    working = [
                        tasks.create_task(self._work(lanes, hands))
                        for _ in range(self._concurrency + PARTITIONS)
                    ]
                    working.append(tasks.create_task(hands.keep()))
                    working.append(tasks.create_task(self._unwanted.listen()))
                    await _first_of(self._stopping, lease.lost)
                    pulling.cancel()
                    await hands.until_empty()
                    for task in working:
                        task.cancel()
                except asyncio.CancelledError:
                    await asyncio.shield(hands.give_all_back())
                    raise
        except* SeedbedError as group:
            raise group.exceptions[0] from None
        if lease.lost.is_set() and not self._stopping.is_set():
            raise UnavailableError(f"{self.worker_id}: the lease was lost")

    async def _pull_all(self, pull: Pull, lanes: Lanes, hands: Hands) -> None:
        """Pull what the free lanes can start, for ever."""
        while True:
            if hands.full:
                await hands.until_not_full()
            if lanes.free <= 0:
                await lanes.until_free()
            try:
                found = await pull.many(PULL_WAIT, lanes.free)
            except UnavailableError as error:
                log.info("%s: no work can be pulled: %s", self.worker_id, error)
                await asyncio.sleep(PULL_AGAIN)
                continue
            for delivery in found:
                hands.take(delivery)
            useless = []
            for delivery in found:
                task = self._read(delivery)
                if task is None or hands.is_over(task.run) or self._unwanted.names(task):
                    useless.append(delivery)
                else:
                    lanes.put(delivery, task)
            for delivery in useless:
                await hands.drop(delivery)

    def _read(self, delivery: Delivery) -> StepTask | None:
        try:
            return decode(StepTask, delivery.payload)
        except InvalidError:
            log.exception("%s: an unreadable work item is dropped", self.worker_id)
            return None

    async def _work(self, lanes: Lanes, hands: Hands) -> None:
        """One lane: execute one step after the other, for ever.

        Its step has ended when it reports, so there are as many lanes more as reports under way.
        """
        with closing(self._unwanted.lane()) as lane:
            while True:
                delivery, task = await lanes.next()
                result = await self.execute(task, lane)
                lanes.end()
                if lane.stopped:
                    await hands.drop(delivery)
                else:
                    await hands.done(delivery, result, alone=lanes.empty)

    async def _answer(self, payload: bytes) -> bytes:
        """Execute one task for somebody who waits for it: no engine, no queue, no other attempt."""
        task = decode(StepTask, payload)
        async with self._answering:
            return encode(await self.execute(task))

    async def execute(self, task: StepTask, lane: Lane | None = None) -> StepResult:
        """Execute one attempt of a step; every failure is part of the result.

        Args:
            task: the attempt.
            lane: what can stop it before its time is over.
        """
        if lane is None:
            with closing(Lane()) as own:
                return await self.execute(task, own)
        started, clock = time.time(), time.monotonic()
        output, error = None, None
        try:
            with lane.begin(task, _time_left(task, started)):
                output = await self._run(task)
        except TimeoutError:
            error = StepError("timeout", f"not done within {task.timeout:g} s")
        except SeedbedError as failure:
            error = _step_error(failure)
            log.info("%s: %s of %s failed: %s", self.worker_id, task.key, task.run, failure)
        except (Exception, asyncio.CancelledError) as failure:
            if isinstance(failure, asyncio.CancelledError) and is_stopped():
                raise
            # A defect in an agent's library is a failed attempt, not the end of the worker or, as a
            # stray cancellation, the quiet end of a lane; its text may hold what nobody should read,
            # so it goes to the log alone.
            log.exception("%s: %s of %s met a defect", self.worker_id, task.key, task.run)
            name = type(failure).__name__
            message = f"{name} in the worker, see its log"
            error = StepError("internal", message, category=class_of("internal", name))
        finally:
            lane.end()
        finished = started + (time.monotonic() - clock)
        return StepResult(
            task.run, task.key, task.attempt, self.worker_id, output, error, started, finished
        )

    async def _run(self, task: StepTask) -> Any:
        if task.kind == "call" and GOAL not in task.program:
            return await self._call(task)
        if GOAL in task.program:
            answer = await take_apart(task, self._gateway_url)
        else:
            answer = await self._ask(task.program, task)
        try:
            written(answer)
        except TypeError as error:
            raise AnswerMalformedError("answer", f"cannot be written: {error}") from error
        return answer

    async def _call(self, task: StepTask) -> Any:
        source: ItemSource | None = None

        async def tell(item: Any) -> None:
            nonlocal source
            source = source or ItemSource(self._bus, task.idempotency_key, task.attempt)
            # It is for those who read along; the output has it too.
            with suppress(UnavailableError):
                await source.put(item)

        entry = str(task.program["entry"])
        try:
            return await self._adapter.call(entry, task.inputs, task.idempotency_key, tell)
        finally:
            if source is not None:
                await source.close()

    async def _ask(self, program: Mapping[str, Any], task: StepTask) -> Any:
        if self._agents is None:
            # A Pool whose steps ask no Agent never loads the packages that Agents need.
            from seedbed.runtime.agents.host import AgentHost  # noqa: PLC0415

            async with self._starting_agents:
                if self._agents is None:
                    self._agents = await AgentHost(self._gateway_url).__aenter__()
        return await self._agents.answer(
            program,
            task.inputs,
            timeout=task.timeout,
            behalf=_behalf(task),
            traceparent=task.traceparent,
            idempotency_key=task.idempotency_key,
        )


def _behalf(task: StepTask) -> Any:
    from seedbed.runtime.agents.host import Behalf  # noqa: PLC0415 - as above

    return Behalf(task.namespace, task.workflow, task.run)


async def _first_of(*events: asyncio.Event) -> None:
    """Wait until one of the events is set."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


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
