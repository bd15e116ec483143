"""Goal steps: refused where they cannot work, run by a worker, their leaves done by a forEach."""

from __future__ import annotations

from typing import Any, cast

import pytest

from seedbed.crds.errors import InvalidError
from seedbed.crds.graph import Graph
from seedbed.crds.messages import StepKey, StepTask
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.worker.goals import take_apart
from tests.conftest import run_async
from tests.planning_model import PlanningModel, serving
from tests.runs import call, play, request

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
    assert [problem.field for problem in Graph.problems(spec)] == [field]


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
