"""Items of a forEach that come after each other."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.crds.errors import InvalidError
from seedbed.crds.graph_builder import graph_problems
from seedbed.crds.messages import StepError, StepResult, StepTask
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow import item_order
from seedbed.runtime.workflow.decide import accept, advance
from seedbed.runtime.workflow.item_order import ItemOrder
from seedbed.runtime.workflow.record_form import decode_records, encode_records
from seedbed.runtime.workflow.snapshot import shortest
from seedbed.runtime.workflow.state import RunState
from tests.runs import a_world, call, play, request

DIAMOND = [{"n": 0}, {"n": 1, "after": [0]}, {"n": 2, "after": [0]}, {"n": 3, "after": [[1, 3]]}]


def ordered(items: list[Any], **fields: Any) -> dict[str, Any]:
    args = {"n": "${item.n}", "before": "${previous}"}
    return call("each", forEach="params.items", args=args, ordered=True, **fields)


@st.composite
def orders(draw: st.DrawFn) -> list[list[Any]]:
    """For each place what it comes after: places and pairs, some of them empty or twice."""
    count, found = draw(st.integers(1, 25)), []
    for place in range(count):
        ends = st.integers(0, place)
        pair = st.tuples(ends, ends).map(sorted)
        one = pair if place == 0 else pair | st.integers(0, place - 1)
        found.append(draw(st.lists(one, max_size=4)))
    return found


def named(after: list[Any]) -> set[int]:
    return {n for one in after for n in (range(*one) if isinstance(one, list) else [one])}


@given(orders(), st.randoms(use_true_random=False))
def test_an_item_is_free_once_all_that_it_names_has_ended_and_not_sooner(
    afters: list[list[Any]], random: Any
) -> None:
    order = ItemOrder([{"after": after} for after in afters])
    running, ended, seen = set(order.take()), set(), set()
    while running:
        seen |= running
        place = random.choice(sorted(running))
        running.remove(place)
        ended.add(place)
        told, free = order.end(place), order.take()
        assert told == bool(free)
        running |= set(free)
        may = {n for n, after in enumerate(afters) if named(after) <= ended}
        assert may == ended | running
    assert seen == set(range(len(afters)))


@pytest.mark.parametrize(
    ("after", "says"),
    [
        (1, "must be a list"),
        (["x"], "names 'x', expected a place"),
        ([True], "names True, expected a place"),
        ([[0]], "expected a place or a pair"),
        ([2], "names 2, only places before 2"),
        ([-1], "only places before 2"),
        ([[0, 3]], "only places before 2"),
    ],
)
def test_an_order_that_cannot_be_kept_is_refused(after: Any, says: str) -> None:
    with pytest.raises(InvalidError, match=r"item 2: after: .*") as refused:
        ItemOrder([{}, {}, {"after": after}])
    assert says in refused.value.expected


def test_many_behind_many_are_few_links(monkeypatch: pytest.MonkeyPatch) -> None:
    first: list[dict[str, Any]] = [{} for _ in range(5000)]
    order = ItemOrder([*first, *({"after": [[0, 5000]]} for _ in range(5000))])
    assert len(order.take()) == 5000
    assert not any(order.end(place) for place in range(4999))
    assert order.end(4999)
    assert order.take() == list(range(5000, 10_000))
    monkeypatch.setattr(item_order, "MOST_LINKS", 9_999)
    with pytest.raises(InvalidError, match="more than 9,999 links"):
        ItemOrder([*first, *({"after": [[0, 5000]]} for _ in range(5000))])


def test_items_run_in_their_order_and_read_what_came_before() -> None:
    plan = request(ordered(DIAMOND), params={"items": DIAMOND}, result="steps.each.output")
    run = play(plan, lambda task: {"n": task.inputs["n"], "got": task.inputs["before"]})
    assert run.state.finished is not None
    outputs = run.state.finished.result
    assert [each["n"] for each in outputs] == [0, 1, 2, 3]
    assert [each["n"] for each in outputs[3]["got"]] == [1, 2]
    assert outputs[0]["got"] == []
    assert [key for key, _ in run.executed] == ["each[0]", "each[1]", "each[2]", "each[3]"]


def test_an_order_survives_a_restart_at_every_point() -> None:
    """The state is made anew from its journal, and from its snapshot, before each result."""
    plan = request(ordered(DIAMOND), params={"items": DIAMOND}, result="steps.each.output")

    def again(state: RunState) -> RunState:
        fresh = RunState(plan)
        encoded = encode_records(shortest(state))
        for record in decode_records(encoded.data, encoded.values):
            fresh.apply(record)
        return fresh

    state, started = RunState(plan), []
    for now in range(10):
        state = again(state) if now else state
        advance(state, float(now), a_world("general"))
        for key in list(state.scheduled)[:1]:
            started.append(key.index)
            unit = state.scheduled[key]
            assert unit.task is not None
            output = unit.task.inputs
            accept(state, StepResult(plan.run, key, unit.attempt, "w", output), float(now))
    assert state.finished is not None
    assert state.finished.phase == "Succeeded"
    assert started == [0, 1, 2, 3]
    assert [each["n"] for each in state.finished.result[3]["before"]] == [1, 2]


def test_an_item_that_fails_lets_those_behind_it_start_where_failure_is_allowed() -> None:
    plan = request(ordered(DIAMOND, allowFailure=True), params={"items": DIAMOND})

    def behave(task: StepTask) -> Any:
        if task.inputs["n"] == 1:
            return StepError("no", "it cannot be", retryable=False)
        return task.inputs["before"]

    state = play(plan, behave).state
    assert state.told["each"]["output"] == [[], None, [[]], [None, [[]]]]


def test_items_in_a_wrong_order_fail_the_step_before_one_starts() -> None:
    items = [{"n": 0, "after": [1]}, {"n": 1}]
    run = play(request(ordered(items), params={"items": items}))
    assert run.executed == []
    assert run.state.finished is not None
    assert "item 0: after: names 1" in run.state.finished.message


@pytest.mark.parametrize(
    ("step", "field"),
    [
        (call("one", ordered=True), "spec.steps[0].ordered"),
        (
            call("one", forEach="[1]", ordered=True, repeat={"until": "true", "max": 2}),
            "spec.steps[0].ordered",
        ),
        (
            call("one", forEach="[1]", args={"x": "${previous}"}),
            "spec.steps[0].call.args.x",
        ),
        (call("one", forEach="[1]", when="previous", ordered=True), "spec.steps[0].when"),
    ],
)
def test_order_only_where_there_are_items(step: dict[str, Any], field: str) -> None:
    spec = WorkflowSpec.model_validate({"steps": [step]})
    assert [problem.field for problem in graph_problems(spec)] == [field]
