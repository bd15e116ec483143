"""A Workflow that is a template: it does not run, engines are told of it."""

from __future__ import annotations

from datetime import datetime

from seedbed.controllers.conditions import Verdict, ready
from seedbed.controllers.plan import Effect, Observed, Plan, Raw
from seedbed.controllers.reading import publish, told, withdraw
from seedbed.crds.addresses import template_setting
from seedbed.crds.workflow import WorkflowSpec


def show_template(
    observed: Observed,
    workflow: Raw,
    spec: WorkflowSpec,
    effects: tuple[Effect, ...],
    now: datetime,
) -> Plan:
    """Publishes the plan; `effects` end what ran while it was no template."""
    verdicts = {
        **ready("Template", "`workflow` steps of other Workflows run it"),
        "Accepted": Verdict("True", "Valid", "the plan can be run"),
    }
    setting = template_setting(observed.key.namespace, observed.key.name)
    published = publish(observed, setting, spec)
    return told(workflow, verdicts, now, effects=(*published, *effects))


def hide_template(observed: Observed) -> tuple[Effect, ...]:
    """Takes back what was published while it was a template."""
    return withdraw(observed, template_setting(observed.key.namespace, observed.key.name))
