"""The queue of a Pool that is gone: nothing that a run waits for is lost, and the rest goes."""

from __future__ import annotations

import asyncio

from seedbed.crds.addresses import pool_setting, work_queue
from seedbed.crds.messages import StepKey, StepTask
from seedbed.crds.wire import decode, encode
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.coordination.port import Change
from seedbed.runtime.store.port import RunRow
from seedbed.runtime.workflow.retired import GONE_SECONDS, RetiredQueues
from seedbed.runtime.workflow.world import World

QUEUE = work_queue("team", "old")


class Runs:
    """A store that knows of runs only whether they have ended."""

    def __init__(self, **finished: bool) -> None:
        self.finished = finished

    async def run(self, run: str) -> RunRow | None:
        if run not in self.finished:
            return None
        return RunRow(run, 0, "team", "w", b"", b"", self.finished[run])


def step(run: str) -> tuple[str, bytes]:
    task = StepTask(run, "team", "w", StepKey("a"), 1, "call", {"entry": "m:f"}, {}, 60.0)
    return f"{task.idempotency_key}/1", encode(task)


async def left(bus: MemoryBus) -> list[str]:
    """Runs whose steps a new Pool of the same name finds."""
    async with bus.pull_work(QUEUE) as pull:
        return [decode(StepTask, each.payload).run for each in await pull.many(0.01, 100)]


def test_steps_of_a_run_that_goes_on_wait_for_the_pool_to_be_made_again() -> None:
    async def body() -> None:
        bus, runs, world = MemoryBus(), Runs(live=False, over=True), World()
        world.change(Change(pool_setting("team", "old"), b"{}"))
        sweeper = RetiredQueues(bus, runs, world.pulled, lambda: True)  # type: ignore[arg-type]  # all that is asked
        odd = ("x", b"of another version")
        await bus.put_all(QUEUE, [step("over"), step("live"), step("unknown")])
        await sweeper.sweep(0.0)
        await sweeper.sweep(2 * GONE_SECONDS)
        assert len(bus._queues[QUEUE]) == 3, "while there is a Pool nothing is touched"
        world.change(Change(pool_setting("team", "old"), None))
        await sweeper.sweep(1000.0)
        await sweeper.sweep(1000.0 + GONE_SECONDS - 1)
        assert len(bus._queues[QUEUE]) == 3, "it may come again at once"
        await sweeper.sweep(1000.0 + GONE_SECONDS)
        assert await left(bus) == ["live"]
        await bus.put_all(QUEUE, [("again/2", step("live")[1]), odd])
        runs.finished["live"] = True
        await sweeper.sweep(2000.0)
        assert QUEUE in await bus.queues(), "what cannot be read is not ours to judge"
        await bus.close()

    asyncio.run(body())


def test_a_queue_that_nobody_needs_goes_and_only_one_engine_sees_to_it() -> None:
    async def body() -> None:
        bus, runs = MemoryBus(), Runs(over=True)
        mine = False
        sweeper = RetiredQueues(bus, runs, lambda _: False, lambda: mine)  # type: ignore[arg-type]  # as above
        await bus.put_all(QUEUE, [step("over")])
        for now in (0.0, GONE_SECONDS):
            await sweeper.sweep(now)
        assert list(await bus.queues()) == [QUEUE]
        mine = True
        for now in (1000.0, 1000.0 + GONE_SECONDS):
            await sweeper.sweep(now)
        assert list(await bus.queues()) == []
        await bus.close()

    asyncio.run(body())
