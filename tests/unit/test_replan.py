"""Other ways for steps that failed for good: which one, how often, and what is kept of why."""

from __future__ import annotations

from typing import Any

import pytest

from hack.bench.steps import draw
from seedbed.cli.following import step_of
from seedbed.crds.admission import validate
from seedbed.crds.messages import StepError, StepKey, StepTask
from seedbed.runtime.coordination.port import Change
from seedbed.runtime.store.port import Entry
from seedbed.runtime.workflow.record_form import encode_records
from seedbed.runtime.workflow.records import Record, StepFailed, StepReplanned, StepScheduled
from seedbed.runtime.workflow.replan import cause_of
from seedbed.runtime.workflow.run_events import RunEvent, events_of
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.summary import summarise
from tests.runs import Clockwork, a_world, call, play, request, set_agent, set_pool

LATE = StepError("timeout", "not done within 5 s")
BROKEN = StepError("entry_failed", "no such row")
BUSY = StepError("provider_refused", "the provider answers 500")


@pytest.mark.parametrize(
    ("error", "attempt", "cause"),
    [
        (LATE, 1, "place"),
        (StepError("lease_lost", "x"), 2, "place"),
        (StepError("queue_full", "x"), 0, "place"),
        (StepError("program_failed", "x", category="connection_error"), 1, "place"),
        (BUSY, 1, "model"),
        (StepError("provider_timeout", "x", category="timeout_error"), 1, "model"),
        (BROKEN, 1, "logic"),
        (StepError("invalid", "x", retryable=False), 1, "logic"),
        (StepError("invalid", "x", retryable=False), 0, "none"),
        (StepError("rejected", "x", retryable=False), 1, "none"),
        (StepError("budget_exceeded", "x"), 1, "none"),
    ],
)
def test_the_error_says_what_may_help(error: StepError, attempt: int, cause: str) -> None:
    assert cause_of(error, attempt) == cause


def changes(run: Clockwork) -> list[dict[str, str]]:
    return [dict(record.to) for record in run.journal if isinstance(record, StepReplanned)]


def first(run: Clockwork, kind: type[Record]) -> Any:
    return next(record for record in run.journal if isinstance(record, kind))


def always(error: StepError) -> Any:
    return lambda _: error


ENTRY, POOL = {"entry": "steps:other"}, {"pool": "spare"}


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (LATE, [ENTRY, {**ENTRY, **POOL}, {**ENTRY, "pool": "third"}]),
        (BROKEN, [ENTRY]),
        (StepError("budget_is", "x", retryable=False), [ENTRY]),
        (StepError("cancelled", "x"), []),
    ],
)
def test_what_the_step_names_comes_first_and_nothing_twice(
    error: StepError, found: list[dict[str, str]]
) -> None:
    limits = {"maxPerStep": 9, "pools": ["general", "spare", "third"]}
    plan = request(call("a", alternatives=[ENTRY]), replan=limits)
    run = play(plan, always(error), a_world("general", "spare", "third"))
    assert changes(run) == found
    assert run.state.finished is not None
    assert run.state.finished.reason == "StepFailed"


def test_an_agents_step_goes_to_another_model_and_to_another_agent() -> None:
    asked = []

    def behave(task: StepTask) -> Any:
        asked.append((task.program["agentName"], task.program["model"]["name"], task.inputs))
        return BUSY if len(asked) < 3 else {"answer": "yes"}

    world = a_world()
    set_agent(world, "reader", model={"name": "large"})
    set_agent(world, "second", model={"name": "small"})
    step = {"name": "a", "agent": {"name": "reader", "inputs": {"question": "Who?"}}}
    ways = {"alternatives": [{"agent": "second"}]}
    limits = {"models": ["large", "small", "tiny"], "pools": ["spare"]}
    run = play(request({**step, **ways}, replan=limits), behave, world)
    given = {"question": "Who?"}
    assert asked == [
        ("reader", "large", given),
        ("second", "small", given),
        ("second", "large", given),
    ]
    assert run.state.finished is not None
    assert run.state.finished.result == {"answer": "yes"}


@pytest.mark.req("COG-4.4.1")
def test_the_change_is_journalled_with_its_reason_and_makes_a_new_version() -> None:
    def behave(task: StepTask) -> Any:
        return "from the archive" if task.program["entry"] == "steps:other" else BROKEN

    plan = request(call("a", args={"n": 1}, alternatives=[ENTRY]), retry={"attempts": 2})
    run = play(plan, behave)
    change = first(run, StepReplanned)
    assert (change.version, change.reason, change.attempt) == (2, "logic", 2)
    assert (change.before["entry"], change.to) == ("steps:a", ENTRY)
    assert "no such row" in change.why
    # Retries come first, attempt numbers go on, the inputs stay.
    scheduled = [record for record in run.journal if isinstance(record, StepScheduled)]
    assert [record.attempt for record in scheduled] == [1, 2, 3]
    assert scheduled[-1].at == change.at
    assert run.state.finished is not None
    assert run.state.finished.result == "from the archive"
    assert summarise(run.state).replans == 1
    events: list[RunEvent] = list(events_of(Entry("run-1", 1, encode_records(run.journal).data)))
    (told,) = [event.data for event in events if event.kind == "step.replanned"]
    assert (told["to"], told["version"]) == (ENTRY, 2)
    line = step_of({"kind": "step.replanned", "data": told})
    assert line is not None
    assert line["state"] == "Replanned"
    assert line["error"].startswith("now entry steps:other (logic: python_execution_error")


def test_the_way_has_retries_of_its_own() -> None:
    plan = request(call("a", alternatives=[ENTRY]), retry={"attempts": 3, "backoff": "1s"})
    run = play(plan, always(LATE))
    assert len(run.executed) == 6


@pytest.mark.req("COG-4.4.1")
@pytest.mark.parametrize(
    ("limits", "changed"),
    [({"maxPerStep": 1}, 4), ({"maxTotal": 3}, 3), ({"maxPerStep": 0}, 0), ({"maxTotal": 0}, 0)],
)
def test_a_run_changes_its_plan_only_so_often(limits: dict[str, int], changed: int) -> None:
    each = call("a", forEach="lists.range(4)", alternatives=[ENTRY, POOL], allowFailure=True)
    run = play(request(each, replan=limits), always(LATE), a_world("general", "spare"))
    assert len(changes(run)) == changed
    assert run.state.finished is not None
    assert run.state.finished.phase == "Succeeded"


@pytest.mark.req("COG-4.4.1")
@pytest.mark.parametrize("seed", ["a", "b", "c"])
def test_a_run_of_a_thousand_steps_goes_well_though_a_tenth_of_them_fail(seed: str) -> None:
    def behave(task: StepTask) -> Any:
        way = task.program["entry"]
        failing = draw(seed, str(task.key), "first") < 0.1
        lost = draw(seed, str(task.key), "lost") < 0.05
        return BROKEN if failing and (way.startswith("steps:s") or lost) else way

    steps = [
        call(
            f"s{layer}-{place}",
            needs=[f"s{layer - 1}-{(place + n) % 50}" for n in range(2)] if layer else [],
            alternatives=[{"entry": "other:way"}],
        )
        for layer in range(20)
        for place in range(50)
    ]
    plan = request(*steps, onError={"action": "continue"}, replan={"maxTotal": 200})
    run = play(plan, behave)
    changed = {record.key: record for record in run.journal if isinstance(record, StepReplanned)}
    ended = [run.state.unit(key).status for key in changed]
    assert 60 < len(changed) < 140
    assert ended.count("Succeeded") > 0.8 * len(ended)
    assert len(changes(run)) == len(changed), "one other way each, tried once"
    assert [record.version for record in changed.values()] == list(range(2, len(changed) + 2))
    next_ways = {
        record.key: record.at
        for record in run.journal
        if isinstance(record, StepScheduled) and record.attempt == 2
    }
    # The next way is scheduled by the decision that takes the failure in, whatever the run's size.
    assert next_ways == {key: record.at for key, record in changed.items()}
    assert run.state.finished is not None
    assert run.state.finished.phase == "Succeeded"


def test_a_way_that_is_not_there_leads_to_the_next_one() -> None:
    def behave(task: StepTask) -> Any:
        return 7 if task.program["entry"] == "steps:other" else LATE

    plan = request(call("a", alternatives=[{"pool": "gone"}, ENTRY]))
    run = play(plan, behave)
    assert changes(run) == [{"pool": "gone"}, ENTRY]
    assert run.state.finished is not None
    assert run.state.finished.result == 7


def test_a_full_queue_sends_a_step_elsewhere() -> None:
    world = a_world(queueLimit=1, queuePolicy="Reject")
    set_pool(world, "spare")
    plan = request(call("a"), call("b"), replan={"pools": ["spare"]})
    run = play(plan, lambda task: str(task.key), world)
    assert changes(run) == [POOL]
    assert run.state.finished is not None
    assert run.state.finished.phase == "Succeeded"


@pytest.mark.req("DSX-44")
def test_what_the_policy_says_follows_when_no_way_is_left() -> None:
    plan = request(
        call("a", alternatives=[ENTRY], onError={"action": "fallback", "step": "b"}),
        call("b"),
        call("c", needs=["a"]),
    )
    run = play(plan, lambda task: BROKEN if task.key.step == "a" else str(task.key))
    assert run.state.told["a"]["output"] == "b"
    last = [record for record in run.journal if isinstance(record, StepFailed)][-1]
    assert last.then == "fallback"


def test_a_sub_tree_takes_the_place_of_a_step() -> None:
    world = a_world()
    template = b'{"template": true, "steps": [{"name": "x", "call": {"entry": "m:f"}}]}'
    world.change(Change("templates/team/by-hand", template))
    plan = request(call("a", args={"n": 1}, alternatives=[{"workflow": "by-hand"}]))
    run = Clockwork(RunState(plan), world, always(BROKEN))
    run.advance()
    run.execute(StepKey("a"))
    run.advance()
    task = run.state.scheduled[StepKey("a")].task
    assert task is not None
    assert (task.kind, task.inputs, (task.program or {})["workflow"]) == (
        "workflow",
        {"n": 1},
        "by-hand",
    )


@pytest.mark.parametrize(
    ("step", "problem"),
    [
        ({"wait": {"duration": "1s"}, "alternatives": [POOL]}, "an agent or a call"),
        ({"call": {"entry": "m:f"}, "alternatives": [{}]}, "nothing that is different"),
        ({"call": {"entry": "m:f"}, "alternatives": [{"model": "x"}]}, "only an Agent"),
        (
            {"call": {"entry": "m:f"}, "alternatives": [{"agent": "x", "entry": "m:f"}]},
            "at most",
        ),
    ],
)
def test_ways_that_make_no_sense_are_refused(step: dict[str, Any], problem: str) -> None:
    manifest = {
        "apiVersion": "seedbed.dev/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": "w"},
        "spec": {"steps": [{"name": "a", **step}]},
    }
    assert any(problem in str(one) for one in validate(manifest))
