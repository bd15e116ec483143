"""Pools that shed: a step of a higher priority takes the place of one of the lowest."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from seedbed.crds.addresses import partition_of
from seedbed.crds.engine_requests import Cancel, Signal, Submit
from seedbed.crds.messages import StepKey, StepResult
from seedbed.crds.pool import PoolSpec
from seedbed.runtime.workflow import metrics
from seedbed.runtime.workflow.decide import accept, advance, asked
from seedbed.runtime.workflow.records import Record, StepFailed
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.world import World
from tests.conftest import run_async
from tests.runs import a_world, call, request
from tests.small_engine import a_store, ask, serving, until

RETRY = {"attempts": 2, "backoff": "1s"}


def a_run(name: str, world: World, items: int, **spec: Any) -> RunState:
    step = call("each", forEach=f"lists.range({items})", retry=RETRY)
    return RunState(request(step, run=name, **spec), world.hands)


def traces(folder: Path, pattern: str) -> int:
    return len(list(folder.glob(pattern)))


def shed(records: list[Record]) -> list[tuple[StepKey, float | None]]:
    return [
        (record.key, record.retry_at)
        for record in records
        if isinstance(record, StepFailed) and record.error.code == "queue_shed"
    ]


@pytest.mark.req("DSX-32")
def test_a_run_of_a_higher_priority_takes_the_places_handed_out_last() -> None:
    world = a_world(queue_limit=3, queue_policy="ShedLow")
    woken: list[str] = []
    low, high = a_run("low", world, 5, priority=0), a_run("high", world, 2, priority=2)
    world.shedding.wake[partition_of("low")] = woken.append
    advance(low, 0.0, world)
    for key in (StepKey("each", 0), StepKey("each", 1)):
        accept(low, StepResult("low", key, 1, "w", 1), 1.0)
    advance(low, 1.0, world)
    assert [key.index for key in low.scheduled] == [2, 3, 4]
    assert shed(advance(high, 2.0, world)) == []
    assert woken, "the other run is asked, it journals for itself"
    gone = shed(advance(low, 2.0, world))
    assert [key.index for key, _ in gone] == [3, 4], "those handed out last"
    assert all(at is not None and at > 2.0 for _, at in gone), "its retry policy decides"
    unit = low.unit(gone[0][0])
    assert unit.error is not None
    assert (unit.error.code, unit.error.error_class) == ("queue_shed", "overload_error")
    assert advance(low, 2.0, world) == [], "the place is kept for who wanted it"
    advance(high, 2.1, world)
    assert len(high.scheduled) == 2


def test_the_steps_of_one_run_shed_each_other_by_their_own_priority() -> None:
    world = a_world(queue_limit=2, queue_policy="ShedLow")
    wait = {"name": "gate", "wait": {"event": "go"}}
    low = call("low", forEach="lists.range(2)", priority=0, retry=RETRY)
    high = call("high", needs=["gate"], priority=2)
    state = RunState(request(wait, low, high), world.hands)
    advance(state, 0.0, world)
    assert len(state.scheduled) == 2
    asked(state, Signal(state.request.run, "go", "1"), 1.0)
    gone = shed(advance(state, 1.0, world))
    assert [key.step for key, _ in gone] == ["low"]
    assert StepKey("high") in state.scheduled


@pytest.mark.req("DSX-32")
@pytest.mark.parametrize("policy", ["Wait", "ShedLow"])
def test_nothing_is_shed_for_an_equal_or_where_the_pool_lets_wait(policy: str) -> None:
    world = a_world(queue_limit=2, queue_policy=policy)
    first = a_run("first", world, 2)
    second = a_run("second", world, 2, priority=2 if policy == "Wait" else 1)
    advance(first, 0.0, world)
    advance(second, 0.0, world)
    assert shed(advance(first, 0.2, world)) == []
    assert (len(first.scheduled), len(second.scheduled)) == (2, 0)
    assert second.starved, "it waits"


def test_a_step_that_is_shed_too_often_has_failed() -> None:
    world = a_world(queue_limit=1, queue_policy="ShedLow")
    low = a_run("low", world, 1, priority=0)
    now = 0.0
    for attempt in (1, 2):
        advance(low, now, world)
        assert low.scheduled[StepKey("each", 0)].attempt == attempt
        high = a_run(f"high-{attempt}", world, 1, priority=1)
        advance(high, now, world)
        advance(low, now, world)
        advance(high, now + 0.1, world)
        assert len(high.scheduled) == 1
        asked(high, Cancel(high.request.run, "enough"), now + 1.0)
        advance(high, now + 1.0, world)
        world.shedding.leave(high.request.run)
        now += 100.0
    assert low.finished is not None
    assert "wants the place" in low.finished.message


def test_a_run_that_has_moved_here_gives_up_what_it_was_handed_before() -> None:
    world = a_world(queue_limit=1, queue_policy="ShedLow")
    low, high = a_run("low", world, 1, priority=0), a_run("high", world, 1, priority=1)
    advance(low, 0.0, world)
    world.shedding.leave("low")  # as a former owner's world
    advance(high, 0.0, world)
    assert shed(advance(low, 0.0, world)) == []
    world.shedding.resumed(low)
    advance(high, 1.0, world)
    assert len(shed(advance(low, 1.0, world))) == 1


@pytest.mark.req("DSX-32")
def test_the_engine_sheds_and_workers_drop_what_was_shed(tmp_path: Path) -> None:
    """A Pool with four places, four lanes busy for ever: a run of a higher priority goes first."""
    args = {"folder": str(tmp_path), "item": "${item}", "stuck": "${item}"}
    stuck = {"entry": "tests.steps:stopped_once", "args": args}
    low = request(
        {"name": "low", "forEach": "lists.range(4)", "call": stuck, "retry": RETRY},
        run="low-1",
        priority=0,
        result="steps.low.output",
    )
    high = request(
        {"name": "high", "call": {"entry": "tests.steps:echo", "args": {"x": 1}}},
        run="high-1",
        priority=2,
    )
    pool = PoolSpec(queue_limit=4, queue_policy="ShedLow")
    counted = metrics.REJECTED.labels("queue_shed")
    before = counted._value.get()

    async def body() -> None:
        async with (
            asyncio.timeout(40),
            a_store(tmp_path) as store,
            serving(store, pool=pool, concurrency=1) as bus,
        ):
            await ask(bus, low.run, Submit(low))
            while traces(tmp_path, "item-*") < 4:
                await asyncio.sleep(0.01)
            await ask(bus, high.run, Submit(high))
            found = await until(bus, high.run)
            assert found.phase == "Succeeded"
            while traces(tmp_path, "stopped-*") < 1:
                await asyncio.sleep(0.01)
            assert counted._value.get() > before
            await ask(bus, low.run, Cancel(low.run, "seen enough"))

    run_async(body())
