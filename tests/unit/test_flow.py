"""Which way a run takes: branches, joins and what becomes of the steps beside the way."""

from __future__ import annotations

from typing import Any

import pytest

from seedbed.crds.failure import class_of
from seedbed.crds.graph_builder import graph_problems
from seedbed.crds.messages import StepError, StepKey, StepTask
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.records import StepFailed, StepSkipped, StepSucceeded
from seedbed.runtime.workflow.snapshot import shortest
from seedbed.runtime.workflow.state import RunState
from tests.runs import Clockwork, a_world, call, play, request


def names(clockwork: Clockwork) -> list[str]:
    return [name for name, _ in clockwork.executed]


def branch(name: str, condition: str, then: list[str], other: list[str], **fields: Any) -> Any:
    return {"name": name, "branch": {"when": condition, "then": then, "else": other}, **fields}


def fails(*steps: str) -> Any:
    """A behaviour: these steps fail, all others give their name."""

    def behave(task: StepTask) -> Any:
        if task.key.step in steps:
            return StepError("broken", f"{task.key} broke", retryable=False)
        return str(task.key)

    return behave


def diamond(*, urgent: bool) -> Any:
    return request(
        branch("b", "params.urgent", ["x"], ["z"]),
        call("x"),
        call("x2", needs=["x"]),
        call("z"),
        call("end", needs=["x2", "z"], args={"got": "${[steps.x2.output, steps.z.output]}"}),
        params={"urgent": urgent},
        result="steps.end.output",
    )


@pytest.mark.req("DSX-43")
@pytest.mark.parametrize(
    ("urgent", "executed", "arm", "skipped"),
    [
        (True, ["x", "x2", "end"], "then", ["z"]),
        (False, ["z", "end"], "else", ["x", "x2"]),
    ],
)
def test_a_branch_enters_one_arm_and_a_join_behind_both_runs(
    urgent: bool, executed: list[str], arm: str, skipped: list[str]
) -> None:
    run = play(diamond(urgent=urgent), fails())
    assert names(run) == executed
    assert run.state.told["b"] == {"output": arm, "error": None, "state": "Succeeded"}
    left_out = [record for record in run.journal if isinstance(record, StepSkipped)]
    assert [record.key.step for record in left_out] == skipped
    assert left_out[0].reason == f"b chose {arm}"
    assert all(record.reason == "all that it needs was skipped" for record in left_out[1:])
    assert run.state.finished is not None
    assert run.state.finished.phase == "Succeeded"


def test_branches_nest_and_an_arm_that_is_not_taken_takes_all_behind_it_along() -> None:
    plan = request(
        branch("outer", "false", ["inner"], []),
        branch("inner", "true", ["a"], ["c"]),
        call("a"),
        call("c"),
        call("behind", needs=["a", "c"]),
        call("beside"),
    )
    run = play(plan)
    assert names(run) == ["beside"]
    assert run.state.counts["skipped"] == 4
    assert run.state.finished is not None
    assert run.state.finished.phase == "Succeeded"


def test_a_step_of_an_arm_waits_for_its_other_needs_and_is_skipped_whatever_they_did() -> None:
    plan = request(call("first"), branch("b", "false", ["x"], []), call("x", needs=["first"]))
    assert names(play(plan)) == ["first"]
    plan = request(call("first"), branch("b", "true", ["x"], []), call("x", needs=["first"]))
    assert names(play(plan)) == ["first", "x"]


def test_a_branch_whose_condition_is_no_truth_fails_the_run_and_names_the_field() -> None:
    run = play(request(branch("b", "params.n", ["x"], []), call("x"), params={"n": 3}))
    assert run.executed == []
    assert run.state.finished is not None
    assert "spec.steps[0].branch.when: must give true or false" in run.state.finished.message


def test_a_branch_that_is_left_out_enters_no_arm() -> None:
    plan = request(branch("b", "true", ["x"], ["y"], when="false"), call("x"), call("y"), call("z"))
    assert names(play(plan)) == ["z"]


def joining(join: Any, **fields: Any) -> Any:
    """Three needs, the first of which is slow: it stays in a worker's hands."""
    return request(
        call("slow"),
        call("a", allowFailure=True),
        call("b", allowFailure=True),
        call("j", needs=["slow", "a", "b"], join=join, **fields),
    )


@pytest.mark.parametrize(
    ("join", "failing", "starts_after"),
    [
        ("any", (), ["a"]),
        ("any", ("a",), ["a", "b"]),
        (2, (), ["a", "b"]),
        ("any", ("a", "b"), ["a", "b", "slow"]),
        ("all", ("a",), ["a", "b", "slow"]),
    ],
)
def test_a_join_starts_as_soon_as_enough_needs_have_succeeded(
    join: Any, failing: tuple[str, ...], starts_after: list[str]
) -> None:
    world = a_world()
    run = Clockwork(RunState(joining(join), world.hands), world, fails(*failing))
    run.advance()
    for name in starts_after:
        assert StepKey("j") not in run.state.scheduled
        run.execute(StepKey(name))
        run.advance()
    assert StepKey("j") in run.state.scheduled
    # What ends late does no harm.
    run.to_the_end()
    assert names(run).count("j") == 1
    assert run.state.finished is not None
    assert run.state.finished.phase == "Succeeded"


def test_a_join_sees_the_needs_that_have_not_ended() -> None:
    plan = joining("any", args={"slow": "${steps.slow.state}", "a": "${steps.a.output}"})
    world = a_world()
    run = Clockwork(RunState(plan, world.hands), world, fails())
    run.advance()
    run.execute(StepKey("a"))
    run.advance()
    task = run.state.task(run.state.scheduled[StepKey("j")])
    assert task.inputs == {"slow": "Pending", "a": "a"}


def test_a_join_that_can_no_longer_be_met_fails_at_once() -> None:
    world = a_world()
    run = Clockwork(RunState(joining(3), world.hands), world, fails("b"))
    run.advance()
    run.execute(StepKey("b"))
    run.advance()
    (failure,) = [
        each for each in run.journal if isinstance(each, StepFailed) and each.key.step == "j"
    ]
    assert failure.error.code == "join_impossible"
    assert run.state.finished is not None
    assert run.state.finished.phase == "Failed"


def test_a_join_behind_arms_counts_the_arm_that_was_taken() -> None:
    plan = request(
        branch("b", "false", ["x"], ["z"]),
        call("x"),
        call("z"),
        call("j", needs=["x", "z"], join="any"),
        branch("no", "false", ["p", "q"], []),
        call("p"),
        call("q"),
        call("k", needs=["p", "q"], join="any"),
    )
    run = play(plan)
    assert names(run) == ["z", "j"]
    assert run.state.told["k"]["state"] == "Skipped"


@pytest.mark.parametrize(
    ("steps", "field", "says"),
    [
        ([branch("b", "true", ["x"], [])], "spec.steps[0].branch.then[0]", "no step `x`"),
        ([branch("b", "true", ["b"], [])], "spec.steps[0].branch.then[0]", "cannot enter itself"),
        (
            [branch("b", "true", ["x"], ["x"]), call("x")],
            "spec.steps[0].branch.else[0]",
            "is entered by spec.steps[0].branch.then[0] already",
        ),
        (
            [branch("b", "true", ["x"], [], needs=["x"]), call("x")],
            "spec.steps[0].needs",
            "wait for each other: b → x → b",
        ),
        (
            [branch("b", "true", ["x"], [], timeout="1s"), call("x")],
            "spec.steps[0].timeout",
            "no meaning for a branch",
        ),
        ([branch("b", "nothing", ["x"], []), call("x")], "spec.steps[0].branch.when", "unknown"),
        (
            [branch("b", "steps.y.output", ["x"], []), call("x")],
            "spec.steps[0].branch.when",
            "no step `y`",
        ),
        (
            [call("a"), call("j", needs=["a"], join=2)],
            "spec.steps[1].join",
            "1 needs, 2 cannot succeed",
        ),
        ([call("j", join="any")], "spec.steps[0].join", "0 needs"),
    ],
)
def test_what_cannot_flow_is_refused_with_its_field(
    steps: list[Any], field: str, says: str
) -> None:
    problems = graph_problems(WorkflowSpec.model_validate({"steps": steps}))
    assert [(problem.field, says in problem.expected) for problem in problems] == [(field, True)]


def after(name: str, **fields: Any) -> Any:
    """A step that tells what it sees of an earlier one."""
    args = {"out": f"${{steps.{name}.output}}", "why": f"${{steps.{name}.error}}"}
    return call("after", needs=[name], args={**args, "state": f"${{steps.{name}.state}}"}, **fields)


def telling(*broken: str) -> Any:
    def behave(task: StepTask) -> Any:
        if task.key.step in broken:
            return StepError("broken", "it broke", retryable=False)
        return task.inputs if task.key.step == "after" else task.key.step

    return behave


WHY = {"code": "broken", "class": "unknown_error", "message": "it broke"}


@pytest.mark.req("DSX-44")
@pytest.mark.parametrize(
    ("policy", "sees", "phase", "reason"),
    [
        ({"action": "fail"}, None, "Failed", "StepFailed"),
        ({"action": "abort"}, None, "Failed", "Aborted"),
        ({"action": "continue"}, {"out": None, "why": WHY, "state": "Failed"}, "Succeeded", None),
        ({"action": "skip"}, {"out": None, "why": WHY, "state": "Skipped"}, "Succeeded", None),
        (
            {"action": "fallback", "step": "spare"},
            {"out": "spare", "why": WHY, "state": "Succeeded"},
            "Succeeded",
            None,
        ),
    ],
)
def test_a_step_that_fails_follows_its_policy(
    policy: dict[str, Any], sees: Any, phase: str, reason: str | None
) -> None:
    steps = [call("a", onError=policy), after("a")]
    if "step" in policy:
        steps.append(call("spare"))
    run = play(request(*steps), telling("a"))
    finished = run.state.finished
    assert finished is not None
    assert (finished.phase, finished.reason) == (phase, reason or "Succeeded")
    assert (run.state.told["after"]["output"] if sees else None) == sees
    # What went well before stays readable, and what failed says what followed.
    (failure,) = [record for record in run.journal if isinstance(record, StepFailed)]
    assert failure.then == policy["action"]


def test_a_fallback_is_skipped_where_it_is_not_needed_and_is_no_result_of_its_own() -> None:
    plan = request(
        call("a", onError={"action": "fallback", "step": "spare"}), call("spare"), after("spare")
    )
    run = play(request(*plan.spec["steps"][:2]), telling())
    assert names(run) == ["a"]
    assert run.state.finished is not None
    assert run.state.finished.result == "a"
    behind = play(plan, telling())
    assert behind.state.told["after"]["state"] == "Skipped"


@pytest.mark.parametrize(
    ("spare", "broken", "phase", "state"),
    [
        ({}, ("a", "spare"), "Failed", None),
        ({"allowFailure": True}, ("a", "spare"), "Succeeded", "Failed"),
        ({"onError": {"action": "skip"}}, ("a", "spare"), "Succeeded", "Skipped"),
        (
            {"onError": {"action": "fallback", "step": "last"}},
            ("a", "spare"),
            "Succeeded",
            "Succeeded",
        ),
        ({"when": "false"}, ("a",), "Failed", None),
    ],
)
def test_what_becomes_of_the_fallback_becomes_of_the_step(
    spare: dict[str, Any], broken: tuple[str, ...], phase: str, state: str | None
) -> None:
    plan = request(
        call("a", onError={"action": "fallback", "step": "spare"}),
        call("spare", needs=["slow"], **spare),
        call("slow"),
        call("last") if "onError" in spare and "step" in spare["onError"] else call("other"),
        after("a"),
    )
    run = play(plan, telling(*broken))
    assert run.state.finished is not None
    assert run.state.finished.phase == phase
    if state is not None:
        assert run.state.told["a"]["state"] == state
        assert run.state.told["after"]["output"]["state"] == state


@pytest.mark.parametrize("ends_well", [True, False])
def test_a_chain_of_fallbacks_may_be_longer_than_calls_can_be_nested(*, ends_well: bool) -> None:
    links = 500
    plan = request(
        *(
            call(f"s{at}", onError={"action": "fallback", "step": f"s{at + 1}"})
            for at in range(links)
        ),
        call(f"s{links}"),
    )
    run = play(plan, fails(*(f"s{at}" for at in range(links + (not ends_well)))))
    assert run.state.finished is not None
    assert run.state.finished.phase == ("Succeeded" if ends_well else "Failed")
    assert {told["state"] for told in run.state.told.values()} == {
        "Succeeded" if ends_well else "Failed"
    }


def test_a_fallback_sees_the_failure_that_it_stands_in_for_also_after_a_restart() -> None:
    args = {"why": "${steps.a.error.message}", "was": "${steps.a.state}"}
    plan = request(
        call("a", onError={"action": "fallback", "step": "b"}),
        call("b", args=args, when="has(steps.a.error.code)", retry={"attempts": 2}),
        call("other"),
    )
    seen: list[Any] = []

    def behave(task: StepTask) -> Any:
        seen.append(task.inputs)
        wrong = StepError("broken", "it broke", retryable=False)
        return wrong if task.key.step == "a" else task.inputs

    for restarted in (True, False):
        world = a_world()
        run = Clockwork(RunState(plan, world.hands), world, behave)
        run.advance()
        run.execute(StepKey("a"))
        if restarted:
            again = RunState(plan)
            for record in shortest(run.state):
                again.apply(record)
            run.state = again
        run.to_the_end()
        assert run.state.told["a"]["output"] == {"why": "it broke", "was": "Failed"}


def test_a_policy_of_the_workflow_holds_for_steps_that_have_none() -> None:
    plan = request(call("a"), call("b", needs=["a"]), onError={"action": "continue"})
    assert names(play(plan, telling("a"))) == ["a", "b"]
    plan = request(
        call("a", onError={"action": "fail"}), call("b", needs=["a"]), onError={"action": "skip"}
    )
    assert names(play(plan, telling("a"))) == ["a"]


@pytest.mark.req("DSX-31")
@pytest.mark.req("COG-7.1.2")
@pytest.mark.parametrize(
    ("on", "error", "attempts"),
    [
        ((), StepError("anything", ""), 6),
        ((), StepError("anything", "", retryable=False), 1),
        (("timeout_error",), StepError("timeout", ""), 6),
        (("timeout_error",), StepError("unavailable", ""), 1),
        (("connection_error",), StepError("unavailable", ""), 6),
        (("connection_error",), StepError("entry_failed", "", category="connection_error"), 6),
        (("python_execution_error",), StepError("entry_failed", ""), 6),
        (("unknown_error",), StepError("answer_malformed", ""), 6),
        (("answer_malformed",), StepError("answer_malformed", ""), 6),
        (("answer_malformed",), StepError("answer_malformed", "", retryable=False), 1),
    ],
)
def test_only_errors_of_the_named_classes_are_retried_at_most_five_times(
    on: tuple[str, ...], error: StepError, attempts: int
) -> None:
    retry = {"attempts": 6, "backoff": "1s", "maxBackoff": "1h", "on": list(on)}
    run = play(request(call("a", retry=retry)), lambda _: error)
    assert len(run.executed) == attempts
    failures = [record for record in run.journal if isinstance(record, StepFailed)]
    waits = [record.retry_at - record.at for record in failures if record.retry_at is not None]
    assert waits == sorted(waits)
    assert all(2 * before < after for before, after in zip(waits, waits[2:], strict=False))


@pytest.mark.req("SNK-23")
@pytest.mark.parametrize(
    ("code", "kind", "expected"),
    [
        ("timeout", "", "timeout_error"),
        ("connection_error", "", "connection_error"),
        ("python_error", "", "python_execution_error"),
        ("anything else", "", "unknown_error"),
        ("unavailable", "", "connection_error"),
        ("entry_failed", "ValueError", "python_execution_error"),
        ("entry_failed", "ConnectionResetError", "connection_error"),
        ("entry_failed", "ReadTimeout", "timeout_error"),
        ("internal", "KeyError", "python_execution_error"),
    ],
)
def test_every_error_has_one_class(code: str, kind: str, expected: str) -> None:
    assert class_of(code, kind) == expected


@pytest.mark.parametrize(
    ("steps", "field", "says"),
    [
        (
            [call("a", onError={"action": "fallback", "step": "x"})],
            "spec.steps[0].onError.step",
            "no step `x`",
        ),
        (
            [call("a", onError={"action": "fallback"})],
            "spec.steps[0].onError",
            "names a step where its action is fallback",
        ),
        (
            [call("a", onError={"action": "skip"}, allowFailure=True)],
            "spec.steps[0].allowFailure",
            "write one of them",
        ),
        (
            [
                call("a", onError={"action": "fallback", "step": "f"}),
                call("b", needs=["a"]),
                call("f", needs=["b"]),
            ],
            "spec.steps[1].needs",
            "wait for each other: b → a → f → b",
        ),
        (
            [
                call("a", onError={"action": "fallback", "step": "b"}),
                call("b", onError={"action": "fallback", "step": "c"}),
                call("c", args={"x": "${steps.a.output}"}),
            ],
            "spec.steps[2].needs",
            "wait for each other: c → a → b → c",
        ),
        (
            [
                call("a", onError={"action": "fallback", "step": "b"}),
                call("b", onError={"action": "fallback", "step": "c"}),
                call("c", needs=["x"]),
                call("x", needs=["a"]),
            ],
            "spec.steps[2].needs",
            "wait for each other: c → x → a → b → c",
        ),
        (
            [
                call("a", onError={"action": "fallback", "step": "b"}),
                call("b", needs=["a"], join="any"),
            ],
            "spec.steps[1].join",
            "the step has 0 needs, 1 cannot succeed",
        ),
        (
            [call("a", forEach="[1]", onError={"action": "fallback", "step": "f"}), call("f")],
            "spec.steps[0].onError.action",
            "forEach",
        ),
        (
            [call("a", retry={"on": ["time_error"]})],
            "spec.steps[0].retry.on[0]",
            "did you mean `timeout_error`?",
        ),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(
    steps: list[Any], field: str, says: str
) -> None:
    problems = graph_problems(WorkflowSpec.model_validate({"steps": steps}))
    assert [(problem.field, says in problem.expected) for problem in problems] == [(field, True)]


def guess(arm: str, confidence: float = 0.9, **fields: Any) -> dict[str, Any]:
    return {"speculate": {"arm": arm, "confidence": confidence, **fields}}


def guessing(*, urgent: bool, confidence: float = 0.9, **fields: Any) -> Any:
    """A slow judgement, and an arm that costs nothing to start before it."""
    chooses = branch("b", "steps.judge.output == 'judge' && params.urgent", ["x", "y"], ["z"])
    chooses["branch"] |= guess("then", confidence)
    return request(
        call("judge"),
        call("base"),
        chooses,
        call("x", pure=True, needs=["base"], args={"got": "${steps.base.output}"}, **fields),
        call("y", needs=["base"]),
        call("z"),
        call("behind", needs=["x"]),
        params={"urgent": urgent},
    )


def until_only_the_judge_is_left(plan: Any, behave: Any = None) -> Clockwork:
    world = a_world()
    run = Clockwork(RunState(plan, world.hands), world, behave or fails())
    run.advance()
    while busy := [key for key in run.state.scheduled if key.step != "judge"]:
        run.execute(busy[0])
        run.advance()
    return run


@pytest.mark.req("COG-2.2.2")
def test_an_expected_arm_is_done_before_the_branch_has_decided_and_counts_then() -> None:
    run = until_only_the_judge_is_left(guessing(urgent=True))
    # The pure step is done while the judgement is still awaited; nobody has seen its result.
    assert names(run) == ["base", "x"]
    assert set(run.state.told) == {"base"}
    assert not any(isinstance(r, StepSucceeded) and r.key.step == "x" for r in run.journal)
    run.to_the_end()
    assert names(run) == ["base", "x", "judge", "y", "behind"]
    assert run.state.told["x"]["state"] == "Succeeded"
    assert run.state.finished is not None
    assert run.state.finished.phase == "Succeeded"


@pytest.mark.req("COG-2.2.2")
def test_what_a_wrong_guess_has_done_is_never_seen() -> None:
    run = until_only_the_judge_is_left(guessing(urgent=False))
    run.to_the_end()
    assert names(run) == ["base", "x", "judge", "z"]
    assert run.state.told["x"] == {"output": None, "error": None, "state": "Skipped"}
    assert run.state.told["behind"]["state"] == "Skipped"
    assert run.state.kept == {}
    assert not any(isinstance(r, StepSucceeded) and r.key.step == "x" for r in run.journal)
    assert run.state.counts["running"] == 0


def test_a_step_that_still_runs_when_its_branch_decides_counts_or_is_dropped() -> None:
    for urgent in (True, False):
        world = a_world()
        run = Clockwork(RunState(guessing(urgent=urgent), world.hands), world, fails())
        run.advance()
        run.execute(StepKey("base"))
        run.advance()
        assert StepKey("x") in run.state.scheduled
        run.execute(StepKey("judge"))
        run.advance()
        assert (StepKey("x") in run.state.scheduled) is urgent
        run.to_the_end()
        assert names(run).count("x") == (1 if urgent else 0)


def test_below_the_least_confidence_nothing_starts_early() -> None:
    run = until_only_the_judge_is_left(guessing(urgent=True, confidence=0.79))
    assert names(run) == ["base"]
    run.to_the_end()
    assert names(run) == ["base", "judge", "x", "y", "behind"]


def test_a_failure_that_came_early_is_not_seen_and_the_step_has_its_turn() -> None:
    def behave(task: StepTask) -> Any:
        if task.key.step == "x" and task.attempt == 1:
            return StepError("broken", "too early", retryable=False)
        return str(task.key)

    run = until_only_the_judge_is_left(guessing(urgent=True), behave)
    assert run.state.failed is None
    run.to_the_end()
    assert [attempt for attempt in run.executed if attempt[0] == "x"] == [("x", 1), ("x", 2)]
    assert run.state.told["x"]["error"] is None


def test_early_steps_stand_behind_those_that_are_needed() -> None:
    plan = guessing(urgent=True)
    plan.spec["steps"].append(call("sure", needs=["base"]))
    plan.spec["parallelism"] = 2
    world = a_world()
    run = Clockwork(RunState(plan, world.hands), world, fails())
    run.advance()
    run.execute(StepKey("base"))
    run.advance()
    assert [key.step for key in run.state.scheduled] == ["judge", "sure"]


@pytest.mark.parametrize("fields", [{"pure": False}, {"when": "true"}, {"forEach": "[1]"}])
def test_a_guess_that_could_start_nothing_is_refused(fields: dict[str, Any]) -> None:
    chooses = branch("b", "params.u", ["x"], [])
    chooses["branch"] |= guess("then")
    spec = {"steps": [chooses, call("x", **{"pure": True, **fields})], "params": {"u": True}}
    (problem,) = graph_problems(WorkflowSpec.model_validate(spec))
    assert problem.field == "spec.steps[0].branch.speculate"
