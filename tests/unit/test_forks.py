"""What a run takes over from an earlier one, and what it executes again."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import RunRequest, StepError, StepTask
from seedbed.crds.step import Step
from seedbed.runtime.workflow.checkpoint.fork import Inherited, changed_params, inherited, reads
from seedbed.runtime.workflow.plan import plan_of
from seedbed.runtime.workflow.records import RunForked, RunStarted
from seedbed.runtime.workflow.snapshot import shortest
from seedbed.runtime.workflow.state import RunState
from tests.runs import Clockwork, a_world, call, play, request


def compute(task: StepTask) -> Any:
    """A step's output depends on its inputs and on nothing else."""
    return {"of": task.key.step, "got": task.inputs}


def forked(state: RunState, plan: RunRequest) -> tuple[Inherited, Clockwork]:
    """A run of `plan` from a state of another, to its end."""
    before, after = plan_of(state.request), plan_of(plan)
    wanted = after.spec.fork_from.again if after.spec.fork_from is not None else ()
    found = inherited(shortest(state), before, after, wanted)
    world = a_world()
    run = RunState(plan, world.hands)
    run.apply(RunStarted(1.0))
    run.apply(RunForked(1.0, state.request.run, 0, found.taken, len(found.again)))
    for record in found.records:
        run.apply(record)
    clockwork = Clockwork(run, world, compute)
    clockwork.to_the_end()
    return found, clockwork


def executed(clockwork: Clockwork) -> set[str]:
    return {key for key, _ in clockwork.executed}


def chain(run: str = "run-1", **params: Any) -> RunRequest:
    return request(
        call("load", args={"from": "${params.source}"}),
        call("clean", args={"rows": "${steps.load.output}"}),
        call("score", args={"rows": "${steps.clean.output}", "limit": "${params['limit']}"}),
        call("count", args={"rows": "${steps.clean.output}"}),
        call("report", args={"a": "${steps.score.output}", "b": "${steps.count.output}"}),
        params={"source": "s3", "limit": 3, **params},
        run=run,
    )


def test_steps_that_the_user_names_run_again_with_all_that_need_them() -> None:
    done = play(chain(), compute)
    plan = chain("run-2")
    plan.spec["forkFrom"] = {"again": ["count"]}
    found, again = forked(done.state, plan)
    assert found.again == ("count", "report")
    assert executed(again) == {"count", "report"}
    plan.spec["forkFrom"] = {"again": ["cont"]}
    with pytest.raises(InvalidError, match=r"spec.forkFrom.again\[0\]: .* did you mean `count`"):
        plan_of(plan)


def test_only_what_reads_a_changed_parameter_and_what_needs_it_runs_again() -> None:
    done = play(chain(), compute)
    found, again = forked(done.state, chain("run-2", limit=9))
    assert found.again == ("score", "report")
    assert found.taken == 3
    assert executed(again) == {"score", "report"}
    fresh = play(chain("run-2", limit=9), compute)
    assert again.state.finished is not None
    assert fresh.state.finished is not None
    assert again.state.finished.result == fresh.state.finished.result
    assert again.state.counts == fresh.state.counts


def test_the_same_plan_takes_everything_over() -> None:
    done = play(chain(), compute)
    found, again = forked(done.state, chain("run-2"))
    assert (found.taken, found.again, again.executed) == (5, (), [])
    assert again.state.finished is not None
    assert done.state.finished is not None
    assert again.state.finished.result == done.state.finished.result


def test_a_step_that_was_changed_or_added_is_executed() -> None:
    done = play(chain(), compute)
    plan = chain("run-2")
    steps = plan.spec["steps"]
    steps[3] = call("count", args={"rows": "${steps.clean.output}", "fast": True})
    steps.append(call("extra", needs=["clean"]))
    _, again = forked(done.state, plan)
    assert executed(again) == {"count", "report", "extra"}


def test_how_a_step_is_run_does_not_matter() -> None:
    done = play(chain(), compute)
    plan = chain("run-2")
    plan.spec["steps"][0] |= {"timeout": "5m", "retry": {"attempts": 5}}
    found, _ = forked(done.state, plan)
    assert found.again == ()


def test_a_failed_run_goes_on_from_where_it_failed() -> None:
    def broken(task: StepTask) -> Any:
        if task.key.step == "score":
            return StepError("broken", "no", retryable=False)
        return compute(task)

    failed = play(chain(), broken)
    assert failed.state.finished is not None
    assert failed.state.finished.phase == "Failed"
    _, again = forked(failed.state, chain("run-2"))
    assert "score" in executed(again)
    assert executed(again).isdisjoint({"load", "clean"})
    assert again.state.finished is not None
    assert again.state.finished.phase == "Succeeded"


def test_items_that_had_ended_are_kept_and_the_others_run() -> None:
    plan = request(
        call("each", forEach="lists.range(6)", args={"n": "${item}"}),
        call("all", args={"got": "${steps.each.output}"}),
        parallelism=1,
    )
    world = a_world()
    clockwork = Clockwork(RunState(plan, world.hands), world, compute)
    for _ in range(3):
        clockwork.turn()
    _, again = forked(clockwork.state, RunRequest("run-2", "team", "plan", plan.spec))
    assert executed(again) == {"each[3]", "each[4]", "each[5]", "all"}
    assert again.state.finished is not None
    assert again.state.finished.result["got"]["got"][5] == {"of": "each", "got": {"n": 5}}


def fails_once(name: str) -> Any:
    def behave(task: StepTask) -> Any:
        if task.key.step == name and task.run == "run-1":
            return StepError("broken", "no", retryable=False)
        return compute(task)

    return behave


def forked_from(plan: RunRequest, behave: Any) -> Clockwork:
    """A fork of the plan's run, which fails somewhere; it ends well."""
    first = play(plan, behave)
    _, again = forked(first.state, RunRequest("run-2", "team", "plan", plan.spec))
    assert again.state.finished is not None
    assert again.state.finished.phase == "Succeeded"
    fresh = play(RunRequest("run-2", "team", "plan", plan.spec), compute)
    assert fresh.state.finished is not None
    assert again.state.finished.result == fresh.state.finished.result
    assert again.state.told == fresh.state.told
    return again


def test_what_was_compensated_is_executed_again() -> None:
    undo = {"entry": "steps:undo", "args": {"what": "${output.of}"}}
    plan = request(
        call("book", compensate=undo),
        call("each", forEach="lists.range(2)", compensate=undo),
        call("plain"),
        call("pay", needs=["book", "each", "plain"], onError={"action": "compensate"}),
    )
    again = forked_from(plan, fails_once("pay"))
    assert executed(again) == {"book", "each[0]", "each[1]", "pay"}


def test_every_iteration_of_a_loop_that_was_taken_over_can_be_undone() -> None:
    def plan(run: str) -> RunRequest:
        undo = {"entry": "steps:undo", "args": {"what": "${output.n}"}}
        loop = {"until": "iteration == 2", "max": 3}
        pay = {"action": "compensate"} if run == "run-2" else {"action": "fail"}
        return request(
            call("poll", args={"n": "${iteration}"}, repeat=loop, compensate=undo),
            call("pay", needs=["poll"], onError=pay),
            run=run,
        )

    undone: list[Any] = []

    def behave(task: StepTask) -> Any:
        if ":" in task.key.step:
            undone.append((str(task.key), task.inputs["what"]))
        wrong = StepError("broken", "it broke", retryable=False)
        return wrong if task.key.step == "pay" else task.inputs

    done, after = play(plan("run-1"), behave).state, plan("run-2")
    found = inherited(shortest(done), plan_of(done.request), plan_of(after))
    world = a_world()
    run = RunState(after, world.hands)
    for record in (RunStarted(1.0), *found.records):
        run.apply(record)
    again = Clockwork(run, world, behave)
    again.to_the_end()
    assert executed(again) == {"pay", *(f"poll#{n}:compensate" for n in range(3))}
    assert undone == [(f"poll#{n}:compensate", n) for n in (2, 1, 0)]
    assert found.taken == 1


def looping(run: str, *, by: int = 1, **spec: Any) -> RunRequest:
    loop = {"until": "output.n >= 4", "max": 9}
    add = {"n": "${iteration == 0 ? params.by : previous.n + params.by}"}
    return request(
        call("one", args=add, repeat=loop),
        call("each", forEach="[10, 20]", args={"of": "${item}", **add}, repeat=loop),
        call("end", args={"got": "${[steps.one.output.n, steps.each.output.map(e, e.n)]}"}),
        params={"by": by},
        result="steps.end.output.got",
        run=run,
        **spec,
    )


@pytest.mark.req("DSX-44")
@pytest.mark.parametrize("done", range(9))
def test_a_loop_that_is_under_way_goes_on_where_it_stood(done: int) -> None:
    world = a_world()
    before = Clockwork(RunState(looping("run-1"), world.hands), world, lambda task: task.inputs)
    before.advance()
    for _ in range(done):
        # One iteration of each in turn.
        before.execute(min(before.state.scheduled, key=lambda key: before.state.unit(key).attempt))
        before.advance()
    plan = looping("run-2")
    found = inherited(shortest(before.state), plan_of(before.state.request), plan_of(plan))
    state = RunState(plan, world.hands)
    for record in (RunStarted(1.0), *found.records):
        state.apply(record)
    after = Clockwork(state, world, lambda task: task.inputs)
    after.to_the_end()
    assert after.state.finished is not None
    assert after.state.finished.result == [4, [4, 4]]
    assert len(before.executed) + len(after.executed) == 3 * 4 + 1, "no iteration twice"
    # Asked to, or with another parameter, it begins anew.
    for other, wanted in ((plan, ("one", "each")), (looping("run-3", by=2), ())):
        asked = (plan_of(before.state.request), plan_of(other), wanted)
        assert inherited(shortest(before.state), *asked).records == ()


def test_steps_that_follow_the_outcome_follow_the_new_one() -> None:
    plan = request(call("work"), call("late", needs=["work"]), call("report"), onExit=["report"])
    again = forked_from(plan, fails_once("late"))
    assert executed(again) == {"late", "report"}


def test_a_step_that_another_stood_in_for_is_tried_again() -> None:
    plan = request(
        call("first", onError={"action": "fallback", "step": "second"}),
        call("second"),
        call("third", args={"got": "${steps.first.output}"}),
    )
    again = forked_from(plan, fails_once("first"))
    assert executed(again) == {"first", "third"}


def test_an_arm_that_was_not_taken_stays_so_unless_the_branch_is_decided_anew() -> None:
    def branching(*, urgent: bool, run: str = "run-1") -> RunRequest:
        branch = {"when": "params.urgent", "then": ["page"], "else": ["write"]}
        return request(
            call("load"),
            {"name": "choose", "branch": branch, "needs": ["load"]},
            call("page"),
            call("write"),
            params={"urgent": urgent},
            run=run,
        )

    done = play(branching(urgent=True), compute)
    _, same = forked(done.state, branching(urgent=True, run="run-2"))
    assert same.executed == []
    _, other = forked(done.state, branching(urgent=False, run="run-3"))
    assert executed(other) == {"write"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${params.limit + 1}", True),
        ("${params . limit}", True),
        ("it's ${params['limit']} isn't", True),
        ('${params["limit"]}', True),
        ("${toJson(params)}", True),
        ("${params[steps.a.output]}", True),
        ("${params.other}", False),
        ("${params.limits}", False),
        ("limit", False),
        ("${steps.limit.output}", False),
    ],
)
def test_which_parameters_a_step_reads(text: str, *, expected: bool) -> None:
    step = Step.model_validate(call("x", args={"deep": [{"text": text}]}))
    assert reads(step, frozenset({"limit"})) is expected


def test_a_parameter_that_came_or_went_has_changed() -> None:
    assert changed_params({"a": 1, "b": None}, {"b": None, "c": 1}) == {"a", "c"}
    assert changed_params({"a": None}, {}) == {"a"}


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[dict[str, Any]], dict[str, int], dict[str, int]]:
    steps = []
    for at in range(draw(st.integers(1, 8))):
        reading: Any = draw(st.lists(st.sampled_from("abc"), unique=True, max_size=2))
        needs = draw(st.lists(st.integers(0, at - 1), unique=True, max_size=3)) if at else []
        args = {name: f"${{params.{name}}}" for name in reading}
        args |= {f"s{need}": f"${{steps.s{need}.output}}" for need in needs}
        fields: dict[str, Any] = {"args": args}
        each: Any = draw(st.booleans())
        if each:
            fields["forEach"] = f"lists.range({draw(st.integers(0, 3))})"
        if reading and draw(st.booleans()):
            fields["when"] = f"params.{reading[0]} > 1"
        steps.append(call(f"s{at}", **fields))
    values = st.fixed_dictionaries({name: st.integers(0, 3) for name in "abc"})
    return steps, draw(values), draw(values)


@settings(max_examples=150, deadline=None)
@given(plans(), st.integers(0, 40))
def test_a_fork_ends_as_a_run_that_began_with_its_parameters(
    made: tuple[list[dict[str, Any]], dict[str, int], dict[str, int]], turns: int
) -> None:
    steps, old, new = made
    world = a_world()
    first = Clockwork(RunState(request(*steps, params=old), world.hands), world, compute)
    for _ in range(turns):
        first.turn()
    plan = request(*steps, params=new, run="run-2")
    _, fork = forked(first.state, plan)
    fresh = play(plan, compute)
    assert fork.state.finished is not None
    assert fresh.state.finished is not None
    assert fork.state.finished.phase == fresh.state.finished.phase
    assert fork.state.finished.result == fresh.state.finished.result
    assert fork.state.told == fresh.state.told
    if old == new:
        ended = {key for key, _ in first.executed}
        assert executed(fork).isdisjoint(ended)
