"""A run whose budget is used up waits with the steps that ask Agents, and loses nothing."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from seedbed.crds.messages import StepError, StepKey, StepTask
from seedbed.crds.money import nanos
from seedbed.crds.spending import SPENDING_PREFIX, Spending
from seedbed.runtime.coordination.port import Change
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.world import World
from tests.runs import Clockwork, a_world, call, request, set_agent

PLAN = request(
    call("first"),
    {"name": "ask", "agent": {"name": "reader", "inputs": {"question": "${steps.first.output}"}}},
    call("beside"),
    retry={"attempts": 1},
)


def spend(world: World, account: str, dollars: str, refused_under: str = "0") -> None:
    value = Spending(nanos(dollars), nanos(refused_under)).written()
    world.change(Change(f"{SPENDING_PREFIX}{account}", value))


def limit(world: World, dollars: str) -> None:
    value = orjson.dumps({"budget": {"limit": dollars}})
    world.change(Change("workflows/team/plan", value))


def behave(task: StepTask) -> Any:
    return {"answer": "fine"} if task.kind == "agent" else "done"


@pytest.mark.req("COG-3.4.2")
@pytest.mark.parametrize("owner", ["agents/team/reader", "workflows/team/plan"])
def test_steps_that_ask_wait_for_a_raise_and_others_go_on(owner: str) -> None:
    world = a_world()
    if owner.startswith("agents"):
        set_agent(world, "reader", budget={"limit": "10"})
    else:
        set_agent(world, "reader")
        limit(world, "10")
    spend(world, owner, "9.5")
    run = Clockwork(RunState(PLAN), world, behave)
    run.to_the_end()
    assert sorted(name for name, _ in run.executed) == ["beside", "first"]
    held = run.state.held
    assert held is not None
    assert held.reason == "BudgetExceeded"
    assert "$9.50 of $10 spent" in held.message
    if owner.startswith("agents"):
        set_agent(world, "reader", budget={"limit": "11"})
    else:
        limit(world, "11")
    state = run.to_the_end()
    assert state.finished is not None
    assert state.finished.phase == "Succeeded"
    assert sorted(name for name, _ in run.executed) == ["ask", "beside", "first"]


@pytest.mark.req("COG-3.4.2")
def test_a_call_that_was_refused_is_no_failed_attempt() -> None:
    """The refusal comes before the engine has heard of it; then it hears, and then it is raised."""
    world = a_world()
    set_agent(world, "reader", budget={"limit": "10"})
    answers: list[Any] = [
        StepError("budget_exceeded", "used up"),
        StepError("budget_exceeded", "used up"),
    ]

    def refused(task: StepTask) -> Any:
        if task.kind != "agent":
            return "done"
        return answers.pop(0) if answers else {"answer": "fine"}

    run = Clockwork(RunState(PLAN), world, refused)
    while len(answers) == 2:
        assert run.turn()
    spend(world, "agents/team/reader", "1", refused_under="9.5")
    run.to_the_end()
    assert run.state.held is not None
    assert run.state.unit(StepKey("ask")).status == "Retrying"
    set_agent(world, "reader", budget={"limit": "20"})
    state = run.to_the_end()
    assert state.finished is not None
    assert state.finished.phase == "Succeeded", "although the plan allows one attempt only"


def test_refusals_leave_the_attempts_that_the_plan_allows() -> None:
    world = a_world()
    set_agent(world, "reader")
    answers: list[Any] = [
        StepError("budget_exceeded", "used up"),
        StepError("connection_error", "lost"),
        {"answer": "fine"},
    ]
    plan = request(
        {"name": "ask", "agent": {"name": "reader", "inputs": {"question": "x"}}},
        retry={"attempts": 2},
    )
    run = Clockwork(RunState(plan), world, lambda _: answers.pop(0))
    state = run.to_the_end()
    assert state.finished is not None
    assert state.finished.phase == "Succeeded"
