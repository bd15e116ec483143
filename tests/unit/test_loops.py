"""Steps that repeat until a condition over their own output holds."""

from __future__ import annotations

from typing import Any

import pytest

from seedbed.crds.graph_builder import graph_problems
from seedbed.crds.messages import StepError, StepTask
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.records import StepFailed, StepRepeated
from seedbed.runtime.workflow.summary import summarise
from tests.runs import call, play, request


def counting(task: StepTask) -> Any:
    """One more than the time before."""
    return (task.inputs.get("previous") or 0) + task.inputs.get("by", 1)


def loop(until: str, most: int = 10, **fields: Any) -> dict[str, Any]:
    repeat = {"until": until, "max": most, **fields.pop("repeat", {})}
    args = {"previous": "${previous}", **fields.pop("args", {})}
    return call("loop", args=args, repeat=repeat, **fields)


def test_a_step_repeats_until_its_condition_holds_and_its_last_output_counts() -> None:
    run = play(
        request(loop("output >= params.goal"), call("then", needs=["loop"]), params={"goal": 4}),
        counting,
    )
    assert run.state.told["loop"]["output"] == 4
    assert [name for name, _ in run.executed] == ["loop"] * 4 + ["then"]
    outputs = [record.output for record in run.journal if isinstance(record, StepRepeated)]
    assert outputs == [1, 2, 3]
    assert run.state.counts["total"] == 2


def test_each_iteration_sees_its_number_and_what_came_before() -> None:
    seen: list[Any] = []

    def behave(task: StepTask) -> Any:
        seen.append((task.inputs["n"], task.inputs["previous"], task.idempotency_key))
        return f"out-{task.inputs['n']}"

    play(request(loop("iteration == 2 || output == previous", args={"n": "${iteration}"})), behave)
    assert seen == [
        (0, None, "run-1/loop"),
        (1, "out-0", "run-1/loop#1"),
        (2, "out-1", "run-1/loop#2"),
    ]


def test_iterations_wait_their_delay() -> None:
    run = play(request(loop("output == 3", repeat={"delay": "30s"})), counting)
    assert run.now == 1000 + 60


@pytest.mark.parametrize(
    ("exhausted", "phase", "output"), [("fail", "Failed", None), ("continue", "Succeeded", 3)]
)
def test_a_loop_that_is_exhausted_follows_its_policy(
    exhausted: str, phase: str, output: int | None
) -> None:
    run = play(request(loop("false", 3, repeat={"exhausted": exhausted})), counting)
    assert len(run.executed) == 3
    assert summarise(run.state).phase == phase
    assert run.state.told["loop"]["output"] == output
    codes = [record.error.code for record in run.journal if isinstance(record, StepFailed)]
    assert codes == (["loop_exhausted"] if exhausted == "fail" else [])


def test_each_iteration_has_attempts_of_its_own() -> None:
    failed: set[str] = set()

    def behave(task: StepTask) -> Any:
        if task.idempotency_key not in failed:
            failed.add(task.idempotency_key)
            return StepError("broken", "not yet")
        return counting(task)

    run = play(request(loop("output == 3", retry={"attempts": 2, "backoff": "1s"})), behave)
    assert run.executed == [("loop", attempt) for attempt in range(1, 7)]
    waits = [r.retry_at - r.at for r in run.journal if isinstance(r, StepFailed) and r.retry_at]
    assert all(1 <= wait <= 1.25 for wait in waits)
    assert run.state.told["loop"]["output"] == 3


def test_the_items_of_a_for_each_repeat_on_their_own() -> None:
    plan = request(loop("output >= item", forEach="[1, 3, 2]"))
    run = play(plan, counting)
    assert run.state.told["loop"]["output"] == [1, 3, 2]
    assert len(run.executed) == 6


def test_a_condition_that_fails_fails_the_step_and_names_the_field() -> None:
    run = play(request(loop("output.nothing", retry={"attempts": 3})), counting)
    assert len(run.executed) == 1
    assert "spec.steps[0].repeat.until" in summarise(run.state).message


@pytest.mark.parametrize(
    ("step", "field", "says"),
    [
        (call("a", args={"x": "${previous}"}), "spec.steps[0].call.args.x", "has repeat"),
        (call("a", when="iteration > 1"), "spec.steps[0].when", "has repeat"),
        (
            loop("true", args={"x": "${output}"}),
            "spec.steps[0].call.args.x",
            "only in repeat.until",
        ),
        (loop("flag('x')"), "spec.steps[0].repeat.until", "cannot ask for flags"),
        (loop("item > 1"), "spec.steps[0].repeat.until", "forEach"),
        (
            {"name": "a", "wait": {"duration": "1s"}, "repeat": {"until": "true", "max": 2}},
            "spec.steps[0].repeat",
            "no meaning for a wait step",
        ),
    ],
)
def test_a_loop_that_cannot_be_is_refused(step: dict[str, Any], field: str, says: str) -> None:
    problems = graph_problems(WorkflowSpec.model_validate({"steps": [step]}))
    assert [(problem.field, says in problem.expected) for problem in problems] == [(field, True)]
