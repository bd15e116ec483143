"""How a run ends: compensation of what it did, and the steps that follow whatever the outcome."""

from __future__ import annotations

from typing import Any

import pytest

from seedbed.crds.engine_requests import Adjust, Cancel
from seedbed.crds.graph_builder import graph_problems
from seedbed.crds.messages import StepError, StepKey, StepTask
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.decide import asked
from seedbed.runtime.workflow.records import RunEnding, RunFinished
from seedbed.runtime.workflow.run_facts import LIMIT
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.summary import summarise
from tests.runs import Clockwork, a_world, call, play, request, set_pool


def names(clockwork: Clockwork) -> list[str]:
    return [name for name, _ in clockwork.executed]


def finished(run: Clockwork) -> RunFinished:
    assert run.state.finished is not None
    return run.state.finished


def breaking(*steps: str) -> Any:
    """A behaviour: these steps fail for good, all others tell their inputs."""

    def behave(task: StepTask) -> Any:
        if str(task.key) in steps:
            return StepError("broken", "it broke", retryable=False)
        return {"key": str(task.key), **task.inputs}

    return behave


def undone(name: str, **fields: Any) -> dict[str, Any]:
    """A step that says how it is undone."""
    undo = {"entry": f"steps:undo_{name}", "args": {"what": "${output.key}"}}
    return call(name, compensate=undo, **fields)


COMPENSATE = {"action": "compensate"}


@pytest.mark.req("DSX-44")
def test_what_succeeded_is_undone_last_one_first_before_the_run_fails() -> None:
    plan = request(
        undone("a"),
        undone("b", needs=["a"]),
        call("plain", needs=["b"]),
        undone("c", needs=["plain"]),
        call("d", needs=["c"], onError=COMPENSATE),
        call("never", needs=["d"]),
    )
    inputs: dict[str, Any] = {}

    def behave(task: StepTask) -> Any:
        inputs[str(task.key)] = task.inputs
        return breaking("d")(task)

    run = play(plan, behave)
    assert names(run)[5:] == ["c:compensate", "b:compensate", "a:compensate"]
    assert inputs["b:compensate"] == {"what": "b"}
    end = finished(run)
    assert (end.phase, end.reason) == ("Failed", "Compensated")
    assert end.message == "step d failed: it broke; 3 compensations ran"
    # What went well before stays readable.
    assert run.state.told["a"]["output"] == {"key": "a"}
    counts = summarise(run.state).counts
    assert counts.total == 6 + 3
    assert counts.running == 0


def test_running_steps_end_before_anything_is_undone_and_are_undone_too() -> None:
    plan = request(
        undone("slow"),
        undone("late"),
        call("bad", onError=COMPENSATE),
        call("next", needs=["slow"]),
    )
    world = a_world()
    run = Clockwork(RunState(plan, world.hands), world, breaking("bad", "late"))
    run.advance()
    run.execute(StepKey("bad"))
    run.advance()
    assert [str(key) for key in run.state.scheduled] == ["slow", "late"]
    assert run.state.finished is None
    run.to_the_end()
    assert names(run) == ["bad", "slow", "late", "slow:compensate"]
    assert finished(run).reason == "Compensated"


def test_a_compensation_that_an_owner_does_not_know_of_is_left_to_the_next_one() -> None:
    state = RunState(request(undone("a"), call("b", needs=["a"], onError=COMPENSATE)))
    assert state.behind(StepKey("a:compensate"), 1)
    assert not state.behind(StepKey("gone"), 1)


def test_items_are_undone_one_by_one_with_their_output() -> None:
    plan = request(
        undone("pay", forEach="['x', 'y', 'z']", args={"who": "${item}"}, allowFailure=True),
        call("bad", needs=["pay"], onError=COMPENSATE),
    )
    run = play(plan, breaking("bad", "pay[1]"))
    assert names(run)[4:] == ["pay[2]:compensate", "pay[0]:compensate"]


def looping(name: str, rounds: int, **fields: Any) -> dict[str, Any]:
    """A step of so many iterations, each of which says how it is undone."""
    args = {"what": "${output.key}", "n": "${iteration}", "of": "${output.n}", "b": "${previous}"}
    return call(
        name,
        args={"n": "${iteration}"},
        repeat={"until": f"iteration == {rounds - 1}", "max": rounds + 1},
        compensate={"entry": "steps:undo", "args": args},
        **fields,
    )


@pytest.mark.req("DSX-44")
def test_every_iteration_of_a_loop_is_undone_last_one_first() -> None:
    plan = request(
        looping("poll", 3),
        undone("b", needs=["poll"]),
        call("bad", needs=["b"], onError=COMPENSATE),
    )
    given: list[Any] = []

    def behave(task: StepTask) -> Any:
        if ":" in str(task.key):
            given.append((task.idempotency_key.removeprefix("run-1/"), task.inputs))
        return breaking("bad")(task)

    run = play(plan, behave)
    rounds = [{"key": "poll", "n": n} for n in range(3)]
    assert given == [
        ("b:compensate", {"what": "b"}),
        ("poll#2:compensate", {"what": "poll", "n": 2, "of": 2, "b": rounds[1]}),
        ("poll#1:compensate", {"what": "poll", "n": 1, "of": 1, "b": rounds[0]}),
        ("poll#0:compensate", {"what": "poll", "n": 0, "of": 0, "b": None}),
    ]
    assert finished(run).message == "step bad failed: it broke; 4 compensations ran"


def test_iterations_of_items_are_undone_also_where_the_loop_failed_in_the_end() -> None:
    def behave(task: StepTask) -> Any:
        if task.key.step == "poll" and task.key.index == 1 and task.inputs["n"] == 2:
            return StepError("broken", "it broke", retryable=False)
        return {"key": str(task.key), **task.inputs}

    plan = request(looping("poll", 3, forEach="[1, 2]"), onError=COMPENSATE)
    run = play(plan, behave)
    left = ["poll[0]#2", "poll[1]#1", "poll[0]#1", "poll[1]#0", "poll[0]#0"]
    assert names(run)[6:] == [f"{unit}:compensate" for unit in left]


@pytest.mark.parametrize("delay", ["0s", "30s"])
def test_a_loop_begins_no_further_iteration_once_its_run_is_undone(delay: str) -> None:
    slow = looping("slow", 3)
    slow["repeat"]["delay"] = delay
    plan = request(slow, call("bad", onError=COMPENSATE), undone("last", needs=["bad"]))
    world = a_world()
    run = Clockwork(RunState(plan, world.hands), world, breaking("bad"))
    run.advance()
    run.execute(StepKey("slow"))
    run.now += 30
    run.advance()
    run.execute(StepKey("bad"))
    run.advance()
    run.to_the_end()
    assert names(run) == ["slow", "bad", "slow", "slow#1:compensate", "slow#0:compensate"]
    assert finished(run).reason == "Compensated"


def test_a_compensation_is_tried_again_and_its_failure_is_told_and_stops_nothing() -> None:
    def behave(task: StepTask) -> Any:
        if str(task.key) == "b:compensate" or (
            str(task.key) == "a:compensate" and task.attempt < 3
        ):
            return StepError("broken", "not now")
        return breaking("c")(task)

    plan = request(
        undone("a"), undone("b", needs=["a"]), call("c", needs=["b"]), onError=COMPENSATE
    )
    run = play(plan, behave)
    assert [name for name in names(run) if name == "b:compensate"] == ["b:compensate"] * 5
    assert [name for name in names(run) if name == "a:compensate"] == ["a:compensate"] * 3
    end = finished(run)
    assert end.reason == "CompensationFailed"
    assert end.message == "step c failed: it broke; 2 compensations ran; b:compensate failed"


def test_a_run_that_is_undone_is_neither_cancelled_nor_out_of_time_before_its_limit() -> None:
    plan = request(
        undone("a", pool={"name": "gone"}),
        call("b", needs=["a"], onError=COMPENSATE),
        deadline="10s",
    )
    world = a_world("general", "gone")
    run = Clockwork(RunState(plan, world.hands), world, breaking("b"))
    run.turn()
    run.turn()
    set_pool(world, "gone", queueLimit=1)
    world.hands["team", "gone"] += 1  # full hands: the compensation cannot start
    run.advance()
    run.now += 60
    assert asked(run.state, Cancel("run-1", "enough"), run.now) == []
    run.advance()
    assert run.state.finished is None
    assert run.state.due() == 1000 + LIMIT
    run.now = 1000 + LIMIT
    run.advance()
    assert finished(run).reason == "CompensationFailed"


@pytest.mark.req("DSX-44")
def test_a_deadline_undoes_what_was_done_where_that_is_the_runs_policy() -> None:
    world = a_world()
    plan = request(
        undone("a"),
        undone("slow", needs=["a"]),
        call("rest", needs=["slow"]),
        onError=COMPENSATE,
        deadline="10s",
    )
    run = Clockwork(RunState(plan, world.hands), world, breaking())
    run.turn()
    run.advance()
    run.now += 10
    run.advance()
    told = summarise(run.state)
    assert (told.reason, told.message) == (
        "Compensating",
        "undoes what was done: not finished within 10s",
    )
    run.to_the_end()
    assert names(run) == ["a", "slow", "slow:compensate", "a:compensate"]
    end = finished(run)
    assert (end.phase, end.reason) == ("Failed", "Compensated")
    assert end.message == "not finished within 10s; 2 compensations ran"
    idle = Clockwork(
        RunState(
            request(
                {"name": "w", "wait": {"event": "e"}},
                undone("a", needs=["w"]),
                onError=COMPENSATE,
                deadline="1s",
            )
        ),
        world,
        breaking(),
    )
    assert idle.to_the_end().finished is not None
    assert finished(idle).reason == "DeadlineExceeded", "there is nothing to undo"


@pytest.mark.parametrize(
    ("broken", "phase", "reason"),
    [((), "Succeeded", "Succeeded"), (("a",), "Failed", "StepFailed")],
)
def test_on_exit_steps_run_whatever_the_outcome_and_see_it(
    broken: tuple[str, ...], phase: str, reason: str
) -> None:
    plan = request(
        call("a"),
        call("b", needs=["a"]),
        call(
            "tell",
            args={"phase": "${run.phase}", "reason": "${run.reason}", "b": "${steps.b.state}"},
        ),
        call("clean", needs=["tell"]),
        onExit=["tell", "clean"],
        result="steps.b.output.key",
    )
    run = play(plan, breaking(*broken))
    assert names(run)[-2:] == ["tell", "clean"]
    told = run.state.told["tell"]["output"]
    state = "Pending" if broken else "Succeeded"
    assert (told["phase"], told["reason"], told["b"]) == (phase, reason, state)
    assert (finished(run).phase, finished(run).reason) == (phase, reason)
    assert finished(run).result == (None if broken else "b")
    (ending,) = [record for record in run.journal if isinstance(record, RunEnding)]
    assert ending.phase == phase


def test_an_on_exit_step_that_fails_is_told_and_changes_nothing() -> None:
    plan = request(call("a"), call("tell"), call("clean", needs=["tell"]), onExit=["tell", "clean"])
    run = play(plan, breaking("tell"))
    assert names(run) == ["a", "tell", "clean"]
    assert finished(run).phase == "Succeeded"
    assert finished(run).message.endswith("; onExit step tell failed")
    assert finished(run).result == {"key": "a"}


def test_a_cancelled_run_and_one_out_of_time_do_their_exit_steps() -> None:
    plan = request(call("a"), call("tell"), onExit=["tell"], deadline="10s")
    world = a_world()
    for reason in ("Cancelled", "DeadlineExceeded"):
        run = Clockwork(RunState(plan, world.hands), world, breaking())
        run.advance()
        if reason == "Cancelled":
            asked(run.state, Cancel("run-1", "enough"), run.now)
        else:
            run.now += 10
        run.advance()
        told = summarise(run.state)
        assert (told.phase, told.reason) == ("Running", "OnExit")
        assert [str(key) for key in run.state.scheduled] == ["tell"]
        run.to_the_end()
        assert (finished(run).phase, finished(run).reason) == ("Failed", reason)


def test_a_suspended_run_that_is_cancelled_does_its_exit_steps() -> None:
    """Nobody may be left who could resume it: its Workflow may have been deleted."""
    world = a_world()
    plan = request(call("a"), call("tell"), onExit=["tell"], suspend=True)
    run = Clockwork(RunState(plan, world.hands), world, breaking())
    run.advance()
    asked(run.state, Cancel("run-1", "the Workflow was deleted"), run.now)
    run.to_the_end()
    assert names(run) == ["tell"]
    assert (finished(run).reason, run.now) == ("Cancelled", 1000)


def test_a_suspended_run_that_is_cancelled_while_it_undoes_ends_that_first() -> None:
    world = a_world()
    plan = request(undone("a"), call("b", needs=["a"], onError=COMPENSATE))
    run = Clockwork(RunState(plan, world.hands), world, breaking("b"))
    while not run.state.undoing:
        run.turn()
    asked(run.state, Adjust("run-1", suspend=True, parallelism=100), run.now)
    asked(run.state, Cancel("run-1", "the Workflow was deleted"), run.now)
    run.to_the_end()
    assert names(run) == ["a", "b", "a:compensate"]
    assert (finished(run).reason, run.now) == ("Compensated", 1000)


def test_on_exit_follows_compensation() -> None:
    plan = request(
        undone("a"),
        call("b", needs=["a"]),
        call("tell", args={"r": "${run.reason}"}),
        onExit=["tell"],
        onError=COMPENSATE,
    )
    run = play(plan, breaking("b"))
    assert names(run) == ["a", "b", "a:compensate", "tell"]
    assert run.state.told["tell"]["output"]["r"] == "Compensated"


def test_exit_steps_have_a_time_limit() -> None:
    plan = request(call("a"), call("tell", pool={"name": "gone"}), onExit=["tell"])
    world = a_world()
    run = Clockwork(RunState(plan, world.hands), world, breaking())
    run.to_the_end()
    assert run.now == 1000 + LIMIT
    assert finished(run).phase == "Succeeded"
    assert finished(run).message.endswith("onExit steps took too long")


@pytest.mark.parametrize(
    ("spec", "field", "says"),
    [
        ({"steps": [call("a")], "onExit": ["b"]}, "spec.onExit[0]", "no step `b`"),
        (
            {"steps": [call("a"), call("b", needs=["a"])], "onExit": ["b"]},
            "spec.steps[1].needs",
            "cannot need `a`",
        ),
        (
            {"steps": [call("a"), call("b", needs=["a"])], "onExit": ["a"]},
            "spec.steps[1].needs",
            "`a` is an onExit step",
        ),
        (
            {"steps": [call("a", onError=COMPENSATE)]},
            "spec.steps[0].onError.action",
            "no step of the Workflow says how",
        ),
        (
            {"steps": [call("a", compensate={"entry": "m:f", "args": {"x": "${steps.z.output}"}})]},
            "spec.steps[0].compensate.args.x",
            "no step `z`",
        ),
        (
            {"steps": [call("a", args={"x": "${output}"})]},
            "spec.steps[0].call.args.x",
            "only in repeat.until and compensate",
        ),
        (
            {"steps": [call("a")], "onError": {"action": "fallback", "step": "a"}},
            "spec.onError",
            "only a step can name its fallback",
        ),
    ],
)
def test_an_end_that_cannot_be_is_refused(spec: dict[str, Any], field: str, says: str) -> None:
    problems = graph_problems(WorkflowSpec.model_validate(spec))
    assert [(problem.field, says in problem.expected) for problem in problems] == [(field, True)]
