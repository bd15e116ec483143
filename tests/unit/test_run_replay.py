"""Random graphs, failures and crashes: a resumed run ends as one that was never disturbed."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import INLINE_LIMIT, Decision, RunRequest, StepError, StepKey, StepTask
from seedbed.runtime.workflow.record_form import decode_records, encode_records, missing_values
from seedbed.runtime.workflow.records import (
    ApprovalGiven,
    EventReceived,
    Record,
    RunAdjusted,
    RunCompensating,
    RunEnding,
    RunFinished,
    RunHeld,
    RunRestored,
    RunStarted,
    StepAnticipated,
    StepExpanded,
    StepFailed,
    StepRepeated,
    StepReplanned,
    StepReported,
    StepScheduled,
    StepSkipped,
    StepSucceeded,
    StepWaiting,
)
from seedbed.runtime.workflow.snapshot import shortest
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.summary import summarise
from tests.runs import Clockwork, a_world, call, request

KEY = StepKey("a", 3)
LARGE = "x" * (INLINE_LIMIT + 1)
EVERY_RECORD: list[Record] = [
    RunStarted(1.5),
    RunAdjusted(2.0, True, 7),
    RunHeld(2.5, "PoolNotFound", "Pool 'x' does not exist"),
    StepExpanded("a", 3.0, [1, {"b": None}, LARGE]),
    StepScheduled(KEY, 1, 4.0, "call", "general", 60.0, {"x": LARGE}, {"entry": "m:f"}),
    StepScheduled(KEY, 2, 4.0, "agent", "general", 60.0, None, {"instructions": "y" * 600}),
    StepFailed(KEY, 1, 5.0, "w", 4.1, 4.9, StepError("broken", "no", retryable=False), 6.0),
    StepFailed(
        KEY, 1, 5.0, "w", 4.1, 4.9, StepError("x", "y", category="timeout_error"), None, "skip"
    ),
    StepSucceeded(KEY, 2, 7.0, "w", 6.1, 6.9, LARGE),
    StepSucceeded(StepKey("b"), 1, 7.0, "w", 6.1, 6.9, None),
    StepSkipped(StepKey("c"), 8.0),
    StepSkipped(StepKey("d"), 8.0, "c chose else"),
    StepAnticipated(KEY, 2, 7.0, "w", 6.1, 6.9, LARGE),
    StepReported(KEY, 2, 7.0, "w", 6.1, 6.9, LARGE, None),
    StepReported(
        KEY, 2, 7.0, "w", 6.1, 6.9, None, StepError("broken", "no", False, "timeout_error")
    ),
    StepRepeated(KEY, 2, 7.0, "w", 6.1, 6.9, LARGE, 4, 7.5),
    StepReplanned(KEY, 2, 7.0, 2, "place", {"pool": "general"}, {"pool": "spare"}, "late"),
    StepWaiting(StepKey("e"), 8.0, None, "Go on?"),
    StepWaiting(StepKey("f"), 8.0, 9.5, "waits for the event paid", "paid"),
    ApprovalGiven("e", 8.0, Decision("approve", "kim", "why not")),
    EventReceived("paid", "id-1", 8.0, "tester", LARGE),
    RunCompensating(8.5, KEY),
    RunCompensating(8.5, StepKey(""), "not finished within 5m"),
    RunEnding(8.6, "Succeeded", "Succeeded", "", LARGE),
    RunFinished(9.0, "Failed", "StepFailed", "why", {"r": [1, 2]}),
    RunRestored(41, ((KEY, "Running", ""),), ("id-1", "id-2"), ((KEY, 2), (StepKey("b"), -1))),
]


def test_records_come_back_as_they_were_and_large_values_are_kept_once() -> None:
    encoded = encode_records(EVERY_RECORD)
    assert len(encoded.data) < 4000
    # The long text stands in three places: alone, in a list and in an object; alone it is one value.
    assert missing_values(encoded.data) == set(encoded.values)
    assert decode_records(encoded.data, encoded.values) == EVERY_RECORD
    twice = [StepSucceeded(StepKey("s", i), 1, 0.0, "", 0.0, 0.0, LARGE) for i in range(9)]
    assert len(encode_records(twice).values) == 1


@pytest.mark.parametrize("data", [b"{", b"[2, []]"])
def test_a_journal_of_another_version_is_refused(data: bytes) -> None:
    with pytest.raises(InvalidError, match="journal"):
        decode_records(data)


def test_a_missing_value_is_refused() -> None:
    encoded = encode_records(EVERY_RECORD)
    with pytest.raises(InvalidError, match="missing"):
        decode_records(encoded.data)


OF_ENGINE = ("branch", "approve", "wait")
# The Pool `spare` exists, the Pool `gone` does not.
WAYS = [{"entry": "steps:other"}, {"pool": "gone"}, {"pool": "spare"}]


@st.composite
def plans(draw: st.DrawFn) -> RunRequest:
    """A plan whose steps need earlier ones, in every combination of what a step can be."""
    steps: list[dict[str, Any]] = []
    for at in range(draw(st.integers(1, 7))):
        earlier = [f"s{n}" for n in range(at)]
        needs = draw(st.lists(st.sampled_from(earlier), unique=True, max_size=3)) if at else []
        fields: dict[str, Any] = {"needs": needs}
        form = draw(st.sampled_from(["plain", "each", "each-when", "skip", *OF_ENGINE]))
        if _stands_in(draw, steps, f"s{at}"):
            needs = []
            fields["needs"] = needs
        else:
            _enter(draw, steps, f"s{at}")
        # The branch behind whose arm a step stands does not count among what has to succeed.
        counted = [name for name in needs if not _is_arm(steps, name, f"s{at}")]
        if len(needs) > 1:
            fields["join"] = draw(st.sampled_from(["all", "any", min(2, len(counted))]))
        if form.startswith("each"):
            fields["forEach"] = f"lists.range({draw(st.integers(0, 4))})"
            fields["args"] = {"item": "${item}"}
        if form == "each-when":
            fields["when"] = "item % 2 == 0"
        if form == "skip":
            fields["when"] = "false"
        if needs and form == "plain" and fields.get("join", "all") == "all":
            fields["args"] = {"got": "${steps." + needs[0] + ".output}"}
        if form in ("plain", "each"):
            fields.update(_repeating(draw, fields.get("args", {})))
            fields["alternatives"] = draw(st.lists(st.sampled_from(WAYS), max_size=3))
        policies = ["fail", "continue", "skip", "abort"]
        policies += [] if "forEach" in fields else ["fallback"] * 2
        fields["onError"] = {"action": draw(st.sampled_from(policies))}
        if form in OF_ENGINE:
            steps.append({"name": f"s{at}", **_of_engine(draw, form), **fields})
        else:
            steps.append(call(f"s{at}", **fields))
    _without_stand_in(steps)
    _guess(draw, steps)
    ends = _ends(draw, steps)
    return request(
        *steps,
        **ends,
        parallelism=draw(st.integers(1, 5)),
        retry={"attempts": draw(st.integers(1, 3)), "backoff": "1s"},
        replan={
            "maxPerStep": draw(st.integers(0, 3)),
            "maxTotal": draw(st.integers(0, 4)),
            "pools": draw(st.sampled_from([[], ["spare"]])),
        },
    )


def _repeating(draw: st.DrawFn, args: dict[str, Any]) -> dict[str, Any]:
    """The fields of a step that repeats, now and then."""
    if draw(st.booleans()):
        return {}
    repeat = {
        "until": draw(st.sampled_from(["iteration == 1", "output.attempt > 3", "false"])),
        "max": draw(st.integers(1, 3)),
        "exhausted": draw(st.sampled_from(["fail", "continue"])),
        **draw(st.sampled_from([{}, {"delay": "2s"}])),
    }
    return {"repeat": repeat, "args": {**args, "before": "${previous}"}}


def _of_engine(draw: st.DrawFn, form: str) -> dict[str, Any]:
    """The body of a step that no worker executes, with whatever ends its wait."""
    if form == "branch":
        condition = draw(st.sampled_from(["true", "false"]))
        return {"branch": {"when": condition, "then": [], "else": []}}
    if form == "approve":
        default = draw(st.sampled_from(["approve", "reject"]))
        return {"approve": {"message": "?", "deadline": "7s", "default": default}}
    return {"wait": draw(st.sampled_from([{"duration": "3s"}, {"event": "x", "timeout": "5s"}]))}


def _guess(draw: st.DrawFn, steps: list[dict[str, Any]]) -> None:
    """Let branches start their steps early, now and then."""
    plain = {
        step["name"]: str(step["call"])
        for step in steps
        if "call" in step and not step.keys() & {"when", "forEach", "repeat", "join"}
    }
    for step in steps:
        # Who reads what the branch decides cannot start before it.
        able_of = {name for name, call in plain.items() if f"steps.{step['name']}." not in call}
        for arm in ("then", "else"):
            able = [name for name in step.get("branch", {}).get(arm, ()) if name in able_of]
            if draw(st.booleans()) and able:
                step["branch"]["speculate"] = {"arm": arm, "confidence": 1}
                for each in steps:
                    each["pure"] = each.get("pure", False) or each["name"] in able


def _ends(draw: st.DrawFn, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Give the plan steps behind its outcome, and a way back, now and then."""
    back = [step for step in steps if "call" in step and draw(st.booleans())]
    for step in back:
        step["compensate"] = {"entry": "steps:undo", "args": {"what": "${output.key}"}}
        if step["onError"]["action"] == "fail":
            step["onError"]["action"] = draw(st.sampled_from(["fail", "compensate"]))
    if not draw(st.booleans()):
        return {}
    steps.append(call("exit-0", args={"phase": "${run.phase}"}))
    steps.append(call("exit-1", needs=["exit-0"], allowFailure=True))
    return {"onExit": ["exit-0", "exit-1"]}


def _without_stand_in(steps: list[dict[str, Any]]) -> None:
    """Steps that found no fallback are skipped instead."""
    for step in steps:
        policy = step.get("onError", {})
        if policy.get("action") == "fallback" and "step" not in policy:
            policy["action"] = "skip"


def _stands_in(draw: st.DrawFn, earlier: list[dict[str, Any]], name: str) -> bool:
    """Make a step the fallback of an earlier one, now and then."""
    for step in earlier:
        policy: dict[str, Any] = step.get("onError", {})
        if policy.get("action") == "fallback" and "step" not in policy:
            taken: bool = draw(st.booleans())
            if taken:
                policy["step"] = name
                return True
    return False


def _enter(draw: st.DrawFn, earlier: list[dict[str, Any]], name: str) -> None:
    """Put a step behind an arm of an earlier branch, now and then."""
    branches = [step["branch"] for step in earlier if "branch" in step]
    if draw(st.booleans()) and branches:
        branch, arm = draw(st.sampled_from(branches)), draw(st.sampled_from(["then", "else"]))
        branch[arm].append(name)


def _is_arm(steps: list[dict[str, Any]], branch: str, name: str) -> bool:
    """Whether a step stands behind an arm of a branch."""
    arms = next(step for step in steps if step["name"] == branch).get("branch", {})
    return name in (*arms.get("then", ()), *arms.get("else", ()))


def behaviour(failures: dict[tuple[str, int], int]) -> Any:
    """Fails the first attempts of some units, and gives the rest's inputs back."""

    def behave(task: StepTask) -> Any:
        if task.attempt <= failures.get((task.key.step, task.key.index), 0):
            code = "broken" if task.attempt % 2 else "timeout"
            return StepError(code, f"{task.key} attempt {task.attempt}")
        return {"key": str(task.key), "attempt": task.attempt, **task.inputs}

    return behave


def outcome(state: RunState) -> dict[str, Any]:
    """What must not depend on crashes: all of a run that succeeded, that it failed otherwise."""
    assert state.finished is not None
    if state.finished.phase == "Failed":
        last = {name: state.told[name]["output"] for name in state.graph.exits}
        return {"phase": "Failed", "last": last}
    return {
        "phase": "Succeeded",
        "result": state.finished.result,
        "told": state.told,
        "counts": state.counts,
    }


def resumed(plan: RunRequest, groups: list[bytes], snapshot: tuple[int, bytes] | None) -> RunState:
    """What a new owner makes of the store's content."""
    state = RunState(plan)
    position = 0
    if snapshot is not None:
        position, data = snapshot
        for record in decode_records(data):
            state.apply(record)
    for group in groups[position:]:
        for record in decode_records(group):
            state.apply(record)
    return state


NAMES = [f"s{n}" for n in range(7)]
FAILURES = st.dictionaries(
    st.tuples(st.sampled_from([*NAMES, "s1:compensate", "exit-0"]), st.integers(-1, 3)),
    st.integers(1, 3),
    max_size=6,
)
CRASHES = st.lists(st.tuples(st.integers(0, 12), st.booleans()), max_size=8)
FAILS_WITH_ITS_FALLBACK = RunRequest(
    "run-1",
    "team",
    "plan",
    {
        "retry": {"attempts": 1},
        "parallelism": 1,
        "steps": [
            {
                "name": "s0",
                "approve": {"message": "?", "deadline": "7s", "default": "reject"},
                "onError": {"action": "fallback", "step": "s1"},
            },
            {
                "name": "s1",
                "call": {"entry": "steps:s1"},
                "forEach": "lists.range(1)",
                "repeat": {"until": "iteration == 1", "max": 1, "exhausted": "fail"},
                "onError": {"action": "continue"},
            },
            {"name": "s2", "call": {"entry": "steps:s2"}, "needs": ["s0"]},
        ],
    },
)


@settings(max_examples=300, deadline=None)
@given(plan=plans(), failures=FAILURES, crashes=CRASHES, snapshot_every=st.integers(1, 9))
@example(
    plan=FAILS_WITH_ITS_FALLBACK,
    failures={},
    crashes=[(4, False)],
    snapshot_every=1,
)
def test_crashes_change_nothing(
    plan: RunRequest,
    failures: dict[tuple[str, int], int],
    crashes: list[tuple[int, bool]],
    snapshot_every: int,
) -> None:
    world = a_world("general", "spare")
    behave = behaviour(failures)
    undisturbed = Clockwork(RunState(plan), world, behave)
    undisturbed.to_the_end()

    groups: list[bytes] = []
    snapshot: tuple[int, bytes] | None = None
    run = Clockwork(RunState(plan), world, behave)
    wait = iter(crashes)
    left, keep_result = next(wait, (None, False))
    while not run.state.finished:
        if left == 0:
            # Whatever was decided or executed and not committed is lost with the process.
            now, run = run.now, Clockwork(resumed(plan, groups, snapshot), world, behave)
            run.now = now
            left, keep_result = next(wait, (None, False))
        elif left is not None:
            left -= 1
        before = len(run.journal)
        if run.state.scheduled:
            run.execute(next(iter(run.state.scheduled)))
            if left == 0 and not keep_result:
                continue
        elif (due := run.state.due()) is not None:
            run.now = max(run.now, due)
        run.advance()
        if run.journal[before:]:
            groups.append(encode_records(run.journal[before:]).data)
        if len(groups) % snapshot_every == 0 and not run.state.finished:
            snapshot = (len(groups), encode_records(shortest(run.state)).data)

    assert outcome(run.state) == outcome(undisturbed.state)
    journal = [record for group in groups for record in decode_records(group)]
    completed = Counter(r.key for r in journal if isinstance(r, StepSucceeded))
    assert all(count == 1 for count in completed.values())
    attempts = Counter((r.key, r.attempt) for r in journal if isinstance(r, StepScheduled))
    assert all(count == 1 for count in attempts.values())
    if run.state.finished.phase == "Succeeded":
        # A fallback's success is that of the step it stands for, too.
        twice = [
            told
            for told in run.state.told.values()
            if told["state"] == "Succeeded" and isinstance(told["error"], dict)
        ]
        assert sum(completed.values()) == run.state.counts["succeeded"] - len(twice)
    replayed = resumed(plan, groups, None)
    assert summarise(replayed) == summarise(run.state)


@settings(max_examples=100, deadline=None)
@given(plan=plans(), failures=FAILURES, turns=st.integers(0, 20))
def test_a_snapshot_stands_for_the_journal(
    plan: RunRequest, failures: dict[tuple[str, int], int], turns: int
) -> None:
    world = a_world("general", "spare")
    run = Clockwork(RunState(plan, world.hands), world, behaviour(failures))
    for _ in range(turns):
        if not run.turn():
            break
    if run.state.finished or run.state.started is None:
        return
    again = RunState(plan)
    for record in decode_records(encode_records(shortest(run.state)).data):
        again.apply(record)
    assert summarise(again) == summarise(run.state)
    assert {k: (u.attempt, u.task) for k, u in again.scheduled.items()} == {
        k: (u.attempt, u.task) for k, u in run.state.scheduled.items()
    }
    assert again.told == run.state.told
    assert again.revisions == run.state.revisions
