"""A partition and its owners: what one does that has been overtaken, and one plan's defect."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from seedbed.crds.engine_requests import Report, Reported, ReportMany, Signal, Submit, Summarise
from seedbed.crds.errors import FencedError, InvalidError, UnavailableError
from seedbed.crds.messages import RunRequest, RunSummary, StepKey, StepResult
from seedbed.crds.wire import decode
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.workflow import partition as partition_module
from seedbed.runtime.workflow import requests as requests_module
from seedbed.runtime.workflow.decide import advance
from seedbed.runtime.workflow.partition import Partition
from seedbed.runtime.workflow.plan import Start, started
from seedbed.runtime.workflow.records import Record, StepSucceeded
from seedbed.runtime.workflow.replay import records_of, resume
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.world import World
from tests.conftest import run_async
from tests.runs import a_world, call, request

NUMBER = 3


class Place:
    """One partition's store and bus, and owners that follow each other."""

    def __init__(self, store: SqlStore) -> None:
        self.store = store
        self.bus = MemoryBus()
        self.worlds: list[World] = []
        self.tasks: list[asyncio.Task[None]] = []
        self._coordinator = MemoryCoordinator()

    async def own(self) -> Partition:
        """A new owner, with a newer token; the one before is not told."""
        async with self._coordinator.lease() as lease:
            ownership = await self._coordinator.acquire(f"partition/{NUMBER}", "me", lease)
            assert ownership is not None
        # The lease is over for the coordinator; to its holder it looks as if it went on.
        ownership = type(ownership)(ownership.name, ownership.token, _Held())
        self.worlds.append(a_world())
        owner = Partition(NUMBER, ownership, self.store, self.bus, self.worlds[-1])
        self.tasks.append(asyncio.create_task(owner.run()))
        return owner

    async def succeeded(self, run: str) -> list[str]:
        """Units whose success is in the journal."""
        records: list[Record] = [record async for _, record in records_of(self.store, run)]
        return [str(one.key) for one in records if isinstance(one, StepSucceeded)]


class _Held:
    """A lease that a paused process takes for valid."""

    id = 1
    ttl = 10.0
    alive = True

    def __init__(self) -> None:
        self.lost = asyncio.Event()


@asynccontextmanager
async def a_place(folder: Path) -> AsyncIterator[Place]:
    store = SqlStore.open(f"sqlite:///{folder / 'store'}")
    await store.migrate()
    place = Place(store)
    try:
        yield place
    finally:
        for task in place.tasks:
            task.cancel()
        await asyncio.wait(place.tasks)
        await store.close()


def a_result(run: str, step: str, attempt: int = 1, output: Any = None) -> Report:
    return Report(StepResult(run, StepKey(step), attempt, "worker", output))


async def a_run(owner: Partition, plan: RunRequest) -> None:
    await owner.ask(Submit(plan))


def test_what_came_together_is_taken_in_turns_that_leave_room_for_others(tmp_path: Path) -> None:
    async def body() -> None:
        async with a_place(tmp_path) as place:
            owner = await place.own()
            each = call("each", forEach="lists.range(1200)")
            await a_run(owner, request(each, run="many", parallelism=2000))
            results = [
                StepResult("many", StepKey("each", number), 1, "worker") for number in range(1200)
            ]
            asked = [
                owner.ask(ReportMany(tuple(results[n : n + 200]))) for n in range(0, 1200, 200)
            ]
            turns: list[int] = []
            while not all(answer.done() for answer in asked):
                await asyncio.wait(
                    [one for one in asked if not one.done()], return_when="FIRST_COMPLETED"
                )
                turns.append(sum(answer.done() for answer in asked))
            assert turns == [3, 6]
            assert len(await place.succeeded("many")) == 1200

    run_async(body())


def test_a_former_owner_leaves_results_to_its_successor(tmp_path: Path) -> None:
    """What it does not know, it does not answer; what it writes is refused, by the store."""

    async def body() -> None:
        async with a_place(tmp_path) as place:
            former = await place.own()
            await a_run(former, request(call("a"), call("b", needs=["a"]), run="old"))
            successor = await place.own()
            await a_run(successor, request(call("a"), run="new"))
            await successor.ask(a_result("old", "a"))
            with pytest.raises(UnavailableError):
                await former.ask(a_result("new", "a"))
            with pytest.raises(UnavailableError):
                await former.ask(a_result("old", "b"))
            with pytest.raises(UnavailableError):
                await former.ask(a_result("old", "a", output="late"))
            with pytest.raises(FencedError):
                await place.tasks[0]
            for run, step in (("old", "b"), ("new", "a")):
                await successor.ask(a_result(run, step))
            assert await place.succeeded("old") == ["a", "b"]
            assert await place.succeeded("new") == ["a"]
            assert not +place.worlds[0].hands
            assert not +place.worlds[1].hands
            late = decode(Reported, await successor.ask(a_result("old", "a")))
            assert late == Reported(ended=("old",))

    run_async(body())


def test_many_results_are_taken_at_once_and_those_of_a_successor_are_asked_for_again(
    tmp_path: Path,
) -> None:
    async def body() -> None:
        async with a_place(tmp_path) as place:
            owner = await place.own()
            names = ["a", "b", "c"]
            await a_run(owner, request(*map(call, names), run="one"))
            await a_run(owner, request(call("a"), run="two"))
            await owner.ask(a_result("two", "a"))
            results = [a_result("one", name).result for name in names]
            results += [
                a_result("two", "a").result,
                a_result("one", "a").result,
                a_result("unknown", "a").result,
            ]
            # An attempt that only a newer owner can have scheduled.
            await a_run(owner, request(call("a"), run="three"))
            results.append(a_result("three", "a", attempt=2).result)
            answer = decode(Reported, await owner.ask(ReportMany(tuple(results))))
            assert answer == Reported(again=(6,), ended=("two",))
            assert await place.succeeded("one") == names

    run_async(body())


@pytest.mark.parametrize("where", ["accept", "asked"])
def test_a_defect_that_a_message_meets_ends_that_run_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def faulty(state: RunState, *_: Any) -> list[Record]:
        raise RecursionError(f"a defect of {state.request.run}")

    async def body() -> None:
        async with a_place(tmp_path) as place:
            owner = await place.own()
            await a_run(owner, request(call("a"), run="good"))
            await a_run(owner, request(call("a"), run="bad"))
            with monkeypatch.context() as patched:
                patched.setattr(requests_module, where, faulty)
                message = Signal("bad", "e", "1", None, "kim")
                await owner.ask(a_result("bad", "a") if where == "accept" else message)
            again = decode(RunSummary, await owner.ask(Summarise("bad")))
            assert (again.phase, again.reason) == ("Failed", "InternalError")
            await owner.ask(a_result("good", "a", output=1))
            assert await place.succeeded("good") == ["a"]

    run_async(body())


def test_a_defect_that_a_plan_meets_at_its_beginning_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(plan: RunRequest) -> Start:
        if plan.run == "bad":
            raise RecursionError("a defect")
        return started(plan)

    monkeypatch.setattr("seedbed.runtime.workflow.requests.started", faulty)

    async def body() -> None:
        async with a_place(tmp_path) as place:
            owner = await place.own()
            with pytest.raises(InvalidError, match="spec: meets a defect, RecursionError"):
                await a_run(owner, request(call("a"), run="bad"))
            await a_run(owner, request(call("a"), run="good"))
            await owner.ask(a_result("good", "a", output=1))
            assert await place.succeeded("good") == ["a"]

    run_async(body())


def test_a_run_that_nobody_can_resume_keeps_no_other_from_going_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def faulty(store: Any, row: Any, hands: Any) -> Any:
        if row.run == "bad":
            raise KeyError("a defect")
        return await resume(store, row, hands)

    async def body() -> None:
        async with a_place(tmp_path) as place:
            former = await place.own()
            await a_run(former, request(call("a"), run="bad"))
            await a_run(former, request(call("a"), run="good"))
            monkeypatch.setattr(partition_module, "resume", faulty)
            successor = await place.own()
            await successor.ask(a_result("good", "a", output=1))
            assert await place.succeeded("good") == ["a"]

    run_async(body())


def test_a_plans_defect_ends_that_run_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def faulty(state: RunState, now: float, world: World) -> list[Record]:
        made = advance(state, now, world)
        if state.request.run == "bad":
            raise KeyError("a defect")
        return made

    monkeypatch.setattr(partition_module, "advance", faulty)

    async def body() -> None:
        async with a_place(tmp_path) as place:
            owner = await place.own()
            await a_run(owner, request(call("a"), run="good"))
            answer = await owner.ask(Submit(request(call("a"), run="bad")))
            summary = decode(RunSummary, answer)
            assert (summary.phase, summary.reason) == ("Failed", "InternalError")
            await owner.ask(a_result("good", "a", output=1))
            assert await place.succeeded("good") == ["a"]
            again = decode(RunSummary, await owner.ask(Summarise("bad")))
            assert again.reason == "InternalError"
            assert await place.store.unfinished(NUMBER) == []
            assert not +place.worlds[0].hands
            stored = await place.store.run("bad")
            assert stored is not None
            assert orjson.loads(stored.summary)["reason"] == "InternalError"

    run_async(body())
