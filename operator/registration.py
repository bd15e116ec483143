"""One small registration per kind; all other machinery is written once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime

from seedbed.controllers import agent, feature_flag, pool, seed_layer, workflow
from seedbed.controllers.budget import with_budget
from seedbed.controllers.plan import Defaults, Key, Observed, Plan, Raw
from seedbed.controllers.pods import POOL_LABEL, SEEDS_LABEL, WORKFLOW_LABEL
from seedbed.crds.addresses import agent_setting, flag_setting, pool_setting, template_setting
from seedbed.crds.base import API_VERSION
from seedbed.crds.seed_messages import seed_setting
from seedbed.crds.spending import workflow_setting
from seedbed.crds.steps_source import PLAN_LABEL


def _none(obj: Raw) -> tuple[Key, ...]:  # noqa: ARG001 -- a kind that names nothing
    return ()


def _pool_of_agent(obj: Raw) -> tuple[Key, ...]:
    return (Key("Pool", obj["metadata"]["namespace"], obj["spec"]["pool"]["name"]),)


@dataclass(frozen=True, slots=True)
class Registration:
    """What the machinery must know of a kind.

    Attributes:
        reconcile: the pure decision.
        references: the objects that an object names; a change of one of them is a reason to look.
        settings: give the live settings that an object publishes, by namespace and name.
    """

    kind: str
    reconcile: Callable[[Observed, datetime, Defaults], Plan]
    references: Callable[[Raw], Iterable[Key]] = _none
    settings: tuple[Callable[[str, str], str], ...] = ()


@dataclass(frozen=True, slots=True)
class ChildKind:
    """A kind of Kubernetes' own objects that Seedbed watches.

    Attributes:
        label: the label that the objects which concern Seedbed carry, and others do not.
    """

    kind: str
    api_version: str
    plural: str
    label: str


REGISTRATIONS: dict[str, Registration] = {
    each.kind: each
    for each in (
        Registration("Pool", pool.reconcile, settings=(pool_setting,)),
        Registration("Agent", with_budget(agent.reconcile), _pool_of_agent, (agent_setting,)),
        Registration(
            "Workflow",
            with_budget(workflow.reconcile),
            workflow.references,
            (template_setting, workflow_setting),
        ),
        Registration("FeatureFlag", feature_flag.reconcile, settings=(flag_setting,)),
        Registration("SeedLayer", seed_layer.reconcile, settings=(seed_setting,)),
    )
}
CHILDREN: dict[str, ChildKind] = {
    each.kind: each
    for each in (
        ChildKind("Deployment", "apps/v1", "deployments", POOL_LABEL),
        ChildKind("Pod", "v1", "pods", WORKFLOW_LABEL),
        ChildKind("StatefulSet", "apps/v1", "statefulsets", SEEDS_LABEL),
        ChildKind("Service", "v1", "services", SEEDS_LABEL),
    )
}
"""Objects that Seedbed makes and owns."""
SOURCES: dict[str, ChildKind] = {
    each.kind: each for each in (ChildKind("ConfigMap", "v1", "configmaps", PLAN_LABEL),)
}
"""Objects of users that Seedbed only reads."""
WATCHED = {**CHILDREN, **SOURCES}


def api_version(kind: str) -> str:
    """Group and version of a kind that the operator handles."""
    return WATCHED[kind].api_version if kind in WATCHED else API_VERSION
