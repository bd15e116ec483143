"""The guide to workflows: every Workflow on it runs, and comes out as the page says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from seedbed.crds.admission import validate
from seedbed.crds.messages import RunRequest, StepError, StepTask
from seedbed.runtime.workflow.state import RunState
from tests.runs import Clockwork, a_world

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "workflows.md"
MANIFESTS: dict[str, Any] = {
    manifest["metadata"]["name"]: manifest
    for text in re.findall(r"```yaml\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    for manifest in yaml.safe_load_all(text)
    if manifest["kind"] == "Workflow"
}
LATE = StepError("timeout", "not done within 5 s")
BROKEN = StepError("entry_failed", "no money", retryable=False)

# Steps that fail or give something of their own, the reason and the result of the run, and who was executed, in order.
RUNS: dict[str, tuple[dict[str, Any], str, Any, list[str]]] = {
    "branch": ({}, "Succeeded", "then", ["page", "report"]),
    "speculate": ({}, "Succeeded", "To: Please call back", ["judge", "draft"]),
    "join": (
        {},
        "Succeeded",
        {"late": "Pending"},
        ["mirror-a", "mirror-b", "mirror-c", "compare"],
    ),
    "loop": ({}, "Succeeded", "xxx", ["improve", "improve", "improve"]),
    "approve": ({}, "Succeeded", "kim@example.com", ["draft", "send"]),
    "wait": ({}, "Succeeded", None, []),
    "stragglers": ({}, "Succeeded", 12, [f"each[{at}]" for at in range(12)]),
    "fallback": (
        {"ask-the-large-model": LATE},
        "Succeeded",
        {"answer": "small", "because": "timeout_error"},
        [*["ask-the-large-model"] * 3, "ask-the-small-model", "show"],
    ),
    "replan": (
        {"fetch": LATE, "parse": BROKEN},
        "Succeeded",
        {"page": 7},
        ["fetch", "fetch", "fetch", "parse", "parse"],
    ),
    "compensate": (
        {"pay": BROKEN},
        "Compensated",
        None,
        ["book-flight", "book-hotel", "pay", "book-hotel:compensate", "book-flight:compensate"],
    ),
    "follow": ({"pages": ["a", "b"]}, "Succeeded", 2, ["pages", "read[0]", "read[1]"]),
    "nightly-sweep": ({}, "Succeeded", 200, [f"sweep[{at}]" for at in range(200)]),
    "on-exit": ({}, "Succeeded", 3, ["work", "tell", "clean"]),
}


@pytest.mark.parametrize("name", MANIFESTS)
def test_an_example_runs_as_the_guide_says(name: str) -> None:
    manifest = MANIFESTS[name]
    assert validate(manifest) == []
    failing, reason, result, executed = RUNS[name]

    def behave(task: StepTask) -> Any:
        if task.key in run.state.revisions:  # it goes well in another way
            return task.inputs
        return failing.get(str(task.key), task.inputs)

    world = a_world("general", "spare", "shared")
    plan = RunRequest("run-1", "team", name, manifest["spec"])
    run = Clockwork(RunState(plan, world.hands), world, behave)
    run.to_the_end()
    finished = run.state.finished
    assert finished is not None
    assert (finished.reason, finished.result) == (reason, result)
    assert sorted(key for key, _ in run.executed) == sorted(executed)


def test_every_example_is_run() -> None:
    assert RUNS.keys() == MANIFESTS.keys()
