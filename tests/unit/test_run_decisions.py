"""What a run decides, rule by rule, without any server or clock."""

from __future__ import annotations

from typing import Any

import pytest

from seedbed.crds.errors import InvalidError
from seedbed.crds.failure import Retry
from seedbed.crds.messages import VALUE_LIMIT, StepError, StepKey, StepResult, StepTask
from seedbed.runtime.coordination.port import Change
from seedbed.runtime.workflow.decide import accept, adjust, advance
from seedbed.runtime.workflow.ending import cancel
from seedbed.runtime.workflow.failures import backoff
from seedbed.runtime.workflow.records import (
    RunAdjusted,
    RunFinished,
    RunHeld,
    StepExpanded,
    StepFailed,
    StepScheduled,
)
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.summary import summarise
from tests.runs import Clockwork, a_world, call, play, request, set_agent, set_pool


def names(clockwork: Clockwork) -> list[str]:
    return [name for name, _ in clockwork.executed]


def test_a_step_starts_when_all_it_needs_has_ended() -> None:
    run = play(
        request(
            call("d", needs=["b", "c"]),
            call("b", needs=["a"]),
            call("c", args={"x": "${steps.a.output.v}"}),
            call("a", args={"v": 1}),
            result="steps.c.output.x",
        )
    )
    assert names(run) == ["a", "b", "c", "d"]
    assert run.state.finished is not None
    assert (run.state.finished.phase, run.state.finished.result) == ("Succeeded", 1)


def test_without_a_result_expression_the_last_steps_are_the_result() -> None:
    one = play(request(call("a", args={"v": 1})))
    two = play(request(call("a", args={"v": 1}), call("b", args={"v": 2})))
    assert one.state.finished is not None
    assert one.state.finished.result == {"v": 1}
    assert two.state.finished is not None
    assert two.state.finished.result == {"a": {"v": 1}, "b": {"v": 2}}


def test_for_each_runs_once_per_item_and_keeps_the_order() -> None:
    plan = request(
        call("each", forEach="params.list", args={"item": "${item}", "at": "${index}"}),
        params={"list": ["x", "y", "z"]},
    )
    run = play(plan)
    assert names(run) == ["each[0]", "each[1]", "each[2]"]
    assert run.state.told["each"]["output"] == [
        {"item": "x", "at": 0},
        {"item": "y", "at": 1},
        {"item": "z", "at": 2},
    ]
    assert run.state.counts["total"] == 3


def test_for_each_over_nothing_ends_at_once_with_an_empty_list() -> None:
    run = play(
        request(call("each", forEach="[]"), call("n", args={"n": "${size(steps.each.output)}"}))
    )
    assert run.state.told["n"]["output"] == {"n": 0}
    assert run.state.counts["total"] == 1


def test_a_false_condition_skips_and_a_skipped_step_counts_as_ended() -> None:
    plan = request(
        call("a", when="false"),
        call("b", needs=["a"], args={"got": "${steps.a.output}", "state": "${steps.a.state}"}),
    )
    run = play(plan)
    assert names(run) == ["b"]
    assert run.state.told["b"]["output"] == {"got": None, "state": "Skipped"}
    assert run.state.counts["skipped"] == 1


def test_a_condition_with_for_each_is_asked_per_item() -> None:
    run = play(
        request(call("each", forEach="[1, 2, 3, 4]", when="item % 2 == 0", args={"i": "${item}"}))
    )
    assert names(run) == ["each[1]", "each[3]"]
    assert run.state.told["each"]["output"] == [None, {"i": 2}, None, {"i": 4}]


def failing(times: int, *, retryable: bool = True) -> Any:
    """A behaviour that fails a number of times, then gives the attempt's number."""

    def behave(task: StepTask) -> Any:
        return StepError("broken", "it broke", retryable) if task.attempt <= times else task.attempt

    return behave


def test_a_failed_attempt_is_repeated_after_its_backoff_with_the_same_inputs() -> None:
    plan = request(
        call("a", args={"v": "${params.v}"}, retry={"attempts": 3, "backoff": "10s"}),
        params={"v": 7},
    )
    run = play(plan, failing(2))
    assert run.executed == [("a", 1), ("a", 2), ("a", 3)]
    failures = [record for record in run.journal if isinstance(record, StepFailed)]
    waits = [(record.retry_at or 0) - record.at for record in failures]
    assert 10 <= waits[0] <= 12.5
    assert 20 <= waits[1] <= 25
    scheduled = [record for record in run.journal if isinstance(record, StepScheduled)]
    assert [record.inputs for record in scheduled] == [{"v": 7}, None, None]
    assert run.state.finished is not None
    assert run.state.finished.phase == "Succeeded"


@pytest.mark.parametrize(
    ("attempts", "behave", "executed"),
    [
        (1, failing(9), 1),
        (3, failing(9), 3),
        (3, failing(9, retryable=False), 1),
    ],
)
def test_a_step_that_fails_for_good_fails_the_run(
    attempts: int, behave: Any, executed: int
) -> None:
    run = play(request(call("a"), call("b", needs=["a"]), retry={"attempts": attempts}), behave)
    assert len(run.executed) == executed
    finished = run.state.finished
    assert finished is not None
    assert (finished.phase, finished.reason) == ("Failed", "StepFailed")
    assert finished.message == "step a failed: it broke"
    assert run.state.counts["running"] == 0


def test_after_a_failure_no_further_step_starts() -> None:
    def behave(task: StepTask) -> Any:
        return StepError("broken", "no", retryable=False) if task.key.step == "a" else 1

    run = play(request(call("a"), call("b"), parallelism=1), behave)
    assert names(run) == ["a"]


def test_a_failure_that_is_allowed_leaves_null_and_the_error() -> None:
    plan = request(
        call("a", allowFailure=True),
        call("b", args={"got": "${steps.a.output}", "why": "${steps.a.error.message}"}),
    )

    def behave(task: StepTask) -> Any:
        return StepError("broken", "it broke") if task.key.step == "a" else task.inputs

    run = play(plan, behave)
    assert run.state.told["b"]["output"] == {"got": None, "why": "it broke"}
    assert summarise(run.state).counts.failed == 1


def test_backoff_doubles_is_bounded_and_always_the_same() -> None:
    policy = Retry(attempts=6, backoff="1s", max_backoff="1m")
    waits = [backoff(policy, f"run/step/{attempt}", attempt) for attempt in range(1, 101)]
    assert waits == [backoff(policy, f"run/step/{attempt}", attempt) for attempt in range(1, 101)]
    assert all(2**at <= wait <= 1.25 * 2**at for at, wait in enumerate(waits[:5]))
    assert all(wait == 60 for wait in waits[7:])
    assert len({backoff(policy, f"run/other/{n}", 1) for n in range(10)}) == 10


def test_parallelism_bounds_what_runs_at_the_same_time() -> None:
    plan = request(call("each", forEach="lists.range(20)"), parallelism=3)
    run = play(plan)
    assert run.most_running == 3
    assert run.state.counts["succeeded"] == 20


@pytest.mark.req("DSX-01")
def test_a_pools_queue_limit_bounds_all_runs_together() -> None:
    world = a_world(queue_limit=3)
    first, second = (
        RunState(request(call("each", forEach="lists.range(5)"), run=run), world.hands)
        for run in ("run-1", "run-2")
    )
    advance(first, 0.0, world)
    advance(second, 0.0, world)
    assert (len(first.scheduled), len(second.scheduled)) == (3, 0)
    assert second.starved
    assert second.held is None
    cancel(first, "enough", 1.0)
    advance(first, 1.0, world)
    advance(second, 1.0, world)
    assert len(second.scheduled) == 3


@pytest.mark.req("DSX-32")
def test_a_hundred_steps_at_once_are_all_done_and_none_rejected_at_the_usual_limits() -> None:
    for policy in ("Wait", "Reject"):
        world = a_world(queue_limit=1000, queue_policy=policy)
        plan = request(call("each", forEach="lists.range(100)"), parallelism=100)
        run = play(plan, world=world)
        assert summarise(run.state).counts.succeeded == 100
        assert run.most_running == 100


@pytest.mark.req("DSX-32")
def test_a_full_queue_lets_steps_wait_or_rejects_them_as_its_pool_says() -> None:
    plan = request(
        call("each", forEach="lists.range(5)", onError={"action": "continue"}),
        call("after", args={"x": "${size(steps.each.output)}"}),
    )
    waiting = play(plan, world=a_world(queue_limit=2))
    assert waiting.most_running == 2
    assert summarise(waiting.state).counts.succeeded == 6
    rejecting = play(plan, world=a_world(queue_limit=2, queue_policy="Reject"))
    told = summarise(rejecting.state)
    assert (told.counts.succeeded, told.counts.failed, told.phase) == (3, 3, "Succeeded")
    codes = [r.error.code for r in rejecting.journal if isinstance(r, StepFailed)]
    assert codes == ["queue_full"] * 3


@pytest.mark.req("DSX-32")
def test_steps_that_a_full_queue_keeps_waiting_too_long_fail_with_a_code_of_their_own() -> None:
    world = a_world(queue_limit=1, queue_timeout="30s")
    state = RunState(request(call("each", forEach="lists.range(3)")), world.hands)
    advance(state, 0.0, world)
    assert len(state.scheduled) == 1
    assert advance(state, 29.0, world) == []
    done = StepResult("run-1", next(iter(state.scheduled)), 1, "w", 1)
    accept(state, done, 29.0)
    advance(state, 29.5, world)
    assert len(state.scheduled) == 1, "progress starts the time again"
    assert advance(state, 58.0, world) == []
    made = advance(state, 59.6, world)
    codes = [record.error.code for record in made if isinstance(record, StepFailed)]
    assert codes == ["queue_timeout"]
    assert summarise(state).phase == "Failed"


@pytest.mark.parametrize("parallelism", [1, 10])
def test_steps_wait_for_a_pool_that_does_not_exist_and_go_on_when_it_comes(
    parallelism: int,
) -> None:
    world = a_world()
    plan = request(call("a"), call("b", pool={"name": "later"}), parallelism=parallelism)
    run = play(plan, world=world)
    assert names(run) == ["a"]
    told = summarise(run.state)
    assert (told.phase, told.reason) == ("Running", "PoolNotFound")
    assert told.message == "Pool 'later' does not exist"
    # Being held is journalled once, and not again with each decision.
    assert sum(isinstance(record, RunHeld) for record in run.journal) == 1
    set_pool(world, "later")
    run.to_the_end()
    assert summarise(run.state).phase == "Succeeded"


def test_an_agent_step_waits_for_its_agent_and_takes_it_as_it_is() -> None:
    world = a_world()
    plan = request({"name": "ask", "agent": {"name": "reader", "inputs": {"question": "why"}}})
    run = play(plan, lambda task: task.program["instructions"], world)
    assert summarise(run.state).reason == "AgentNotFound"
    set_agent(world, "reader", suspend=True)
    run.to_the_end()
    assert summarise(run.state).reason == "AgentSuspended"
    set_agent(world, "reader", instructions="Be brief.", timeout="7s")
    run.advance()
    unit = run.state.scheduled[StepKey("ask")]
    task = run.state.task(unit)
    assert (task.kind, task.timeout, task.program["agentName"]) == ("agent", 7.0, "reader")
    run.to_the_end()
    assert run.state.finished is not None
    assert run.state.finished.result == "Be brief."


def test_a_container_step_is_told_and_not_handed_to_workers() -> None:
    step = {"name": "box", "container": {"image": "busybox", "args": ["${params.x}"]}}
    state = RunState(request(step, params={"x": "hello"}))
    advance(state, 0.0, a_world())
    (wanted,) = summarise(state).containers
    assert (str(wanted.key), wanted.attempt) == ("box", 1)
    assert wanted.container["image"] == "busybox"
    assert wanted.container["args"] == ["hello"]
    accept(state, StepResult("run-1", StepKey("box"), 1, "pod", "done"), 1.0)
    advance(state, 1.0, a_world())
    assert summarise(state).containers == ()
    assert summarise(state).phase == "Succeeded"


@pytest.mark.parametrize(
    ("step", "field"),
    [
        (call("a", args={"x": "${params.nothing.here}"}), "spec.steps[0].call.args.x"),
        (call("a", when="params.nothing.here"), "spec.steps[0].when"),
        (call("a", when="'yes'"), "spec.steps[0].when"),
        (call("a", forEach="params.nothing.here"), "spec.steps[0].forEach"),
        (call("a", forEach="3"), "spec.steps[0].forEach"),
    ],
)
def test_an_expression_that_fails_fails_the_step_and_names_the_field(
    step: dict[str, Any], field: str
) -> None:
    run = play(request(step, retry={"attempts": 5}))
    assert run.executed == []
    finished = run.state.finished
    assert finished is not None
    assert finished.reason == "StepFailed"
    assert field in finished.message


def test_a_result_that_fails_fails_the_run_and_names_the_field() -> None:
    run = play(request(call("a", args={"v": 1}), result="steps.a.output.w"))
    finished = run.state.finished
    assert finished is not None
    assert (finished.phase, finished.reason) == ("Failed", "ResultInvalid")
    assert "spec.result" in finished.message


def test_the_deadline_ends_the_run() -> None:
    plan = request(call("a"), deadline="30s")
    state = RunState(plan)
    world = a_world()
    advance(state, 100.0, world)
    assert state.due() == 130.0
    assert state.task(state.scheduled[StepKey("a")]).deadline == 130.0
    assert advance(state, 129.9, world) == []
    (record,) = advance(state, 130.0, world)
    assert isinstance(record, RunFinished)
    assert (record.phase, record.reason) == ("Failed", "DeadlineExceeded")
    assert state.counts["running"] == 0


def test_a_suspended_run_starts_nothing_and_loses_no_result() -> None:
    plan = request(call("a"), call("b", needs=["a"]), retry={"attempts": 2, "backoff": "1s"})
    world = a_world()
    run = Clockwork(RunState(plan, world.hands), world, failing(1))
    run.advance()
    (record,) = adjust(run.state, suspend=True, parallelism=100, now=run.now)
    assert isinstance(record, RunAdjusted)
    assert adjust(run.state, suspend=True, parallelism=100, now=run.now) == []
    run.execute(StepKey("a"))
    run.now += 60
    assert run.advance() == []
    # Nothing is due: the engine rests instead of looking again and again.
    assert run.state.due() is None
    assert summarise(run.state).phase == "Suspended"
    adjust(run.state, suspend=False, parallelism=100, now=run.now)
    run.to_the_end()
    assert summarise(run.state).phase == "Succeeded"
    assert run.executed == [("a", 1), ("a", 2), ("b", 1), ("b", 2)]


def test_cancelling_ends_the_run_once() -> None:
    state = RunState(request(call("a")))
    world = a_world()
    advance(state, 0.0, world)
    (record,) = cancel(state, "the Workflow was deleted", 1.0)
    assert isinstance(record, RunFinished)
    assert record.reason == "Cancelled"
    assert cancel(state, "again", 2.0) == []
    assert advance(state, 2.0, world) == []


def test_only_the_first_result_of_the_awaited_attempt_counts() -> None:
    state = RunState(request(call("a"), retry={"attempts": 2, "backoff": "1s"}))
    world = a_world()
    advance(state, 0.0, world)
    key = StepKey("a")
    failure = StepResult("run-1", key, 1, "w1", error=StepError("broken", "no"))
    assert len(accept(state, failure, 1.0)) == 1
    assert accept(state, StepResult("run-1", key, 1, "w2", "late"), 1.0) == []
    advance(state, 10.0, world)
    assert accept(state, StepResult("run-1", key, 1, "w2", "later"), 10.0) == []
    assert len(accept(state, StepResult("run-1", key, 2, "w1", "good"), 11.0)) == 1
    assert accept(state, StepResult("run-1", key, 2, "w2", "twice"), 11.0) == []
    advance(state, 11.0, world)
    assert state.finished is not None
    assert state.finished.result == "good"


def test_a_value_that_is_too_large_fails_the_step_for_good() -> None:
    run = play(request(call("a"), retry={"attempts": 3}), lambda _: "x" * VALUE_LIMIT)
    (failure,) = [record for record in run.journal if isinstance(record, StepFailed)]
    assert failure.error.code == "value_too_large"
    assert failure.retry_at is None
    large = "x" * (VALUE_LIMIT // 2)
    plan = request(
        call("a"), call("b", args={"one": "${steps.a.output}", "two": "${steps.a.output}"})
    )
    second = play(plan, lambda task: large if task.key.step == "a" else 1)
    assert second.state.finished is not None
    assert "spec.steps[1]" in second.state.finished.message


def test_flags_are_decided_for_the_subject_or_else_for_the_run() -> None:
    world = a_world()
    world.change(Change("flags/team/some", b'{"rolloutPercentage": 50, "allow": ["run-7"]}'))
    world.change(Change("flags/team/none", b'{"enabled": false}'))
    args = {"run": "${flag('some')}", "none": "${flag('none')}", "unknown": "${flag('missing')}"}
    run = play(
        request(call("a", args=args), run="run-7", result="flag('some', 'run-7')"), world=world
    )
    assert run.state.told["a"]["output"] == {"run": True, "none": False, "unknown": False}
    assert run.state.finished is not None
    assert run.state.finished.result is True


def test_a_setting_that_cannot_be_read_is_as_if_it_were_not_there() -> None:
    world = a_world()
    world.change(Change("pools/team/general", b'{"replicas": "many"}'))
    run = play(request(call("a")), world=world)
    assert summarise(run.state).reason == "PoolNotFound"


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (
            {"steps": [{"name": "a", "call": {"entry": "m:f"}, "needs": ["b"]}]},
            "spec.steps[0].needs",
        ),
        ({"steps": []}, "spec.steps"),
    ],
)
def test_a_plan_that_cannot_run_is_refused_with_its_field(spec: dict[str, Any], field: str) -> None:
    plan = request(call("a"))
    with pytest.raises(InvalidError) as refused:
        RunState(type(plan)(plan.run, plan.namespace, plan.workflow, spec))
    assert refused.value.field.startswith(field)


def test_the_summary_stays_small_and_its_revision_grows() -> None:
    plan = request(call("each", forEach="lists.range(500)"), parallelism=1000)
    world = a_world()
    run = Clockwork(RunState(plan, world.hands), world, lambda _: "x" * 1000)
    revisions = [summarise(run.state).revision]
    while run.turn():
        revisions.append(summarise(run.state).revision)
    assert revisions == sorted(revisions)
    told = summarise(run.state)
    assert told.result is None
    assert told.result_bytes > 500_000
    assert len(told.recent) == 5
    assert told.recent[0].name == "each[499]"


def test_a_list_is_expanded_once_and_kept_in_the_journal() -> None:
    run = play(request(call("each", forEach="params.list"), params={"list": [3, 1]}))
    (record,) = [record for record in run.journal if isinstance(record, StepExpanded)]
    assert record.items == [3, 1]
