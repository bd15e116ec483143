"""The guide to planning: what it says of its examples is so."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from typer.main import get_command

from seedbed.cli.main import app
from seedbed.crds.messages import RunRequest
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.worker.goals import take_apart
from seedbed.runtime.workflow.decide import accept
from seedbed.runtime.workflow.nesting import child_request, result_of
from seedbed.runtime.workflow.planning.critical_path import bottlenecks
from seedbed.runtime.workflow.planning.insight import of_plan
from seedbed.runtime.workflow.planning.optimise import optimise
from seedbed.runtime.workflow.state import RunState
from tests.conftest import run_async
from tests.runs import Clockwork, a_world, play

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "guides" / "planning.md").read_text()
EXAMPLES = {
    found["metadata"]["name"]: WorkflowSpec.model_validate(found["spec"])
    for found in map(yaml.safe_load, re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL))
}


def test_the_critical_path_of_the_example() -> None:
    found = of_plan(EXAMPLES["nightly"])
    names = found.plan.names
    assert [names[step] for step in found.critical.path] == ["collect", "index", "report"]
    assert found.critical.seconds == found.rest.seconds == 60.0
    assert found.critical.slack[names.index("check")] == 35.0
    gains = {names[one.step]: one.gain for one in bottlenecks(found.critical)}
    assert gains["index"] == 35.0


def test_the_shorter_plan_of_the_example() -> None:
    found = optimise(EXAMPLES["release"])
    assert (found.before, found.after) == (16.0, 10.0)


def test_the_goal_of_the_example_is_taken_apart_and_done() -> None:
    def behave(task: Any) -> Any:
        return run_async(take_apart(task, "")) if "goal" in task.program else task.inputs

    spec = EXAMPLES["build-house"].model_dump(mode="json", by_alias=True)
    state = play(RunRequest("run", "team", "build-house", spec), behave).state
    assert state.finished is not None
    done = ["Plan the roof", "Make the roof", "Plan the wall", "Make the wall", "Inspect house"]
    assert sorted(state.finished.result) == sorted(done)


def test_the_goal_of_the_example_is_carried_out_in_its_order() -> None:
    spec = EXAMPLES["move-house"].model_dump(mode="json", by_alias=True)
    state = RunState(RunRequest("run", "team", "move-house", spec))
    clockwork = Clockwork(state, a_world(), lambda task: run_async(take_apart(task, "")))
    clockwork.turn()
    clockwork.advance()
    (unit,) = state.scheduled.values()
    child = Clockwork(RunState(child_request(state, unit)), a_world(), lambda task: task.inputs)
    found = child.to_the_end().finished
    assert found is not None
    assert [(one["task"], one["knows"]) for one in found.result] == [
        ("Pack the kitchen", []),
        ("Pack the books", []),
        ("Drive", ["Pack the kitchen", "Pack the books"]),
        ("Unpack", ["Drive"]),
    ]
    times = (clockwork.now, clockwork.now)
    ended = result_of(child.state.request, "Succeeded", "", "", found.result, times)
    accept(state, ended, clockwork.now)
    clockwork.advance()
    assert state.finished is not None
    assert state.finished.result == [one["task"] for one in found.result]


def test_every_command_of_the_guide_exists() -> None:
    commands = getattr(get_command(app), "commands", {})
    named = set(re.findall(r"`seedbed ([a-z-]+)", GUIDE)) - {"run"}
    assert {"critical-path", "profile", "graph", "optimise", "decompose", "tree"} <= named
    assert named <= set(commands)
