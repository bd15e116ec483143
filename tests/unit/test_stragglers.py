"""Items that take much longer than the others of their step are started a second time."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.crds.engine_requests import Submit
from seedbed.crds.errors import InvalidError
from seedbed.crds.graph_builder import build_graph
from seedbed.crds.messages import StepKey
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.decide import advance
from seedbed.runtime.workflow.journal import LiveRun
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.stragglers import learn, limit, stragglers
from tests.conftest import run_async
from tests.runs import a_world, call, request
from tests.small_engine import a_store, ask, serving, until

POLICY = {"slowerThan": 3, "atLeast": "2s", "after": 3}


def a_run(count: int, **fields: Any) -> LiveRun:
    """A run with `count` items scheduled and handed out at second 0."""
    plan = request(call("each", forEach=f"lists.range({count})", stragglers=POLICY | fields))
    run = LiveRun(RunState(plan))
    advance(run.state, 0.0, a_world("general"))
    for key, unit in run.state.scheduled.items():
        run.handed[key] = (unit.attempt, 0.0)
    return run


def ended(run: LiveRun, index: int, taken: float) -> None:
    key = StepKey("each", index)
    run.state.scheduled.pop(key)
    run.handed.pop(key)
    learn(run, key, taken)


def test_an_item_straggles_when_it_takes_a_multiple_of_the_median() -> None:
    run = a_run(6)
    for index, taken in enumerate((1.0, 2.0)):
        ended(run, index, taken)
    assert limit(run, "each") is None, "too few have ended"
    assert stragglers(run, 1000.0) == []
    ended(run, 2, 3.0)
    assert limit(run, "each") == 6.0
    assert stragglers(run, 6.0) == []
    assert [unit.key.index for unit in stragglers(run, 6.1)] == [3, 4, 5]
    assert stragglers(run, 1000.0) == [], "each attempt is started a second time once"


def test_quick_items_straggle_only_after_the_least_time() -> None:
    run = a_run(4)
    for index in range(3):
        ended(run, index, 0.01)
    assert stragglers(run, 1.9) == []
    assert len(stragglers(run, 2.1)) == 1


@given(st.integers(10, 60), st.integers(1, 8), st.floats(0.1, 10))
def test_items_that_only_wait_for_a_worker_are_no_stragglers(
    count: int, lanes: int, each: float
) -> None:
    """All are handed out at once and a few are worked on at a time: nothing is started twice."""
    run = a_run(count, atLeast="1ms")
    for at in range(0, count, lanes):
        now = (at // lanes + 1) * each
        assert stragglers(run, now) == []
        for index in range(at, min(count, at + lanes)):
            ended(run, index, now)
        assert stragglers(run, now) == []


@pytest.mark.parametrize(
    "step",
    [
        call("one", stragglers=POLICY),
        {"name": "one", "forEach": "[1]", "container": {"image": "x"}, "stragglers": POLICY},
    ],
)
def test_only_items_of_agents_and_calls_may_have_stragglers(step: dict[str, Any]) -> None:
    spec = WorkflowSpec.model_validate({"steps": [step]})
    with pytest.raises(InvalidError) as refused:
        build_graph(spec)
    assert refused.value.field == "spec.steps[0].stragglers"


def test_the_second_start_ends_a_run_that_a_stuck_item_would_hold_up(tmp_path: Path) -> None:
    entry = {
        "entry": "tests.steps:stuck_once",
        "args": {"folder": str(tmp_path), "item": "${item}", "stuck": 3},
    }
    policy = {"slowerThan": 2, "atLeast": "50ms", "after": 3}
    step = {"name": "each", "forEach": "lists.range(8)", "call": entry, "stragglers": policy}
    plan = request({**step, "timeout": "100s"}, result="steps.each.output")

    async def body() -> None:
        async with asyncio.timeout(40), a_store(tmp_path) as store, serving(store) as bus:
            await ask(bus, plan.run, Submit(plan))
            found = await until(bus, plan.run)
            assert (found.phase, found.result) == ("Succeeded", list(range(8)))
            calls = [(tmp_path / f"item-{item}").stat().st_size for item in range(8)]
            assert calls == [1, 1, 1, 2, 1, 1, 1, 1]

    run_async(body())


def test_the_start_that_does_not_count_is_stopped_on_its_worker(tmp_path: Path) -> None:
    """The run goes on behind the items; the stuck one has an hour, and its lane is free long before."""
    entry = {
        "entry": "tests.steps:stopped_once",
        "args": {"folder": str(tmp_path), "item": "${item}", "stuck": 3},
    }
    policy = {"slowerThan": 2, "atLeast": "50ms", "after": 3}
    step = {"name": "each", "forEach": "lists.range(8)", "call": entry, "stragglers": policy}
    then = {"name": "then", "needs": ["each"], "wait": {"event": "never"}}
    plan = request({**step, "timeout": "1h"}, then)

    async def body() -> None:
        async with asyncio.timeout(40), a_store(tmp_path) as store, serving(store) as bus:
            await ask(bus, plan.run, Submit(plan))
            await until(bus, plan.run, lambda run: bool(run.waiting))
            while not (tmp_path / "stopped-3").exists():
                await asyncio.sleep(0.01)

    run_async(body())
