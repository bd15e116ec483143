"""Whether two plans mean the same: they are run, and what they do to the outside is compared."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import orjson

from seedbed.crds.graph_builder import build_graph
from seedbed.crds.messages import RunRequest, StepTask
from seedbed.crds.workflow import WorkflowSpec
from tests.runs import play


def effects_and_result(spec: WorkflowSpec) -> tuple[dict[str, Any], Any]:
    """Run a plan through the pure core: what its steps that are not pure were given, and the result.

    A step's output is a digest of what it does and is given, so that any change of an input shows in
    everything behind it.
    """
    pure = {step.name for step in spec.steps if step.pure}
    effects: dict[str, Any] = {}

    def behave(task: StepTask) -> Any:
        if task.key.step not in pure:
            assert str(task.key) not in effects
            effects[str(task.key)] = task.inputs
        told = orjson.dumps([task.program, task.inputs], option=orjson.OPT_SORT_KEYS)
        return hashlib.sha256(told).hexdigest()

    plan = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    state = play(RunRequest("run", "team", "plan", plan), behave).state
    assert state.finished is not None
    return effects, (state.finished.phase, state.finished.result)


def assert_same_meaning(
    before: WorkflowSpec, after: WorkflowSpec, merged: Mapping[str, str]
) -> None:
    """The same effects with the same inputs, the same result, and every effect as late as before.

    What came before a step that is not pure comes before it still, so that a failure stops the same
    effects and none is made on a state of the outside that was not there yet.
    """
    assert effects_and_result(before) == effects_and_result(after)
    old, new = _ancestors(before), _ancestors(after)
    for step in after.steps:
        if not step.pure:
            wanted = {merged.get(name, name) for name in old[step.name]}
            assert wanted <= new[step.name], step.name


def _ancestors(spec: WorkflowSpec) -> dict[str, set[str]]:
    graph = build_graph(spec)
    found: dict[str, set[str]] = {}
    for level in graph.levels:
        for name in level:
            needs = graph.nodes[name].needs
            found[name] = {*needs}.union(*(found[need] for need in needs))
    return found
