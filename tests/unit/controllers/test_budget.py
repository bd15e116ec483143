"""Budgets of Agents and Workflows: what the status tells, and what is made known."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.controllers import agent, workflow
from seedbed.controllers.budget import with_budget
from seedbed.controllers.plan import Key, Observed, Publish, Withdraw
from seedbed.crds.budget import Budget
from seedbed.crds.money import NANOS, dollars, nanos
from seedbed.crds.spending import Spending
from tests.unit.controllers.objects import DEFAULTS, NOW, after, look, made, quiet, verdict

AGENT = {"pool": {"name": "general"}, "signature": "document: str -> kind: str"}
WORKFLOW = {"steps": [{"name": "hello", "call": {"entry": "builtins:dict"}}]}
SETTING = "workflows/team/audit"
reconcile_agent = with_budget(agent.reconcile)
reconcile_workflow = with_budget(workflow.reconcile)


def pool() -> dict[str, Any]:
    ready = {"type": "Ready", "status": "True", "reason": "R", "message": "all pods ready"}
    return {**made("Pool", "general", {}), "status": {"workers": 4, "conditions": [ready]}}


def reader(spent: str, refused_under: int = 0, **budget: Any) -> Observed:
    spec = {**AGENT, "budget": budget} if budget else AGENT
    return look(
        made("Agent", "reader", spec),
        references={Key("Pool", "team", "general"): pool()},
        spending=Spending(nanos(spent), refused_under),
    )


@pytest.mark.req("COG-3.4.2")
@pytest.mark.parametrize(
    ("spent", "exceeded", "reason", "ready"),
    [
        ("0", "False", "WithinBudget", "True"),
        ("7.99", "False", "WithinBudget", "True"),
        ("8", "False", "RunningOut", "True"),
        ("9.49", "False", "RunningOut", "True"),
        ("9.50", "True", "BudgetExceeded", "False"),
    ],
)
def test_an_agent_tells_at_80_and_at_95_percent(
    spent: str, exceeded: str, reason: str, ready: str
) -> None:
    plan = reconcile_agent(reader(spent, limit="10.00"), NOW, DEFAULTS)
    assert plan.status is not None
    assert plan.status["spent"] == dollars(nanos(spent))
    assert verdict(plan, "BudgetExceeded") == (exceeded, reason)
    assert verdict(plan, "Ready")[0] == ready
    assert verdict(plan, "Stalled")[0] == exceeded


@pytest.mark.req("COG-3.4.2")
def test_a_call_that_would_not_fit_halts_until_the_budget_is_raised() -> None:
    under = Budget(limit="10").halt_nanos
    plan = reconcile_agent(reader("9", under, limit="10"), NOW, DEFAULTS)
    assert verdict(plan, "BudgetExceeded") == ("True", "BudgetExceeded")
    assert verdict(plan, "Ready")[0] == "False"
    plan = reconcile_agent(reader("9", under, limit="12"), NOW, DEFAULTS)
    assert verdict(plan, "BudgetExceeded") == ("False", "WithinBudget")
    assert verdict(plan, "Ready")[0] == "True"


def test_without_a_budget_only_what_was_spent_is_told() -> None:
    plan = reconcile_agent(reader("0"), NOW, DEFAULTS)
    assert plan.status is not None
    assert "spent" not in plan.status
    assert "BudgetExceeded" not in {one["type"] for one in plan.status["conditions"]}
    plan = reconcile_agent(reader("1.5"), NOW, DEFAULTS)
    assert plan.status is not None
    assert plan.status["spent"] == "1.50"


def test_a_second_pass_changes_nothing() -> None:
    seen = reader("9.6", limit="10")
    assert quiet(reconcile_agent, after(seen, reconcile_agent(seen, NOW, DEFAULTS)))


def test_a_workflows_budget_is_made_known_and_withdrawn() -> None:
    with_one = made("Workflow", "audit", {**WORKFLOW, "budget": {"limit": "3"}})
    plan = reconcile_workflow(look(with_one, spending=Spending(nanos("2.9"))), NOW, DEFAULTS)
    told = next(each for each in plan.effects if isinstance(each, Publish) and each.key == SETTING)
    assert orjson.loads(told.value)["budget"]["limit"] == "3"
    assert verdict(plan, "BudgetExceeded") == ("True", "BudgetExceeded")
    seen = look(made("Workflow", "audit", WORKFLOW), settings={SETTING: told.value})
    assert Withdraw(SETTING) in reconcile_workflow(seen, NOW, DEFAULTS).effects
    gone = Observed(Key("Workflow", "team", "audit"), None, settings={SETTING: told.value})
    assert Withdraw(SETTING) in reconcile_workflow(gone, NOW, DEFAULTS).effects


@pytest.mark.req("COG-3.4.1")
@given(st.integers(0, 10**18))
def test_no_nano_dollar_is_lost_between_text_and_number(amount: int) -> None:
    assert nanos(dollars(amount)) == amount
    assert len(dollars(amount).partition(".")[2]) >= 2


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.integers(1, 100))
def test_a_budget_halts_exactly_from_its_share_on(spent: int, limit: int, halt_at: int) -> None:
    budget = Budget(limit=str(limit), halt_at=halt_at)
    assert Spending(spent * NANOS).exceeds(budget) == (spent * 100 >= limit * halt_at)
