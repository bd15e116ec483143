"""Steps that wait: for a person, an event, a time; and what ends the wait."""

from __future__ import annotations

from typing import Any

import pytest

from seedbed.crds.engine_requests import Adjust, Approve, Signal
from seedbed.crds.errors import ConflictError, InvalidError, NotFoundError, QueueFullError
from seedbed.crds.graph_builder import graph_problems
from seedbed.crds.messages import Decision
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow import inbox
from seedbed.runtime.workflow.decide import asked
from seedbed.runtime.workflow.inbox import KEPT_EVENTS
from seedbed.runtime.workflow.records import ApprovalGiven, StepFailed, StepWaiting
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.summary import summarise
from tests.runs import Clockwork, a_world, call, request

YES = Decision("approve", "kim", "figures checked")
NO = Decision("reject", "kim", "too early")


def waiting(*steps: dict[str, Any], **spec: Any) -> Clockwork:
    """A run that has come as far as it can by itself."""
    world = a_world()
    run = Clockwork(RunState(request(*steps, **spec), world.hands), world, lambda task: task.inputs)
    run.advance()
    while run.state.scheduled:
        run.turn()
        run.advance()
    return run


def ask(run: Clockwork, message: Any) -> None:
    run.journal += asked(run.state, message, run.now)
    run.advance()


def approval(name: str = "ok", **fields: Any) -> dict[str, Any]:
    inner = {"message": fields.pop("message", "Go on?")}
    inner |= {key: fields.pop(key) for key in ("deadline", "default") if key in fields}
    return {"name": name, "approve": inner, **fields}


def wait(name: str, wait: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"name": name, "wait": wait, **fields}


def decide(decision: Decision, step: str = "ok") -> Approve:
    return Approve("run-1", step, decision)


def event(name: str, payload: Any = None, identity: str = "1") -> Signal:
    return Signal("run-1", name, identity, payload, "tester")


def test_an_approve_step_asks_and_goes_on_with_the_decision() -> None:
    run = waiting(
        call("draft", args={"n": 3}),
        approval(message="Send ${steps.draft.output.n} letters?"),
        call("send", args={"by": "${steps.ok.output.by}"}, needs=["ok"]),
    )
    told = summarise(run.state)
    assert (told.phase, told.reason) == ("Running", "WaitingForApproval")
    assert told.message == "ok: Send 3 letters?"
    (one,) = told.waiting
    assert (one.step, one.kind, one.until) == ("ok", "approval", None)
    assert run.state.due() is None
    ask(run, decide(YES))
    run.to_the_end()
    assert run.state.told["send"]["output"] == {"by": "kim"}
    assert summarise(run.state).waiting == ()
    (given,) = [record for record in run.journal if isinstance(record, ApprovalGiven)]
    assert given.decision == YES


def test_a_rejected_step_fails_with_its_code_and_its_policy_decides() -> None:
    run = waiting(approval(), call("send", needs=["ok"]))
    ask(run, decide(NO))
    finished = run.state.finished
    assert finished is not None
    assert summarise(run.state).waiting == ()
    assert (finished.phase, finished.message) == (
        "Failed",
        "step ok failed: rejected by kim: too early",
    )
    (failure,) = [record for record in run.journal if isinstance(record, StepFailed)]
    assert (failure.error.code, failure.error.retryable) == ("rejected", False)
    allowed = waiting(approval(onError={"action": "skip"}), call("send", needs=["ok"]))
    ask(allowed, decide(NO))
    assert allowed.to_the_end().finished is not None
    assert summarise(allowed.state).phase == "Succeeded"


@pytest.mark.parametrize(("default", "phase"), [("approve", "Succeeded"), ("reject", "Failed")])
def test_at_its_deadline_the_default_counts(default: str, phase: str) -> None:
    run = waiting(approval(deadline="1h", default=default), retry={"attempts": 3})
    assert run.state.due() == run.now + 3600
    run.to_the_end()
    assert run.now == 1000 + 3600
    assert summarise(run.state).phase == phase


def test_a_decision_may_come_before_the_question_and_in_the_spec() -> None:
    run = waiting(wait("later", {"event": "go"}), approval(needs=["later"]))
    ask(run, decide(NO))
    ask(run, decide(YES))
    ask(run, event("go"))
    assert summarise(run.state).phase == "Succeeded"
    told = {"ok": {"decision": "approve", "by": "kim"}}
    assert summarise(waiting(approval(), approvals=told).state).phase == "Succeeded"


def test_decisions_come_with_the_live_fields_and_those_that_are_too_late_change_nothing() -> None:
    run = waiting(approval(), approval("second", needs=["ok"]))
    told = Adjust("run-1", suspend=False, parallelism=100, approvals={"ok": YES, "gone": NO})
    ask(run, told)
    assert run.state.told["ok"]["output"]["decision"] == "approve"
    revision = run.state.revision
    ask(run, told)
    ask(run, Adjust("run-1", suspend=False, parallelism=100, approvals={"ok": NO}))
    assert run.state.revision == revision


@pytest.mark.parametrize(
    ("step", "error"),
    [("nothing", NotFoundError), ("work", InvalidError), ("ok", ConflictError)],
)
def test_a_decision_that_cannot_be_is_refused(step: str, error: type[Exception]) -> None:
    run = waiting(
        call("work"), approval(), approval("other"), approvals={"ok": {"decision": "approve"}}
    )
    with pytest.raises(error):
        ask(run, decide(YES, step))


@pytest.mark.parametrize("default", ["approve", "reject"])
def test_a_decision_behind_the_deadline_is_refused_though_nobody_has_looked_since(
    default: str,
) -> None:
    given, told = (NO, "Succeeded") if default == "approve" else (YES, "Failed")
    run = waiting(approval(deadline="1h", default=default))
    # As where no engine is up, or the run is suspended, when the time is over.
    ask(run, Adjust("run-1", suspend=True, parallelism=100))
    run.now += 3600
    with pytest.raises(ConflictError, match="time to decide about step ok is over"):
        ask(run, decide(given))
    ask(run, Adjust("run-1", suspend=True, parallelism=100, approvals={"ok": given}))
    assert summarise(run.state).phase == "Suspended"
    ask(run, Adjust("run-1", suspend=False, parallelism=100))
    assert summarise(run.state).phase == told


def test_an_event_behind_its_time_ends_no_wait_and_is_kept_for_the_next() -> None:
    first = wait("a", {"event": "paid", "timeout": "1h"}, onError={"action": "continue"})
    run = waiting(first, wait("b", {"event": "paid"}, needs=["a"]))
    run.now += 3600
    ask(run, Signal("run-1", "paid", "1", 12, "tester"))
    assert run.state.told["a"]["state"] == "Failed"
    assert run.state.told["b"]["output"] == 12


def test_a_step_that_was_rejected_is_not_approved_while_its_fallback_runs() -> None:
    run = waiting(
        approval(onError={"action": "fallback", "step": "spare"}),
        wait("spare", {"event": "go"}),
    )
    ask(run, decide(NO))
    with pytest.raises(ConflictError, match="has been decided already"):
        ask(run, decide(YES))


def test_a_decision_that_nothing_can_follow_is_refused_and_one_about_on_exit_is_not() -> None:
    run = waiting(
        call("book", compensate={"entry": "steps:undo"}),
        wait("stop", {"event": "now", "timeout": "1m"}, onError={"action": "compensate"}),
        approval(),
        approval("report"),
        onExit=["report"],
    )
    run.now += 60
    run.advance()
    assert summarise(run.state).reason == "Compensating"
    with pytest.raises(ConflictError, match="the run ends"):
        ask(run, decide(YES))
    ask(run, decide(YES, "report"))
    run.to_the_end()
    assert run.state.told["report"]["state"] == "Succeeded"


def test_a_suspended_run_takes_decisions_and_starts_nothing() -> None:
    run = waiting(approval(), call("send", needs=["ok"]))
    ask(run, Adjust("run-1", suspend=True, parallelism=100))
    ask(run, decide(YES))
    assert run.executed == []
    ask(run, Adjust("run-1", suspend=False, parallelism=100))
    run.to_the_end()
    assert summarise(run.state).phase == "Succeeded"


def test_a_wait_ends_at_its_time() -> None:
    run = waiting(wait("w", {"duration": "90s"}), call("then", needs=["w"]))
    assert run.state.due() == 1090
    assert summarise(run.state).reason == "Waiting"
    run.to_the_end()
    assert (run.now, run.executed) == (1090, [("then", 1)])


@pytest.mark.parametrize(
    ("until", "due"),
    [
        ("timestamp('1970-01-01T00:20:00Z')", 1200),
        ("timestamp(params.opens) - duration('1m')", 1140),
        ("'1970-01-01T01:20:00+01:00'", 1200),
        ("'1970-01-01T00:00:01Z'", 1000),
    ],
)
def test_a_wait_until_a_time(until: str, due: float) -> None:
    run = waiting(wait("w", {"until": until}), params={"opens": "1970-01-01T00:20:00Z"})
    run.to_the_end()
    assert run.now == due
    assert summarise(run.state).phase == "Succeeded"


@pytest.mark.parametrize(
    "until",
    [
        *("'soon'", "3", "'2026-01-01T00:00:00'"),
        *("'9999-12-31T23:59:59-23:59'", "'0001-01-01T00:00:00+23:00'"),
    ],
)
def test_what_is_no_time_fails_the_step_and_names_the_field(until: str) -> None:
    run = waiting(wait("w", {"until": until}))
    assert "spec.steps[0].wait.until" in summarise(run.state).message


def test_an_event_ends_every_wait_for_it_and_its_payload_is_the_output() -> None:
    run = waiting(
        wait("a", {"event": "paid"}), wait("b", {"event": "paid"}), wait("c", {"event": "other"})
    )
    ask(run, event("paid", {"sum": 12}))
    assert run.state.told["a"]["output"] == run.state.told["b"]["output"] == {"sum": 12}
    assert [one.step for one in summarise(run.state).waiting] == ["c"]


def test_an_event_that_comes_before_the_wait_is_kept_once_and_in_order() -> None:
    run = waiting(
        approval(),
        wait("a", {"event": "paid"}, needs=["ok"]),
        wait("b", {"event": "paid"}, needs=["a"]),
        wait("c", {"event": "paid"}, needs=["b"]),
    )
    ask(run, event("paid", 1, "one"))
    ask(run, event("paid", 1, "one"))  # sent twice
    ask(run, event("paid", 2, "two"))
    ask(run, decide(YES))
    assert (run.state.told["a"]["output"], run.state.told["b"]["output"]) == (1, 2)
    assert [one.step for one in summarise(run.state).waiting] == ["c"]


def test_events_of_two_names_may_have_the_same_id() -> None:
    run = waiting(wait("a", {"event": "paid"}), wait("b", {"event": "sent"}))
    ask(run, event("paid", 1, "order-7"))
    ask(run, event("sent", 2, "order-7"))
    assert (run.state.told["a"]["output"], run.state.told["b"]["output"]) == (1, 2)


def test_an_event_that_a_former_version_has_seen_does_not_count_again() -> None:
    run = waiting(wait("a", {"event": "paid"}))
    run.state.inbox.see("order-7")  # as its snapshots name them
    ask(run, event("paid", 1, "order-7"))
    assert "a" not in run.state.told


def test_an_event_that_does_not_come_in_time_fails_the_step() -> None:
    run = waiting(wait("a", {"event": "paid", "timeout": "2h"}), retry={"attempts": 3})
    run.to_the_end()
    assert run.now == 1000 + 7200
    (failure,) = [record for record in run.journal if isinstance(record, StepFailed)]
    assert (failure.error.code, failure.error.error_class) == ("timeout", "timeout_error")


def test_events_that_nobody_takes_are_bounded() -> None:
    run = waiting(approval())
    for at in range(KEPT_EVENTS):
        asked(run.state, event("noise", at, str(at)), run.now)
    with pytest.raises(QueueFullError):
        asked(run.state, event("noise", 0, "more"), run.now)
    assert len(run.state.inbox.seen) == KEPT_EVENTS


def test_large_events_that_nobody_takes_are_bounded_and_give_their_room_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbox, "KEPT_BYTES", 1000)
    run = waiting(approval(), wait("w", {"event": "late"}, needs=["ok"]), approval("later"))
    for at in range(2):
        asked(run.state, event("late", "x" * 600, str(at)), run.now)
    with pytest.raises(QueueFullError):
        asked(run.state, event("late", 0, "more"), run.now)
    asked(run.state, Approve("run-1", "ok", Decision("approve", "kim")), run.now)
    run.advance()
    assert run.state.told["w"]["output"] == "x" * 600
    asked(run.state, event("late", 0, "more"), run.now)
    assert run.state.inbox.bytes == 603


def test_a_step_that_waits_is_journalled_once() -> None:
    run = waiting(approval(), wait("w", {"duration": "5s"}))
    run.advance()
    assert [str(record.key) for record in run.journal if isinstance(record, StepWaiting)] == [
        "ok",
        "w",
    ]


@pytest.mark.parametrize(
    ("spec", "field", "says"),
    [
        ({"steps": [wait("w", {})]}, "spec.steps[0].wait", "exactly one of"),
        (
            {"steps": [wait("w", {"duration": "1s", "event": "x"})]},
            "spec.steps[0].wait",
            "exactly one of",
        ),
        (
            {"steps": [wait("w", {"duration": "1s", "timeout": "1s"})]},
            "spec.steps[0].wait.timeout",
            "only the wait for an event",
        ),
        (
            {"steps": [wait("w", {"duration": "1s"}, forEach="[1]")]},
            "spec.steps[0].forEach",
            "no meaning for a wait step",
        ),
        (
            {"steps": [approval(retry={"attempts": 2})]},
            "spec.steps[0].retry",
            "no meaning for an approve step",
        ),
        (
            {"steps": [approval()], "approvals": {"okay": {"decision": "approve"}}},
            "spec.approvals.okay",
            "no approve step `okay`; did you mean `ok`?",
        ),
        (
            {"steps": [approval(message="${steps.none.output}")]},
            "spec.steps[0].approve.message",
            "no step `none`",
        ),
    ],
)
def test_a_wait_that_cannot_be_is_refused(spec: dict[str, Any], field: str, says: str) -> None:
    problems = graph_problems(WorkflowSpec.model_validate(spec))
    assert [(problem.field, says in problem.expected) for problem in problems] == [(field, True)]
