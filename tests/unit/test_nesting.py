"""Runs in runs, through the pure core: the same as inlined, typed, bounded in depth."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.crds.addresses import template_setting
from seedbed.crds.admission import validate
from seedbed.crds.base import API_VERSION
from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import RunRequest, StepKey, StepResult
from seedbed.crds.run_ids import child_id
from seedbed.crds.sub_workflow import MAX_DEPTH, ParamType, check_params
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.coordination.port import Change
from seedbed.runtime.workflow.decide import accept, advance
from seedbed.runtime.workflow.nesting import child_request, refusal_of, result_of
from seedbed.runtime.workflow.records import RunFinished
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.world import World
from tests.runs import a_world, call, request


def set_template(world: World, name: str, **spec: Any) -> None:
    plan = WorkflowSpec.model_validate({**spec, "template": True}).model_dump_json(by_alias=True)
    world.change(Change(template_setting("team", name), plan.encode()))


def run_whole(plan: RunRequest, world: World, at: float = 1000.0) -> RunFinished:
    """A run with all runs in it, to its end; a step's output is what it was given."""
    state = RunState(plan, world.hands)
    while state.finished is None:
        advance(state, at, world)
        for key, unit in list(state.scheduled.items()):
            assert unit.task is not None
            if unit.task.kind == "workflow":
                accept(state, _nested(state, key, world, at), at)
            else:
                given_ = unit.task.inputs
                accept(state, StepResult(plan.run, key, unit.attempt, "w", given_), at)
        if state.finished is None and not state.scheduled:
            at = max(at + 1.0, state.due() or 0.0)
    return state.finished


def _nested(state: RunState, key: StepKey, world: World, at: float) -> StepResult:
    child = child_request(state, state.scheduled[key])
    try:
        end = run_whole(child, world, at)
    except InvalidError as error:
        return refusal_of(child, error, at)
    return result_of(child, end.phase, end.reason, end.message, end.result, (at, at))


numbers = st.lists(st.integers(-5, 5), min_size=1, max_size=4)


@settings(max_examples=40, deadline=None)
@given(numbers, st.integers(0, 3), st.booleans())
@pytest.mark.req("DSX-45")
def test_nested_gives_the_same_output_as_inlined(given_: list[int], add: int, skip: bool) -> None:
    first = call("first", args={"x": "${params.x + params.add}"})
    second = call("second", args={"y": "${steps.first.output.x * 2}"}, when="params.run")
    result = "steps.second.output == null ? steps.first.output.x : steps.second.output.y"
    params = {"x": "${item}", "add": add, "run": not skip}
    inner: dict[str, Any] = {"steps": [first, second], "result": result}
    world = a_world()
    set_template(world, "inner", **inner)
    bodies: dict[str, dict[str, Any]] = {"template": {"name": "inner"}, "here": inner}
    nested = {
        name: run_whole(
            request(
                {"name": "each", "forEach": "params.xs", "workflow": {**body, "params": params}},
                call("last", args={"all": "${steps.each.output}"}),
                params={"xs": given_},
            ),
            world,
        )
        for name, body in bodies.items()
    }
    inlined = run_whole(
        request(
            call("first", forEach="params.xs", args={"x": "${item + params.add}"}),
            call(
                "second",
                forEach="params.xs",
                when="params.run",
                args={"y": "${steps.first.output[index].x * 2}"},
            ),
            call(
                "last",
                args={
                    "all": "${lists.range(size(params.xs)).map(i, steps.second.output[i] == null"
                    " ? steps.first.output[i].x : steps.second.output[i].y)}"
                },
            ),
            params={"xs": given_, "add": add, "run": not skip},
        ),
        world,
    )
    assert inlined.phase == "Succeeded", inlined
    for end in nested.values():
        assert (end.phase, end.result) == (inlined.phase, inlined.result), end


def test_a_child_has_the_same_id_whenever_it_is_asked_for_and_begins_with_the_objects_uid() -> None:
    key = StepKey("a", 3)
    found = child_id("uid-1-abcdef12", key, 1)
    assert found == child_id("uid-1-abcdef12", key, 1)
    assert found.rpartition("-")[0] == "uid-1"
    others = {child_id("uid-1-abcdef12", StepKey("a", n), 2) for n in range(1000)}
    assert len(others | {found}) == 1001
    assert child_id(found, key, 1).rpartition("-")[0] == "uid-1"


def test_recursion_is_bounded_and_the_error_names_the_chain() -> None:
    world = a_world()
    again = {"name": "again", "workflow": {"name": "loop", "params": {"n": "${params.n + 1}"}}}
    set_template(world, "loop", steps=[again], paramTypes={"n": {"type": "integer"}})
    end = run_whole(request(again, params={"n": 0}), world)
    assert end.phase == "Failed"
    chain = " → ".join(["plan", *["loop"] * (MAX_DEPTH - 1)])
    assert f"nested at most {MAX_DEPTH} deep: {chain}" in end.message
    until = {**again, "when": "params.n < 5"}
    set_template(world, "loop", steps=[until], result="params.n")
    bounded = run_whole(request(until, params={"n": 0}), world)
    assert bounded.phase == "Succeeded"


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"n": "3"}, "spec.params.n: must be an integer, not a string"),
        ({"n": True}, "spec.params.n: must be an integer, not a boolean"),
        ({"n": 1.5}, "spec.params.n: must be an integer, not a number"),
        ({}, "spec.params.n: is required, as an integer"),
        ({"n": 1, "text": 3}, "spec.params.text: must be a string, not an integer"),
        ({"n": 1, "txt": "x"}, "is no parameter of this Workflow; did you mean `text`?"),
        ({"n": 1, "other": 1}, "there are n, text"),
    ],
)
def test_a_child_with_wrong_parameters_fails_its_step_with_one_sentence(
    params: dict[str, Any], said: str
) -> None:
    world = a_world()
    types = {"n": {"type": "integer", "required": True}, "text": {"type": "string"}}
    set_template(world, "typed", steps=[call("a")], paramTypes=types)
    step = {"name": "typed", "workflow": {"name": "typed", "params": params}}
    end = run_whole(request(step, retry={"attempts": 3}), world)
    assert end.reason == "StepFailed"
    assert said in end.message


def test_params_of_the_template_stand_in_for_those_not_given() -> None:
    world = a_world()
    types = {"a": {"type": "integer"}, "b": {"type": "list", "required": True}}
    set_template(
        world, "t", steps=[call("x", args={"s": "${params.a}"})], params={"a": 7}, paramTypes=types
    )
    step = {"name": "t", "workflow": {"name": "t", "params": {"b": []}}}
    assert run_whole(request(step), world).result == {"s": 7}


def test_what_is_spent_inside_is_spent_for_the_outermost_workflow() -> None:
    world = a_world()
    set_template(world, "inner", steps=[call("x")])
    set_template(world, "middle", steps=[{"name": "m", "workflow": {"name": "inner"}}])
    state = RunState(request({"name": "w", "workflow": {"name": "middle"}}), world.hands)
    for key in (StepKey("w"), StepKey("m")):
        advance(state, 1.0, world)
        state = RunState(child_request(state, state.scheduled[key]), world.hands)
    advance(state, 1.0, world)
    assert state.request.workflow == "inner"
    assert state.task(state.scheduled[StepKey("x")]).workflow == "plan"


def test_container_steps_are_for_the_outermost_workflow() -> None:
    pod = {"name": "pod", "container": {"image": "busybox:1.37"}}
    world = a_world()
    set_template(world, "packs", steps=[pod])
    end = run_whole(request({"name": "w", "workflow": {"name": "packs"}}), world)
    assert "spec.steps[0].container: container steps run in the outermost" in end.message


def test_a_template_that_is_not_there_is_waited_for() -> None:
    world = a_world()
    state = RunState(request({"name": "t", "workflow": {"name": "later"}}), world.hands)
    advance(state, 1.0, world)
    assert state.held is not None
    assert state.held.reason == "WorkflowNotFound"
    set_template(world, "later", steps=[call("x")])
    advance(state, 2.0, world)
    assert [str(key) for key in state.scheduled] == ["t"]


def test_the_time_of_the_run_around_and_of_the_step_bounds_the_child() -> None:
    world = a_world()
    set_template(world, "t", steps=[call("x")], deadline="1h")
    step = {"name": "t", "workflow": {"name": "t"}, "timeout": "30s"}
    state = RunState(request(step, deadline="20s"), world.hands)
    advance(state, 100.0, world)
    child = child_request(state, state.scheduled[StepKey("t")])
    assert child.parent is not None
    assert child.parent.deadline == 120.0
    inner = RunState(child, world.hands)
    advance(inner, 100.0, world)
    advance(inner, 121.0, world)
    assert inner.finished is not None
    assert inner.finished.reason == "DeadlineExceeded"


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"name": "x", "steps": [call("a")]}, "spec.steps[0].workflow"),
        ({}, "spec.steps[0].workflow"),
        ({"steps": [call("a", needs=["b"])]}, "spec.steps[0].workflow.steps[0].needs[0]"),
        ({"steps": [{"name": "a"}]}, "spec.steps[0].workflow.steps[0]"),
        ({"steps": [{"name": "A", "call": {"entry": "m:f"}}]}, "spec.steps[0].workflow.steps[0]"),
        ({"steps": [call("a")], "result": "steps.b"}, "spec.steps[0].workflow.result"),
        ({"name": "x", "result": "1"}, "spec.steps[0].workflow.result"),
        (
            {"steps": [{"name": "c", "container": {"image": "x"}}]},
            "spec.steps[0].workflow.steps[0].container",
        ),
        ({"name": "x", "params": {"p": "${steps.b.output}"}}, "spec.steps[0].workflow.params.p"),
    ],
)
def test_what_is_wrong_inside_names_the_field_outside(body: dict[str, Any], field: str) -> None:
    spec = {"steps": [{"name": "w", "workflow": body}]}
    obj = {"apiVersion": API_VERSION, "kind": "Workflow", "metadata": {"name": "w"}, "spec": spec}
    problems = validate(obj)
    assert problems
    assert problems[0].field.startswith(field)


def test_steps_inside_of_steps_are_bounded() -> None:
    body: dict[str, Any] = call("a")
    for _ in range(MAX_DEPTH + 1):
        body = {"name": "w", "workflow": {"steps": [body]}}
    obj = {"apiVersion": API_VERSION, "kind": "Workflow", "metadata": {"name": "w"}}
    (problem,) = validate({**obj, "spec": {"steps": [body]}})
    assert f"nested at most {MAX_DEPTH} deep" in problem.expected


def test_every_type_takes_its_values_and_no_others() -> None:
    values = {
        "string": "x",
        "integer": 3,
        "number": 2.5,
        "boolean": True,
        "list": [1],
        "object": {"a": 1},
    }
    for form in values:
        types = {"p": ParamType.model_validate({"type": form})}
        for other, value in values.items():
            if form == other or (form, other) == ("number", "integer"):
                check_params(types, {"p": value})
            else:
                with pytest.raises(InvalidError):
                    check_params(types, {"p": value})
