"""Agent: its signature, its Pool, the spec published."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.controllers.agent import reconcile
from seedbed.controllers.plan import Key, Observed, Publish, Raw, Withdraw
from tests.unit.controllers.objects import (
    DEFAULTS,
    NOW,
    after,
    look,
    made,
    message,
    named,
    quiet,
    verdict,
)

SPEC = {"pool": {"name": "general"}, "signature": "document: str -> kind: str"}
SETTING = "agents/team/reader"


def pool(ready: str, workers: int = 4) -> dict[str, Any]:
    return {
        **made("Pool", "general", {}),
        "status": {
            "workers": workers,
            "conditions": [
                {"type": "Ready", "status": ready, "reason": "R", "message": "1 of 2 pods ready"}
            ],
        },
    }


def agent(**spec: Any) -> dict[str, Any]:
    return made("Agent", "reader", {**SPEC, **spec})


@pytest.mark.parametrize(
    ("there", "spec", "status", "reason", "going"),
    [
        (None, {}, "False", "PoolNotFound", "True"),
        (pool("False"), {}, "False", "PoolNotReady", "True"),
        (made("Pool", "general", {}), {}, "False", "PoolNotReady", "True"),
        (pool("True"), {}, "True", "Available", "False"),
        (pool("True", 0), {}, "True", "PoolScaledToZero", "False"),
        (pool("True"), {"suspend": True}, "False", "Suspended", "False"),
    ],
)
def test_ready_when_its_pool_is(
    there: Raw | None, spec: dict[str, Any], status: str, reason: str, going: str
) -> None:
    plan = reconcile(
        look(agent(**spec), references={Key("Pool", "team", "general"): there}), NOW, DEFAULTS
    )
    assert verdict(plan, "Ready") == (status, reason)
    assert verdict(plan, "Reconciling") == (going, reason)
    assert verdict(plan, "Accepted") == ("True", "Valid")


def test_a_pool_that_does_not_exist_is_named_and_the_agent_recovers_when_it_comes() -> None:
    seen = look(agent(), references={Key("Pool", "team", "general"): None})
    plan = reconcile(seen, NOW, DEFAULTS)
    assert message(plan) == "spec.pool.name: there is no Pool `general` yet"
    assert plan.effects == ()
    arrived = look(
        after(seen, plan).object or {}, references=named(pool("True")), settings=seen.settings
    )
    plan = reconcile(arrived, NOW, DEFAULTS)
    assert verdict(plan, "Ready") == ("True", "Available")
    assert [type(effect) for effect in plan.effects] == [Publish]


@pytest.mark.req("DSX-06")
def test_the_status_names_inputs_and_the_outputs_that_the_strategy_adds() -> None:
    plan = reconcile(
        look(agent(strategy="ChainOfThought"), references=named(pool("True"))), NOW, DEFAULTS
    )
    assert plan.status is not None
    assert plan.status["inputs"] == ["document"]
    assert plan.status["outputs"] == ["reasoning", "kind"]
    assert plan.status["workers"] == 4


def test_a_signature_that_cannot_be_read_stalls_the_agent_and_takes_it_away() -> None:
    seen = look(
        agent(signature="document -> kind: strr"),
        references=named(pool("True")),
        settings={SETTING: b"{}"},
    )
    plan = reconcile(seen, NOW, DEFAULTS)
    assert verdict(plan, "Stalled") == ("True", "InvalidSpec")
    assert "spec.signature" in message(plan)
    assert plan.effects == (Withdraw(SETTING),)


def test_it_is_withdrawn_with_the_agent_and_with_its_pool() -> None:
    settings = {SETTING: b"{}"}
    key = Key("Agent", "team", "reader")
    gone = Observed(key, None, settings=settings)
    assert reconcile(gone, NOW, DEFAULTS).effects == (Withdraw(SETTING),)
    homeless = look(agent(), references={Key("Pool", "team", "general"): None}, settings=settings)
    assert reconcile(homeless, NOW, DEFAULTS).effects == (Withdraw(SETTING),)


@given(
    there=st.sampled_from([None, pool("True"), pool("False"), pool("True", 0)]),
    spec=st.fixed_dictionaries(
        {},
        optional={
            "suspend": st.booleans(),
            "strategy": st.sampled_from(["Predict", "ChainOfThought"]),
            "signature": st.sampled_from(["a -> b", "a: int -> b", "a -> b: list[str]", "a ->"]),
        },
    ),
)
def test_a_second_pass_changes_nothing(there: Raw | None, spec: dict[str, Any]) -> None:
    seen = look(agent(**spec), references={Key("Pool", "team", "general"): there})
    assert quiet(reconcile, after(seen, reconcile(seen, NOW, DEFAULTS)))
