"""Budgets of Agents and Workflows: what is spent, and the condition BudgetExceeded.

The model service holds calls back by itself; here it is only told, and a Workflow's budget is made
known to it and to the engine. An Agent's stands in its spec, which is published anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from seedbed.controllers.conditions import Verdict, conditions, generation_of, news, stalled
from seedbed.controllers.plan import Defaults, Observed, Plan, Raw
from seedbed.controllers.reading import publish, status_of, withdraw
from seedbed.crds.budget import Budget
from seedbed.crds.money import dollars
from seedbed.crds.spending import Limits, Spending, workflow_setting

EXCEEDED = "BudgetExceeded"

Reconcile = Callable[[Observed, datetime, Defaults], Plan]


def with_budget(reconcile: Reconcile) -> Reconcile:
    """The same decisions, with what the budget has to say about them."""

    def decide(observed: Observed, now: datetime, defaults: Defaults) -> Plan:
        plan = reconcile(observed, now, defaults)
        budget = _budget(observed)
        if observed.key.kind == "Workflow":
            plan = replace(plan, effects=(*_known(observed, budget), *plan.effects))
        if plan.status is None or observed.object is None:
            return plan
        verdict = None if budget is None else _verdict(budget, observed.spending)
        if verdict is None or verdict.status == "False" or observed.key.kind != "Agent":
            verdicts = {} if verdict is None else {EXCEEDED: verdict}
            return replace(plan, status=_told(observed, plan.status, verdicts, now))
        # An Agent that nobody can ask is not ready; a Workflow's other steps go on.
        overall = stalled(EXCEEDED, verdict.message)
        status = _told(observed, plan.status, {**overall, EXCEEDED: verdict}, now)
        return replace(plan, status=status, events=news(status_of(observed.object), overall))

    return decide


def _budget(observed: Observed) -> Budget | None:
    """What the object's spec says; None also where that cannot be read, which its verdict tells."""
    given = ((observed.object or {}).get("spec") or {}).get("budget")
    try:
        return None if given is None else Budget.model_validate(given)
    except ValidationError:
        return None


def _known(observed: Observed, budget: Budget | None) -> tuple[Any, ...]:
    setting = workflow_setting(observed.key.namespace, observed.key.name)
    if budget is None:
        return withdraw(observed, setting)
    return publish(observed, setting, Limits(budget=budget))


def _told(
    observed: Observed, told: Raw, verdicts: Mapping[str, Verdict], now: datetime
) -> dict[str, Any]:
    """The status with these verdicts, and what was spent."""
    assert observed.object is not None
    kept = [one for one in told["conditions"] if one["type"] not in {EXCEEDED, *verdicts}]
    before, generation = status_of(observed.object), generation_of(observed.object)
    status = {**told, "conditions": [*kept, *conditions(before, verdicts, generation, now)]}
    status.pop("spent", None)
    if observed.spending.spent or verdicts:
        status["spent"] = dollars(observed.spending.spent)
    return status


def _verdict(budget: Budget, spending: Spending) -> Verdict:
    if spending.exceeds(budget):
        return Verdict("True", EXCEEDED, f"spec.budget: {spending.told(budget)}; raise the limit")
    if spending.alerts(budget):
        return Verdict("False", "RunningOut", f"spec.budget: {spending.told(budget)}")
    return Verdict("False", "WithinBudget", f"spec.budget: {spending.told(budget)}")
