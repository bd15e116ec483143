"""Items that start as the step yields them which another follows."""

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
from seedbed.crds.messages import RunRequest, StepError, StepKey, StepResult
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.bus.item_stream import ItemSource
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.workflow import streams
from seedbed.runtime.workflow.decide import accept, advance
from seedbed.runtime.workflow.journal import LiveRun
from seedbed.runtime.workflow.opening import arrived
from seedbed.runtime.workflow.record_form import decode_records, encode_records
from seedbed.runtime.workflow.records import Record, StepExpanded
from seedbed.runtime.workflow.snapshot import shortest
from seedbed.runtime.workflow.state import RunState
from tests.conftest import run_async
from tests.runs import a_world, call, request
from tests.small_engine import a_store, ask, serving, until

SOURCE = StepKey("source")


def a_plan(*more: dict[str, Any], **source: Any) -> RunRequest:
    each = call("each", forEach="steps.source.output", follow=True, args={"x": "${item}"})
    steps = (call("source", **source), each, *more)
    return request(*steps, result="steps.each.output")


def again(plan: RunRequest, records: list[Record]) -> RunState:
    state, encoded = RunState(plan), encode_records(records)
    for record in decode_records(encoded.data, encoded.values):
        state.apply(record)
    return state


def started(state: RunState) -> list[int]:
    return sorted(key.index for key in state.scheduled if key.step == "each")


def item_of(state: RunState, key: StepKey) -> Any:
    task = state.scheduled[key].task
    assert task is not None
    assert task.inputs is not None
    return task.inputs["x"]


def ended(state: RunState, key: StepKey, output: Any, now: float = 1.0) -> list[Record]:
    attempt = state.scheduled[key].attempt
    made = accept(state, StepResult("run-1", key, attempt, "w", output), now)
    return made + advance(state, now, a_world())


@pytest.mark.req("DSX-22")
def test_items_start_while_the_step_that_yields_them_goes_on() -> None:
    state, world = RunState(a_plan()), a_world()
    advance(state, 0.0, world)
    assert started(state) == []
    arrived(state, "each", 1, 0, ["a", "b"], 1.0)
    advance(state, 1.0, world)
    assert started(state) == [0, 1]
    ended(state, StepKey("each", 0), "A")
    ended(state, StepKey("each", 1), "B")
    assert not state.steps["each"].settled, "more may come"
    ended(state, SOURCE, ["a", "b", "c"])
    assert started(state) == [2]
    assert state.counts["total"] == 4
    ended(state, StepKey("each", 2), "C")
    assert state.finished is not None
    assert state.finished.result == ["A", "B", "C"]


def test_items_of_another_attempt_count_by_their_number() -> None:
    state, world = RunState(a_plan(retry={"attempts": 2})), a_world()
    advance(state, 0.0, world)
    arrived(state, "each", 1, 0, ["a", "b"], 1.0)
    lost = StepResult("run-1", SOURCE, 1, "w", None, StepError("lease_lost", "gone"))
    accept(state, lost, 2.0)
    assert arrived(state, "each", 1, 2, ["late"], 2.0) == [], "that attempt is over"
    advance(state, 60.0, world)
    assert arrived(state, "each", 2, 3, ["d"], 60.0) == [], "one is missing before it"
    assert arrived(state, "each", 2, 0, ["a", "b"], 60.0) == []
    (record,) = arrived(state, "each", 2, 1, ["b", "c"], 60.0)
    assert isinstance(record, StepExpanded)
    assert record.items == ["c"]
    advance(state, 60.0, world)
    assert started(state) == [0, 1, 2]


@given(st.data())
def test_the_result_is_the_same_whatever_arrives_and_whenever_it_is_resumed(
    data: st.DataObject,
) -> None:
    """Items come in pieces, twice or never; the owner changes, by journal or by snapshot."""
    count = data.draw(st.integers(1, 6))
    items, plan = [f"i{n}" for n in range(count)], a_plan()
    state, executed = RunState(plan), []
    journal = advance(state, 0.0, a_world())
    for _ in range(200):
        if state.finished is not None:
            break
        match data.draw(st.sampled_from(["arrive", "end", "source", "journal", "snapshot"])):
            case "arrive":
                first = data.draw(st.integers(0, count))
                journal += arrived(state, "each", 1, first, items[first : first + 2], 1.0)
                journal += advance(state, 1.0, a_world())
            case "end" if started(state):
                key = StepKey("each", data.draw(st.sampled_from(started(state))))
                executed.append(key.index)
                journal += ended(state, key, item_of(state, key))
            case "source" if SOURCE in state.scheduled:
                journal += ended(state, SOURCE, items)
            case "journal":
                state = again(plan, journal)
                journal += advance(state, 1.0, a_world())
            case "snapshot":
                state = again(plan, shortest(state))
                journal += advance(state, 1.0, a_world())
    else:
        return
    assert state.finished.result == items
    assert sorted(executed) == list(range(count))


def test_a_source_that_fails_and_may_leaves_the_items_that_came() -> None:
    state, world = RunState(a_plan(allowFailure=True)), a_world()
    advance(state, 0.0, world)
    arrived(state, "each", 1, 0, ["a"], 1.0)
    broken = StepError("broken", "no", retryable=False)
    accept(state, StepResult("run-1", SOURCE, 1, "w", None, broken), 2.0)
    advance(state, 2.0, world)
    ended(state, StepKey("each", 0), "A")
    assert state.finished is not None
    assert (state.finished.phase, state.finished.result) == ("Succeeded", ["A"])


@pytest.mark.parametrize("then", ["continue", "skip"])
def test_a_source_that_fails_before_its_first_item_leaves_none(then: str) -> None:
    state, world = RunState(a_plan(onError={"action": then})), a_world()
    advance(state, 0.0, world)
    broken = StepError("broken", "no", retryable=False)
    accept(state, StepResult("run-1", SOURCE, 1, "w", None, broken), 2.0)
    advance(state, 2.0, world)
    assert state.finished is not None
    assert (state.finished.phase, state.finished.result) == ("Succeeded", [])


def test_a_source_with_more_items_than_can_be_followed_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("seedbed.runtime.workflow.fitting.MAX_ITEMS", 3)
    state, world = RunState(a_plan()), a_world()
    advance(state, 0.0, world)
    arrived(state, "each", 1, 0, ["a", "b"], 1.0)
    assert arrived(state, "each", 1, 2, ["c", "d"], 1.0) == []
    ended(state, SOURCE, ["a", "b", "c", "d"])
    assert state.finished is not None
    assert "output: gives 4 items, at most 3 are possible" in state.finished.message


def test_items_that_the_run_does_not_take_are_not_asked_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streams, "AGAIN", 3600.0)
    plan = a_plan()
    state = RunState(plan)
    advance(state, 0.0, a_world())
    offered = []

    async def refuse(items: streams.Arrived) -> bytes:
        offered.append(items)
        return b"{}"

    async def body() -> None:
        bus = MemoryBus()
        source = ItemSource(bus, f"{plan.run}/{SOURCE}", 1)
        await source.put("a")
        async with streams.Streams(bus, refuse) as reading:
            reading.look(LiveRun(state))
            while not offered:
                await asyncio.sleep(0)
            for _ in range(200):
                await asyncio.sleep(0)
        await source.close()
        await bus.close()
        assert len(offered) == 1

    run_async(body())


def test_a_step_that_needs_more_than_the_items_waits_for_that() -> None:
    plan = a_plan(call("other"))
    plan.spec["steps"][1]["needs"] = ["other"]
    state, world = RunState(plan), a_world()
    advance(state, 0.0, world)
    assert arrived(state, "each", 1, 0, ["a"], 1.0) == []
    ended(state, StepKey("other"), 1)
    assert len(arrived(state, "each", 1, 0, ["a"], 1.0)) == 1
    ended(state, SOURCE, ["a", "b"])
    assert started(state) == [0, 1]


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"forEach": None}, "follow"),
        ({"forEach": "params.x"}, "follow"),
        ({"forEach": "steps.source.output.map(x, x)"}, "follow"),
        ({"forEach": "steps.many.output"}, "follow"),
        ({"ordered": True}, "follow"),
        ({"when": "size(steps.source.output) > 1"}, "when"),
        ({"args": {"all": "${steps.source.output}"}}, "call.args.all"),
    ],
)
def test_a_step_that_cannot_follow_is_refused(fields: dict[str, Any], field: str) -> None:
    each = {"forEach": "steps['source'].output", "follow": True} | fields
    many = call("many", forEach="[1]")
    steps = [call("source"), many, call("each", **each)]
    spec = WorkflowSpec.model_validate({"steps": steps})
    with pytest.raises(InvalidError) as refused:
        build_graph(spec)
    assert refused.value.field == f"spec.steps[2].{field}"


@pytest.mark.req("DSX-22")
def test_the_first_items_are_done_while_the_engine_is_killed_and_the_source_goes_on(
    tmp_path: Path,
) -> None:
    """The source yields all but the last item, and that only once all others are done."""
    source = {
        "entry": "tests.steps:yield_then_wait",
        "args": {"folder": str(tmp_path), "count": 10},
    }
    note = {"entry": "tests.steps:mark", "args": {"folder": str(tmp_path), "name": "done-${item}"}}
    steps = (
        {"name": "source", "call": source},
        {"name": "each", "forEach": "steps.source.output", "follow": True, "call": note},
    )
    plan = request(*steps, result="steps.each.output")

    def done() -> int:
        return len(list(tmp_path.glob("done-*")))

    async def body() -> None:
        async with asyncio.timeout(40), a_store(tmp_path) as store:
            async with serving(store) as bus:
                await ask(bus, plan.run, Submit(plan))
                while done() < 9:
                    await asyncio.sleep(0.01)
            async with serving(store, start=1) as bus:
                (tmp_path / "go").touch()
                found = await until(bus, plan.run)
            # A kill may have an item done twice; it is there once all the same.
            assert (found.phase, found.result) == ("Succeeded", [f"done-{n}" for n in range(10)])

    run_async(body())
