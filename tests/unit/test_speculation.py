"""Steps that started for a branch which then chose otherwise: nothing of them is left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.crds.engine_requests import Cancel, Signal, Submit
from seedbed.crds.graph_builder import graph_problems
from seedbed.crds.messages import RunRequest, StepError, StepKey, StepTask
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.decide import asked
from seedbed.runtime.workflow.record_form import decode_records, encode_records
from seedbed.runtime.workflow.snapshot import shortest
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.summary import summarise
from tests.conftest import run_async
from tests.runs import Clockwork, a_world, call, request, set_pool
from tests.small_engine import a_store, ask, serving, until


def guessing(early: dict[str, Any], *steps: dict[str, Any], choose: str) -> RunRequest:
    """A branch behind the event `judged`, of which `early` is expected to be needed."""
    guess = {"arm": "then", "confidence": 0.9}
    chosen = {"when": choose, "then": [early["name"]], "else": ["other"], "speculate": guess}
    return request(
        {"name": "judge", "wait": {"event": "judged"}},
        {"name": "choose", "needs": ["judge"], "branch": chosen},
        {**early, "pure": True},
        call("other"),
        *steps,
    )


@pytest.mark.req("COG-2.2.2")
def test_a_worker_drops_what_a_branch_has_not_chosen(tmp_path: Path) -> None:
    args = {"folder": str(tmp_path), "item": 0, "stuck": 0}
    early = {"name": "early", "call": {"entry": "tests.steps:stopped_once", "args": args}}
    plan = guessing(early, {"name": "last", "wait": {"event": "end"}}, choose="false")
    plan.spec["steps"][3]["call"] = {"entry": "tests.steps:echo", "args": {"x": 1}}

    async def body() -> None:
        async with asyncio.timeout(40), a_store(tmp_path) as store, serving(store) as bus:
            await ask(bus, plan.run, Submit(plan))
            while not traces(tmp_path, "item-*"):
                await asyncio.sleep(0.01)
            await ask(bus, plan.run, Signal(plan.run, "judged", "1", None, "tester"))
            # Not only when the run ends, which has another step to wait for.
            while not traces(tmp_path, "stopped-*"):
                await asyncio.sleep(0.01)
            found = await until(bus, plan.run, lambda told: told.counts.succeeded == 3)
            assert (found.phase, found.counts.running, found.counts.skipped) == ("Running", 0, 1)
            await ask(bus, plan.run, Cancel(plan.run, "seen enough"))

    run_async(body())


def test_what_cannot_start_early_holds_nothing_up_and_leaves_no_trace() -> None:
    early = call("early", pool={"name": "gone"})
    last = {"name": "last", "wait": {"event": "end"}}
    for choose in ("true", "false"):
        world = a_world()
        plan = guessing(early, last, choose=choose)
        run = Clockwork(RunState(plan, world.hands), world, lambda task: task.inputs)
        run.advance()
        assert summarise(run.state).reason == "Waiting", "it may not be needed at all"
        run.journal += decided(run, "judged")
        run.turn()
        needed = choose == "true"
        assert (summarise(run.state).reason == "PoolNotFound") is needed
        run.turn()
        run.advance()
        assert bool(run.state.lanes) is needed
        if needed:
            set_pool(world, "gone")
            run.advance()
            assert StepKey("early") in run.state.scheduled


def traces(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern))


def decided(run: Clockwork, event: str) -> list[Any]:
    return asked(run.state, Signal("run-1", event, "1", None, "tester"), run.now)


@st.composite
def plans(draw: st.DrawFn) -> tuple[list[dict[str, Any]], set[str]]:
    """Steps with branches that expect an arm, often the wrong one; and which steps fail."""
    steps: list[dict[str, Any]] = []
    entered: set[str] = set()
    count = draw(st.integers(2, 9))
    for at in range(count):
        earlier = [step["name"] for step in steps]
        needs = draw(st.lists(st.sampled_from(earlier), max_size=2, unique=True)) if earlier else []
        fields: dict[str, Any] = {"needs": needs, "pure": draw(st.booleans())}
        fields["onError"] = {
            "action": draw(st.sampled_from(["fail", "continue", "skip", "compensate"]))
        }
        if draw(st.booleans()):
            fields["compensate"] = {"entry": "steps:undo"}
        steps.append(call(f"s{at}", **fields))
    for at in range(draw(st.integers(1, 3))):
        free = [f"s{place}" for place in range(count) if f"s{place}" not in entered]
        mine = draw(st.lists(st.sampled_from(free), max_size=3, unique=True)) if free else []
        entered |= set(mine)
        cut = draw(st.integers(0, len(mine)))
        arms = {"then": mine[:cut], "else": mine[cut:]}
        judged: dict[str, Any] = {"when": draw(st.sampled_from(["true", "false"])), **arms}
        pure = {step["name"] for step in steps if step.get("pure")}
        if able := [arm for arm, names in arms.items() if pure & set(names)]:
            judged["speculate"] = {"arm": draw(st.sampled_from(able)), "confidence": 0.9}
        steps.append(call(f"j{at}"))
        steps.append({"name": f"b{at}", "needs": [f"j{at}"], "branch": judged})
    if not any("compensate" in step for step in steps):
        steps.append(call("last", compensate={"entry": "steps:undo"}))
    names = [step["name"] for step in steps if "call" in step]
    return steps, draw(st.sets(st.sampled_from(names), max_size=2))


def outcome(
    steps: list[dict[str, Any]], failing: set[str], order: list[int], *, crash: bool = False
) -> tuple[Any, ...]:
    """How a run ends; `order` says which of the scheduled units ends next."""

    def behave(task: StepTask) -> Any:
        broken = task.key.step in failing
        return StepError("broken", "it broke", retryable=False) if broken else str(task.key)

    world = a_world()
    plan = request(*steps)
    run = Clockwork(RunState(plan, world.hands), world, behave)
    for turn in range(200):
        run.advance()
        if run.state.finished or not run.state.scheduled:
            break
        keys = sorted(run.state.scheduled, key=str)
        run.execute(keys[order[turn % len(order)] % len(keys)])
        if crash:
            encoded = encode_records(shortest(run.state))
            run.state.release()
            again = RunState(plan, world.hands)
            for record in decode_records(encoded.data, encoded.values):
                again.apply(record)
            run.state = again
    state = run.state
    assert state.finished is not None
    assert not world.hands.total()
    assert state.finished.phase == "Failed" or not state.kept
    return state.finished.phase, state.finished.reason, state.told


def without_guesses(steps: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {**step, "branch": {k: v for k, v in step["branch"].items() if k != "speculate"}}
        if "branch" in step
        else step
        for step in steps
    ]


@pytest.mark.req("COG-2.2.2")
@settings(max_examples=80, deadline=None)
@given(plans(), st.lists(st.integers(0, 20), min_size=1, max_size=12))
def test_a_guess_changes_nothing_of_what_a_run_comes_to(
    plan: tuple[list[dict[str, Any]], set[str]], order: list[int]
) -> None:
    steps, failing = plan
    if graph_problems(WorkflowSpec.model_validate({"steps": steps})):
        return
    plain = outcome(without_guesses(steps), failing, order)
    guessed = outcome(steps, failing, order)
    resumed = outcome(steps, failing, order, crash=True)
    if plain[0] == "Succeeded":  # else it depends on what ended first
        assert plain == guessed
    assert guessed == resumed
