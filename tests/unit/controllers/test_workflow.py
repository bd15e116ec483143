"""Workflow: what it waits for, its run, its container steps, its status."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seedbed.controllers.container_step import pod_name
from seedbed.controllers.plan import (
    AdjustRun,
    CancelRun,
    Key,
    Observed,
    ReportStep,
    SubmitRun,
)
from seedbed.controllers.pods import key_of
from seedbed.controllers.workflow import reconcile, references
from seedbed.crds.messages import (
    Advice,
    ContainerTask,
    Counts,
    Decision,
    Recent,
    RunSummary,
    StepKey,
    Waiting,
)
from seedbed.crds.run_ids import run_id
from seedbed.crds.workflow import WorkflowSpec
from seedbed.crds.workflow_status import WorkflowStatus
from tests.unit.controllers.objects import (
    DEFAULTS,
    LATER,
    NOW,
    after,
    look,
    made,
    message,
    named,
    quiet,
    verdict,
)

CALL = {"name": "collect", "call": {"entry": "builtins:dict"}}
ASK = {"name": "ask", "agent": {"name": "reader"}}
POOL = made("Pool", "general", {})
AGENT = {
    **made("Agent", "reader", {"pool": {"name": "general"}}),
    "status": {
        "conditions": [{"type": "Ready", "status": "True", "reason": "Available", "message": ""}]
    },
}
EVERYTHING = named(POOL, AGENT)
TASK = ContainerTask(StepKey("pack"), 1, {"image": "busybox:1.37", "args": ["true"]}, 30.5)


def workflow(*steps: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return made("Workflow", "audit", {"steps": list(steps or (CALL,)), **spec})


def later(obj: dict[str, Any]) -> dict[str, Any]:
    """The object after its spec was edited."""
    return {**obj, "metadata": {**obj["metadata"], "generation": 2}}


def id_of(obj: dict[str, Any]) -> str:
    return run_id(obj["metadata"]["uid"], WorkflowSpec.model_validate(obj["spec"]))


def summary(obj: dict[str, Any], **said: Any) -> RunSummary:
    known: dict[str, Any] = {
        "run": id_of(obj),
        "namespace": "team",
        "workflow": "audit",
        "revision": 1,
        "phase": "Running",
        "reason": "Running",
    }
    return RunSummary(**{**known, **said})


def test_a_plan_is_submitted_under_an_id_made_of_uid_and_plan() -> None:
    obj = workflow()
    seen = look(obj, references=EVERYTHING)
    plan = reconcile(seen, NOW, DEFAULTS)
    (effect,) = plan.effects
    assert isinstance(effect, SubmitRun)
    assert effect.request.run == id_of(obj)
    assert effect.request.spec["steps"][0]["name"] == "collect"
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-01", effect.request.traceparent)
    assert plan.status is not None
    assert plan.status["runId"] == id_of(obj)
    assert plan.status["phase"] == "Pending"
    assert verdict(plan, "Accepted") == ("True", "Valid")


@pytest.mark.parametrize(
    ("steps", "there", "reason", "said"),
    [
        ([CALL], {}, "PoolNotFound", "spec.pool.name: there is no Pool `general` yet"),
        (
            [{**CALL, "pool": {"name": "big"}}],
            EVERYTHING,
            "PoolNotFound",
            "spec.steps[0].pool.name: there is no Pool `big` yet",
        ),
        (
            [CALL, ASK],
            named(POOL),
            "AgentNotFound",
            "spec.steps[1].agent.name: there is no Agent `reader` yet",
        ),
    ],
)
def test_nothing_is_submitted_before_what_the_plan_names_exists(
    steps: list[dict[str, Any]], there: dict, reason: str, said: str
) -> None:
    obj = workflow(*steps)
    seen = look(obj, references=there)
    plan = reconcile(seen, NOW, DEFAULTS)
    assert verdict(plan, "Ready") == ("False", reason)
    assert message(plan) == said
    assert plan.effects == ()
    big = made("Pool", "big", {})
    arrived = replace(after(seen, plan), references={**EVERYTHING, **named(big)})
    effects = reconcile(arrived, LATER, DEFAULTS).effects
    assert [type(effect) for effect in effects] == [SubmitRun]


def test_container_steps_need_no_pool() -> None:
    obj = workflow({"name": "pack", "container": {"image": "busybox:1.37"}})
    (effect,) = reconcile(look(obj), NOW, DEFAULTS).effects
    assert isinstance(effect, SubmitRun)


def test_references_are_the_pools_and_agents_named() -> None:
    obj = workflow(CALL, ASK, {**CALL, "name": "b", "pool": {"name": "big"}})
    assert set(references(obj)) == {
        Key("Pool", "team", "general"),
        Key("Pool", "team", "big"),
        Key("Agent", "team", "reader"),
    }


def test_a_plan_with_a_cycle_is_refused_with_the_field() -> None:
    obj = workflow({**CALL, "name": "a", "needs": ["b"]}, {**CALL, "name": "b", "needs": ["a"]})
    plan = reconcile(look(obj, references=EVERYTHING), NOW, DEFAULTS)
    assert verdict(plan, "Stalled") == ("True", "InvalidSpec")
    assert verdict(plan, "Accepted") == ("False", "InvalidSpec")
    assert "spec.steps" in message(plan)
    assert plan.effects == ()


@pytest.mark.parametrize(
    ("phase", "ready", "going", "stuck", "finished"),
    [
        ("Pending", "False", "True", "False", "False"),
        ("Running", "False", "True", "False", "False"),
        ("Suspended", "False", "False", "False", "False"),
        ("Succeeded", "True", "False", "False", "True"),
        ("Failed", "False", "False", "True", "True"),
    ],
)
def test_conditions_say_the_phase(
    phase: Any, ready: str, going: str, stuck: str, finished: str
) -> None:
    obj = workflow()
    seen = look(obj, references=EVERYTHING, run=summary(obj, phase=phase, reason="Why"))
    plan = reconcile(seen, NOW, DEFAULTS)
    assert verdict(plan, "Ready") == (ready, "Why")
    assert verdict(plan, "Reconciling")[0] == going
    assert verdict(plan, "Stalled")[0] == stuck
    assert verdict(plan, "Finished")[0] == finished


def test_the_status_shows_the_run() -> None:
    obj = workflow()
    told = summary(
        obj,
        phase="Succeeded",
        reason="Succeeded",
        counts=Counts(total=5, succeeded=3, skipped=1, failed=1),
        recent=(Recent("collect", "Succeeded"),),
        started=1_795_255_200.0,
        finished=1_795_255_261.5,
        result={"agreement": 0.75},
    )
    status = reconcile(look(obj, references=EVERYTHING, run=told), NOW, DEFAULTS).status
    assert status is not None
    assert status["progress"] == "5/5"
    assert status["steps"]["skipped"] == 1
    assert status["recent"] == [{"name": "collect", "state": "Succeeded", "message": ""}]
    assert status["startedAt"] == "2026-11-21T10:00:00Z"
    assert status["finishedAt"] == "2026-11-21T10:01:01Z"
    assert status["result"] == {"agreement": 0.75}


def test_the_status_tells_the_expected_end_and_what_would_be_shorter() -> None:
    obj = workflow()
    advice = Advice(False, 100.0, 69.0, "31% shorter, simulated: " + "x" * 600)
    told = summary(obj, phase="Running", reason="Running", eta=1_795_255_261.4, advice=advice)
    status = reconcile(look(obj, references=EVERYTHING, run=told), NOW, DEFAULTS).status
    assert status is not None
    assert status["eta"] == "2026-11-21T10:01:01Z"
    assert status["optimisation"]["applied"] is False
    assert status["optimisation"]["percent"] == 31
    assert len(status["optimisation"]["message"]) <= 512
    WorkflowStatus.model_validate(status)
    nothing = replace(told, eta=None, advice=Advice(True, 5.0, 5.0, ""))
    status = reconcile(look(obj, references=EVERYTHING, run=nothing), NOW, DEFAULTS).status
    assert status is not None
    assert {"eta", "optimisation"}.isdisjoint(status)


def test_the_status_counts_the_changes_of_the_plan() -> None:
    obj = workflow()
    told = summary(obj, phase="Running", reason="Running", replans=2)
    status = reconcile(look(obj, references=EVERYTHING, run=told), NOW, DEFAULTS).status
    assert status is not None
    assert (status["planVersion"], status["replans"]) == (3, 2)
    WorkflowStatus.model_validate(status)


def test_what_may_change_during_a_run_is_told_to_the_engine() -> None:
    obj = workflow(suspend=True, parallelism=7)
    seen = look(obj, references=EVERYTHING, run=summary(obj))
    plan = reconcile(seen, NOW, DEFAULTS)
    assert plan.effects == (AdjustRun(id_of(obj), suspend=True, parallelism=7),)
    assert verdict(plan, "Suspended") == ("True", "Suspended")
    assert id_of(obj) == id_of(workflow()), "suspend and parallelism make no other run"


def test_a_step_that_waits_for_a_person_is_shown_and_the_decision_in_the_spec_is_told() -> None:
    ask = {"name": "send", "approve": {"message": "Send?"}}
    asked = (
        Waiting("send", "approval", "Send 3 letters?", 1_795_255_200.0),
        Waiting("paid", "event", "waits for the event paid", None),
    )
    obj = workflow(ask)
    run = replace(summary(obj), waiting=asked, parallelism=100)
    seen = look(obj, references=EVERYTHING, run=run)
    plan = reconcile(seen, NOW, DEFAULTS)
    assert plan.effects == ()
    assert verdict(plan, "WaitingForApproval") == ("True", "ApprovalNeeded")
    assert message(plan, "WaitingForApproval") == "send: Send 3 letters?"
    assert plan.status is not None
    assert plan.status["waiting"] == [
        {
            "name": "send",
            "kind": "approval",
            "message": "Send 3 letters?",
            "until": "2026-11-21T10:00:00Z",
        },
        {"name": "paid", "kind": "event", "message": "waits for the event paid"},
    ]
    decided = workflow(ask, approvals={"send": {"decision": "reject", "by": "kim"}})
    assert id_of(decided) == id_of(obj), "a decision makes no other run"
    told = reconcile(look(decided, references=EVERYTHING, run=run), NOW, DEFAULTS)
    decision = {"send": Decision("reject", "kim")}
    assert told.effects == (AdjustRun(id_of(obj), False, 100, decision),)
    done = replace(run, waiting=())
    after_it = reconcile(look(decided, references=EVERYTHING, run=done), NOW, DEFAULTS)
    assert after_it.effects == ()
    assert verdict(after_it, "WaitingForApproval") == ("False", "NothingAsked")


def test_another_plan_cancels_the_run_before_and_submits_another() -> None:
    old, new = workflow(), later(workflow({**CALL, "name": "other"}))
    running = look(old, references=EVERYTHING, run=summary(old))
    seen = after(running, reconcile(running, NOW, DEFAULTS))
    edited = replace(seen, object={**new, "status": (seen.object or {})["status"]})
    plan = reconcile(edited, LATER, DEFAULTS)
    cancel, submit = plan.effects
    assert cancel == CancelRun(id_of(old), "the plan was changed")
    assert isinstance(submit, SubmitRun)
    assert submit.request.run == id_of(new)
    # The same where this process has not heard of the old run: the status knows its id.
    assert reconcile(replace(edited, run=None), LATER, DEFAULTS).effects == plan.effects


def test_a_run_whose_id_another_version_made_goes_on_while_the_spec_stays() -> None:
    obj = workflow()
    going = look(obj, references=EVERYTHING, run=summary(obj, run="uid-of-audit-0ld1d000"))
    known = {"observedGeneration": 1, "runId": "uid-of-audit-0ld1d000"}
    accepted = {"type": "Accepted", "status": "True", "reason": "Valid", "message": ""}
    before = {**obj, "status": {**known, "conditions": [accepted]}}
    plan = reconcile(replace(going, object=before), LATER, DEFAULTS)
    assert not [one for one in plan.effects if isinstance(one, CancelRun | SubmitRun)]
    assert plan.status is not None
    assert plan.status["runId"] == "uid-of-audit-0ld1d000"
    changed = reconcile(replace(going, object=later(before)), LATER, DEFAULTS)
    assert [type(effect) for effect in changed.effects] == [CancelRun, SubmitRun]


def test_a_finished_run_is_not_cancelled_when_the_plan_changes() -> None:
    old, new = workflow(), later(workflow({**CALL, "name": "other"}))
    ended = look(old, references=EVERYTHING, run=summary(old, phase="Succeeded"))
    seen = after(ended, reconcile(ended, NOW, DEFAULTS))
    edited = replace(seen, object={**new, "status": (seen.object or {})["status"]}, run=None)
    effects = reconcile(edited, LATER, DEFAULTS).effects
    assert [type(effect) for effect in effects] == [SubmitRun]


def test_a_finished_workflow_is_left_alone_by_an_operator_that_has_just_started() -> None:
    obj = workflow()
    ended = look(obj, references=EVERYTHING, run=summary(obj, phase="Succeeded", result=1))
    seen = after(ended, reconcile(ended, NOW, DEFAULTS))
    assert quiet(reconcile, replace(seen, run=None))
    assert reconcile(replace(seen, run=None, references={}), LATER, DEFAULTS).effects == ()


def test_a_running_workflow_is_asked_about_by_an_operator_that_has_just_started() -> None:
    obj = workflow()
    going = look(obj, references=EVERYTHING, run=summary(obj, counts=Counts(total=9)))
    seen = replace(after(going, reconcile(going, NOW, DEFAULTS)), run=None)
    plan = reconcile(seen, LATER, DEFAULTS)
    assert [type(effect) for effect in plan.effects] == [SubmitRun]
    assert plan.status is not None
    assert plan.status["progress"] == "0/9", "what was known stands until the engine answers"


def test_the_run_of_a_deleted_workflow_is_cancelled() -> None:
    obj = workflow()
    key = key_of(obj)
    gone = Observed(key, None, run=summary(obj))
    effects = reconcile(gone, NOW, DEFAULTS).effects
    assert effects == (CancelRun(id_of(obj), "the Workflow was deleted"),)
    over = Observed(key, None, run=summary(obj, phase="Failed"))
    assert reconcile(over, NOW, DEFAULTS).effects == ()


def pod(obj: dict[str, Any], **status: Any) -> dict[str, Any]:
    (made_,) = reconcile(
        look(obj, references=EVERYTHING, run=summary(obj, containers=(TASK,))), NOW, DEFAULTS
    ).apply
    return {**made_, "metadata": {**made_["metadata"], "uid": "p"}, "status": status}


def ended(phase: str, code: int, text: str, reason: str = "") -> dict[str, Any]:
    state = {"terminated": {"exitCode": code, "message": text, "reason": "Error"}}
    found: dict[str, Any] = {
        "phase": phase,
        "containerStatuses": [{"name": "step", "state": state}],
    }
    return {**found, "reason": reason} if reason else found


def test_a_container_step_gets_a_pod_of_the_restricted_standard() -> None:
    obj = workflow({"name": "pack", "container": {"image": "busybox:1.37"}})
    found = pod(obj)
    assert found["metadata"]["name"] == pod_name("audit", id_of(obj), TASK)
    assert found["metadata"]["ownerReferences"][0]["uid"] == obj["metadata"]["uid"]
    spec = found["spec"]
    assert spec["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] == 31
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["automountServiceAccountToken"] is False
    (container,) = spec["containers"]
    assert container["image"] == "busybox:1.37"
    assert container["args"] == ["true"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


@pytest.mark.parametrize(
    ("status", "output", "code"),
    [
        (ended("Succeeded", 0, '{"n": 3}'), {"n": 3}, None),
        (ended("Succeeded", 0, "plain text\n"), "plain text", None),
        (ended("Succeeded", 0, ""), None, None),
        (ended("Failed", 3, "no space"), None, "container_failed"),
        (ended("Failed", 137, "", "DeadlineExceeded"), None, "timeout"),
        (
            {"phase": "Failed", "reason": "Evicted", "message": "low on disk"},
            None,
            "container_failed",
        ),
    ],
)
def test_the_end_of_a_pod_is_the_end_of_the_step(
    status: dict[str, Any], output: Any, code: str | None
) -> None:
    obj = workflow({"name": "pack", "container": {"image": "busybox:1.37"}})
    seen = look(
        obj,
        references=EVERYTHING,
        run=summary(obj, containers=(TASK,)),
        children=(pod(obj, **status),),
    )
    plan = reconcile(seen, NOW, DEFAULTS)
    assert plan.apply == ()
    assert plan.delete == ()
    (report,) = [effect for effect in plan.effects if isinstance(effect, ReportStep)]
    assert report.result.key == TASK.key
    assert report.result.attempt == 1
    assert report.result.output == output
    assert (report.result.error.code if report.result.error else None) == code


def test_the_reason_of_a_failed_container_reaches_the_user() -> None:
    obj = workflow({"name": "pack", "container": {"image": "busybox:1.37"}})
    run = summary(obj, containers=(TASK,))
    seen = look(obj, run=run, children=(pod(obj, **ended("Failed", 3, "no space")),))
    (report,) = [e for e in reconcile(seen, NOW, DEFAULTS).effects if isinstance(e, ReportStep)]
    assert report.result.error is not None
    assert "exit code 3" in report.result.error.message
    assert "no space" in report.result.error.message


def test_a_running_pod_is_left_alone_and_one_that_is_not_wanted_goes() -> None:
    obj = workflow({"name": "pack", "container": {"image": "busybox:1.37"}})
    child = pod(obj, phase="Running")
    wanted = look(obj, run=summary(obj, containers=(TASK,)), children=(child,))
    plan = reconcile(wanted, NOW, DEFAULTS)
    assert (plan.apply, plan.delete) == ((), ())
    for run in (summary(obj), summary(obj, phase="Failed")):
        assert reconcile(replace(wanted, run=run), NOW, DEFAULTS).delete == (key_of(child),)
    # Nothing was heard of the run yet: its Pods are not to be judged.
    going = after(wanted, reconcile(wanted, NOW, DEFAULTS))
    assert reconcile(replace(going, run=None), NOW, DEFAULTS).delete == ()


def test_another_attempt_gets_another_pod() -> None:
    names = {pod_name("audit", "run", replace(TASK, attempt=n)) for n in (1, 2, 3)}
    assert len(names) == 3
    assert all(len(pod_name("w" * 63, "r", TASK)) <= 63 for _ in names)


TEXT = st.text(max_size=3000)
SUMMARIES = st.builds(
    RunSummary,
    run=st.just(id_of(workflow())),
    namespace=st.just("team"),
    workflow=st.just("audit"),
    revision=st.just(1),
    phase=st.sampled_from(["Pending", "Running", "Suspended", "Succeeded", "Failed"]),
    reason=st.just("Why"),
    message=TEXT,
    counts=st.builds(Counts, *[st.integers(0, 10**9)] * 5),
    recent=st.lists(st.builds(Recent, TEXT, st.just("Failed"), TEXT), max_size=50).map(tuple),
    started=st.none() | st.floats(0, 4e9),
    finished=st.none() | st.floats(0, 4e9),
    result=st.none() | TEXT | st.lists(TEXT, max_size=9),
    waiting=st.lists(
        st.builds(Waiting, TEXT, st.sampled_from(["approval", "event"]), TEXT, st.none()),
        max_size=20,
    ).map(tuple),
)


WORST = summary(
    workflow(),
    message='"' * 4000,
    counts=Counts(*[10**9] * 5),
    recent=(Recent("\\" * 4000, "Failed", "\U0001f331\0\n" * 4000),) * 50,
    result="x" * 4094,
    waiting=(Waiting("\\" * 4000, "approval", "\U0001f331\0\n" * 4000, 4e9),) * 20,
)


@settings(deadline=None)
@example(run=WORST)
@given(run=SUMMARIES)
def test_the_status_is_small_whatever_the_run(run: RunSummary) -> None:
    seen = look(workflow(), references=EVERYTHING, run=run)
    plan = reconcile(seen, NOW, DEFAULTS)
    assert plan.status is not None
    assert len(json.dumps(plan.status, ensure_ascii=False).encode()) < 16 * 1024
    assert quiet(reconcile, after(seen, plan))


@settings(deadline=None)
@given(
    run=st.none() | SUMMARIES,
    there=st.sampled_from([{}, named(POOL), EVERYTHING]),
    suspend=st.booleans(),
)
def test_passes_converge(run: RunSummary | None, there: dict, suspend: bool) -> None:
    seen = look(workflow(suspend=suspend), references=there, run=run)
    once = after(seen, reconcile(seen, NOW, DEFAULTS))
    twice = after(once, reconcile(once, LATER, DEFAULTS))
    assert once == twice
