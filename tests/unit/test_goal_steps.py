"""Goal steps: refused where they cannot work, run by a worker, their leaves done by a forEach."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from seedbed.crds.engine_requests import Submit
from seedbed.crds.errors import InvalidError
from seedbed.crds.graph_builder import graph_problems
from seedbed.crds.messages import Parent, RunRequest, StepKey, StepResult, StepTask
from seedbed.crds.sub_workflow import MAX_DEPTH
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.worker.goals import take_apart
from seedbed.runtime.workflow.children import _running
from seedbed.runtime.workflow.decide import accept, advance
from seedbed.runtime.workflow.nesting import child_request, result_of
from seedbed.runtime.workflow.record_form import decode_records, encode_records
from seedbed.runtime.workflow.snapshot import shortest
from seedbed.runtime.workflow.state import RunState
from tests.conftest import run_async
from tests.planning_model import PlanningModel, serving
from tests.runs import Clockwork, a_world, call, play, request
from tests.small_engine import a_store, ask, until
from tests.small_engine import serving as engine

RULES = [
    {
        "goal": "Build the {part} of {what}",
        "into": [{"text": "{each} the {part}", "each": ["Plan", "Make"]}],
    },
    {
        "goal": "Build {what}",
        "into": [
            {"text": "Build the {each} of {what}", "each": ["roof", "wall"]},
            {"text": "Inspect {what}"},
        ],
    },
]


def plan(**goal: Any) -> dict[str, Any]:
    return {"name": "plan", "goal": {"text": "Build ${params.what}", **goal}}


def task(program: dict[str, Any], **inputs: Any) -> StepTask:
    return StepTask("r", "team", "w", StepKey("plan"), 1, "call", program, inputs, 60.0)


@pytest.mark.parametrize(
    ("goal", "field"),
    [
        ({}, "spec.steps[0].goal"),
        (
            {"rules": [{"goal": "Build {x}", "into": [{"text": "Make {y}"}]}]},
            "spec.steps[0].goal.rules[0].into[0].text",
        ),
        (
            {"rules": [{"goal": "{a}{b}{c}", "into": [{"text": "x"}]}]},
            "spec.steps[0].goal.rules[0].goal",
        ),
        ({"model": "m", "text": "Build ${steps.absent.output}"}, "spec.steps[0].goal.text"),
    ],
)
def test_a_goal_step_that_cannot_work_is_refused(goal: dict, field: str) -> None:
    spec = WorkflowSpec.model_validate({"steps": [plan(**goal)]})
    assert [problem.field for problem in graph_problems(spec)] == [field]


@pytest.mark.req("COG-4.1.1")
def test_a_worker_takes_the_goal_apart_and_each_leaf_is_done() -> None:
    does = call("do", forEach="steps.plan.output.leaves", args={"it": "${item.text}"})
    spec = request(plan(rules=RULES), does, params={"what": "house"}, result="steps.do.output")

    def behave(task: StepTask) -> Any:
        if task.key.step == "plan":
            return run_async(take_apart(task, ""))
        return task.inputs["it"]

    state = play(spec, behave).state
    assert state.finished is not None
    assert state.finished.phase == "Succeeded"
    done = ["Plan the roof", "Make the roof", "Plan the wall", "Make the wall"]
    assert sorted(state.finished.result) == sorted([*done, "Inspect house"])
    output = state.told["plan"]["output"]
    assert output["goal"] == "Build house"
    assert (output["depth"], output["calls"], output["cut"]) == (2, 0, "")
    assert output["tasks"][1] == {
        "id": 1,
        "parent": 0,
        "level": 1,
        "text": "Build the roof of house",
    }
    leaf = next(each for each in output["leaves"] if each["text"] == "Make the wall")
    assert leaf["above"] == ["Build house", "Build the wall of house"]


def test_a_model_is_asked_on_behalf_of_the_run() -> None:
    model = PlanningModel(width=2, levels=1, bushy=0)

    async def body() -> dict[str, Any]:
        async with serving(model) as session:
            gateway = str(cast("Any", session)._base_url)
            program = {"goal": {"model": "m", "maxDepth": 1}}
            return await take_apart(task(program, text="Build it"), gateway)

    output = run_async(body())
    assert len(output["leaves"]) == 2
    assert output["calls"] == 1
    (headers,) = model.headers
    assert headers["X-Seedbed-Namespace"] == "team"
    assert (headers["X-Seedbed-Workflow"], headers["X-Seedbed-Run"]) == ("w", "r")
    with pytest.raises(InvalidError, match="no model service"):
        run_async(take_apart(task({"goal": {"model": "m"}}, text="Build it"), ""))


HOUSE = [
    RULES[0],
    {
        "goal": "Build {what}",
        "into": [
            {"text": "Build the {each} of {what}", "each": ["roof", "wall"]},
            {"text": "Inspect {what}", "after": True},
            {"text": "Praise {what}"},
        ],
    },
]


def work(**fields: Any) -> dict[str, Any]:
    args = {"it": "${item.text}", "seen": "${previous}"}
    return {
        "step": {"call": {"entry": "steps:do", "args": args}, **fields.pop("step", {})},
        **fields,
    }


def child_of(state: RunState) -> RunState:
    """The run that does the work of the one scheduled unit."""
    (unit,) = state.scheduled.values()
    assert unit.task is not None
    assert unit.task.kind == "workflow"
    return RunState(child_request(state, unit))


def planned(spec: RunRequest) -> RunState:
    """A run whose goal step has its tree, journalled and read again."""
    state, records = RunState(spec), advance(RunState(spec), 1.0, a_world())
    for record in records:
        state.apply(record)
    (unit,) = state.scheduled.values()
    output = run_async(take_apart(state.task(unit), ""))
    records = accept(state, StepResult(spec.run, unit.key, 1, "w", output), 2.0)
    records += advance(state, 2.0, a_world())
    assert [type(record).__name__ for record in records] == ["StepRepeated", "StepScheduled"]
    return state


def test_the_leaves_of_a_tree_wait_for_the_stage_before() -> None:
    output = run_async(take_apart(task({"goal": {"rules": HOUSE}}, text="Build house"), ""))
    leaves = [(leaf["text"], leaf.get("after")) for leaf in output["leaves"]]
    assert leaves == [
        ("Plan the roof", None),
        ("Make the roof", None),
        ("Plan the wall", None),
        ("Make the wall", None),
        ("Inspect house", [[0, 4]]),
        ("Praise house", [[0, 4]]),
    ]
    program = {"goal": {"rules": HOUSE, "order": "Sequence"}}
    output = run_async(take_apart(task(program, text="Build house"), ""))
    afters = [leaf.get("after") for leaf in output["leaves"]]
    assert afters == [None, [[0, 1]], [[0, 2]], [[2, 3]], [[2, 4]], [[4, 5]]]


@pytest.mark.req("COG-4.1.1")
def test_an_executed_goal_is_taken_apart_once_and_its_leaves_are_done_by_a_child() -> None:
    goal = plan(rules=HOUSE, execute=work())
    spec = request(goal, params={"what": "house"}, result="steps.plan.output")
    state = planned(spec)
    child = child_of(state)
    assert child.request.parent == Parent(spec.run, StepKey("plan"), 2, ("plan",), None)
    done = Clockwork(child, a_world(), lambda task: task.inputs)
    result = done.to_the_end().finished
    assert result is not None
    assert [each["it"] for each in result.result][-2:] == ["Inspect house", "Praise house"]
    assert [each["it"] for each in result.result[4]["seen"]] == [
        "Plan the roof",
        "Make the roof",
        "Plan the wall",
        "Make the wall",
    ]
    accept(state, result_of(child.request, "Succeeded", "", "", result.result, (2.0, 3.0)), 3.0)
    advance(state, 3.0, a_world())
    assert state.finished is not None
    assert state.finished.result == result.result


@pytest.mark.req("COG-4.1.1")
def test_a_restart_asks_for_the_same_child_with_the_same_tree() -> None:
    spec = request(plan(rules=HOUSE, execute=work()), params={"what": "house"})
    state = planned(spec)
    again = RunState(spec)
    encoded = encode_records(shortest(state))
    for record in decode_records(encoded.data, encoded.values):
        again.apply(record)
    assert advance(again, 3.0, a_world()) == []
    assert child_of(again).request == child_of(state).request
    assert list(_running(again)) == list(again.scheduled.values())


def test_a_retry_does_the_work_again_and_keeps_the_tree() -> None:
    goal = plan(rules=HOUSE, execute=work()) | {"retry": {"attempts": 2, "backoff": "1s"}}
    state = planned(request(goal, params={"what": "house"}))
    first = child_of(state).request
    for now, left in ((3.0, True), (30.0, False)):
        child = child_of(state).request
        accept(state, result_of(child, "Failed", "StepFailed", "no", None, (2.0, now)), now)
        advance(state, now + 10.0, a_world())
        assert (state.finished is None) is left
    assert child.run != first.run
    assert child.spec == first.spec


def test_executed_goals_are_nested_as_deep_as_workflows() -> None:
    spec = request(plan(rules=HOUSE, execute=work()), params={"what": "house"})
    parent = Parent("above", StepKey("x"), 1, tuple(f"w{n}" for n in range(MAX_DEPTH - 1)))
    state = RunState(replace(spec, parent=parent))
    clockwork = Clockwork(state, a_world(), lambda task: run_async(take_apart(task, "")))
    end = clockwork.to_the_end().finished
    assert end is not None
    assert "nested at most 10 deep" in end.message


@pytest.mark.parametrize(
    ("execute", "field"),
    [
        ({"step": {}}, "execute.step"),
        (work(step={"name": "x"}), "execute.step.name"),
        (work(step={"forEach": "[1]"}), "execute.step.forEach"),
        (
            work(step={"call": {"entry": "a:b", "args": {"x": "${steps.plan}"}}}),
            "execute.step.call.args.x",
        ),
        (work(step={"when": "previous"}), "execute.step.when"),
        (work(result="steps.other.output"), "execute.result"),
        ({"step": {"container": {"image": "busybox"}}}, "execute.step.container"),
    ],
)
def test_work_that_cannot_be_done_is_refused(execute: dict[str, Any], field: str) -> None:
    spec = WorkflowSpec.model_validate({"steps": [plan(rules=RULES, execute=execute)]})
    assert [problem.field for problem in graph_problems(spec)] == [f"spec.steps[0].goal.{field}"]
    repeated = plan(rules=RULES, execute=work()) | {"repeat": {"until": "true", "max": 2}}
    spec = WorkflowSpec.model_validate({"steps": [repeated]})
    assert [problem.field for problem in graph_problems(spec)] == ["spec.steps[0].repeat"]


def test_a_run_with_an_executed_goal_in_the_engine(tmp_path: Path) -> None:
    """Worker, journal and child together; the engine is killed while the child runs."""
    inner = {
        "call": {
            "entry": "tests.steps:note",
            "args": {"folder": str(tmp_path), "label": "${item.text}", "wait": 0.05},
        }
    }
    goal = plan(rules=HOUSE, order="Sequence", execute={"step": inner})
    spec = request(goal, params={"what": "house"}, result="steps.plan.output")

    def executed() -> list[str]:
        file = tmp_path / "executed"
        return file.read_text().splitlines() if file.exists() else []

    async def body() -> None:
        async with asyncio.timeout(40), a_store(tmp_path) as store:
            async with engine(store) as bus:
                await ask(bus, spec.run, Submit(spec))
                while len(executed()) < 2:
                    await asyncio.sleep(0.01)
            async with engine(store, start=1) as bus:
                found = await until(bus, spec.run)
            assert found.phase == "Succeeded"
            assert found.result == [
                "Plan the roof",
                "Make the roof",
                "Plan the wall",
                "Make the wall",
                "Inspect house",
                "Praise house",
            ]
            runs = {key.partition("/")[0] for key in executed()}
            assert len(runs) == 1, "one child"
            assert len(set(executed())) == 6

    run_async(body())
