"""Workflow: steps from a ConfigMap, and Workflows that are templates."""

from __future__ import annotations

import base64
from dataclasses import replace
from typing import Any

from seedbed.controllers.plan import CancelRun, Key, Publish, SubmitRun, Withdraw
from seedbed.controllers.workflow import reconcile, references
from seedbed.crds.addresses import template_setting
from seedbed.crds.messages import RunSummary
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

POOL = made("Pool", "general", {})
CALL = {"name": "a", "call": {"entry": "m:f"}}


def flow(**spec: Any) -> dict[str, Any]:
    source = {"configMap": {"name": "plan", "key": "steps.yaml"}}
    return made("Workflow", "audit", spec or {"stepsFrom": source})


def config_map(**data: str) -> dict[str, Any]:
    return {
        **made("ConfigMap", "plan", {}),
        "data": {k.replace("_", "."): v for k, v in data.items()},
    }


def test_the_config_map_is_named_and_its_text_handed_on_unread() -> None:
    obj = flow()
    assert Key("ConfigMap", "team", "plan") in set(references(obj))
    held = config_map(steps_yaml="anything: at all")
    (effect,) = reconcile(look(obj, references=named(POOL, held)), NOW, DEFAULTS).effects
    assert isinstance(effect, SubmitRun)
    assert (effect.document, effect.packed) == ("anything: at all", False)
    text = base64.b64encode(b"bytes").decode()
    packed = {**made("ConfigMap", "plan", {}), "binaryData": {"steps.yaml": text}}
    (effect,) = reconcile(look(obj, references=named(POOL, packed)), NOW, DEFAULTS).effects
    assert isinstance(effect, SubmitRun)
    assert (effect.document, effect.packed) == (text, True)


def test_what_is_missing_is_told_and_waited_for() -> None:
    obj = flow()
    for there in (named(POOL), named(POOL, config_map(other="x"))):
        plan = reconcile(look(obj, references=there), NOW, DEFAULTS)
        assert verdict(plan, "Ready") == ("False", "ConfigMapNotFound")
        assert plan.effects == ()
    assert "has no entry `steps.yaml`" in message(plan)


def test_another_text_is_another_run_and_a_lost_one_changes_nothing() -> None:
    seen = look(flow(), references=named(POOL, config_map(steps_yaml="one")))
    first = reconcile(seen, NOW, DEFAULTS)
    (submitted,) = first.effects
    assert isinstance(submitted, SubmitRun)
    run = submitted.request.run
    begun = after(seen, first)
    lost = replace(begun, references=named(POOL))
    assert quiet(reconcile, lost)
    changed = replace(begun, references=named(POOL, config_map(steps_yaml="two")))
    ended, again = reconcile(changed, LATER, DEFAULTS).effects
    assert ended == CancelRun(run, "the plan was changed")
    assert isinstance(again, SubmitRun)
    assert again.request.run != run


def test_a_template_is_published_does_not_run_and_is_withdrawn() -> None:
    obj = flow(template=True, steps=[CALL])
    seen = look(obj)
    plan = reconcile(seen, NOW, DEFAULTS)
    setting = template_setting("team", "audit")
    (effect,) = plan.effects
    assert isinstance(effect, Publish)
    assert effect.key == setting
    assert verdict(plan, "Ready") == ("True", "Template")
    known = after(seen, plan)
    assert quiet(reconcile, known)
    gone = reconcile(replace(known, object=None), LATER, DEFAULTS)
    assert gone.effects == (Withdraw(setting),)
    runs = {**obj, "spec": {"steps": [CALL]}, "metadata": {**obj["metadata"], "generation": 2}}
    plan = reconcile(replace(known, object=runs, references=named(POOL)), LATER, DEFAULTS)
    assert [type(effect) for effect in plan.effects] == [Withdraw, SubmitRun]


def test_a_run_ends_when_its_workflow_becomes_a_template() -> None:
    obj = flow(template=True, steps=[CALL])
    run = RunSummary("uid-of-audit-1", "team", "audit", 1, "Running", "Running")
    plan = reconcile(look(obj, run=run), NOW, DEFAULTS)
    assert CancelRun("uid-of-audit-1", "the plan was changed") in plan.effects


def test_a_workflow_waits_for_the_templates_it_names() -> None:
    obj = flow(steps=[{"name": "w", "workflow": {"name": "inner"}}])
    assert Key("Workflow", "team", "inner") in set(references(obj))
    for inner in ((), (made("Workflow", "inner", {"steps": [CALL]}),)):
        plan = reconcile(look(obj, references=named(POOL, *inner)), NOW, DEFAULTS)
        assert verdict(plan, "Ready") == ("False", "WorkflowNotFound")
        assert "no Workflow `inner` with spec.template" in message(plan)
    template = made("Workflow", "inner", {"steps": [CALL], "template": True})
    (effect,) = reconcile(look(obj, references=named(POOL, template)), NOW, DEFAULTS).effects
    assert isinstance(effect, SubmitRun)
