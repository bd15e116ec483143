"""The register of kinds: names, short names, columns, rules. CRDs and clients are made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from seedbed.crds.agent import Agent, AgentSpec, AgentStatus
from seedbed.crds.base import API_VERSION, Model, Observation, Status
from seedbed.crds.feature_flag import FeatureFlag, FeatureFlagSpec, FeatureFlagStatus
from seedbed.crds.pool import Pool, PoolSpec, PoolStatus
from seedbed.crds.seed_layer import SeedLayer, SeedLayerSpec, SeedLayerStatus
from seedbed.crds.workflow import Workflow, WorkflowSpec, WorkflowStatus


@dataclass(frozen=True, slots=True)
class Column:
    """A column that `kubectl get` prints."""

    name: str
    path: str
    type: Literal["string", "integer", "date", "boolean", "number"] = "string"
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """A CEL rule on the spec: what must hold, and the sentence a user reads where it does not.

    `path` is the field below `spec` that the rule stands on, in the schema's terms
    (`steps[]` means each item); empty for the spec itself.
    """

    rule: str
    message: str
    path: str = ""
    field: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of the API."""

    name: str
    plural: str
    short: str
    resource: type[Observation]
    spec: type[Model]
    status: type[Status]
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...] = ()
    scale: dict[str, Any] | None = None
    installed: bool = True

    @property
    def api_version(self) -> str:
        """Group and version, as in `apiVersion`."""
        return API_VERSION


_READY = Column("Ready", '.status.conditions[?(@.type=="Ready")].status')
_REASON = Column("Reason", '.status.conditions[?(@.type=="Ready")].reason', priority=1)
_AGE = Column("Age", ".metadata.creationTimestamp", "date")

POOL = Kind(
    "Pool",
    "pools",
    "sbpool",
    Pool,
    PoolSpec,
    PoolStatus,
    (
        Column("Class", ".spec.class"),
        _READY,
        Column("Replicas", ".spec.replicas", "integer"),
        Column("Workers", ".status.workers", "integer"),
        _REASON,
        _AGE,
    ),
    rules=(
        Rule(
            "self.__class__ == oldSelf.__class__",
            "spec.class is immutable: make another Pool",
        ),
    ),
    scale={
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    },
)
AGENT = Kind(
    "Agent",
    "agents",
    "sbagent",
    Agent,
    AgentSpec,
    AgentStatus,
    (
        Column("Strategy", ".spec.strategy"),
        Column("Model", ".spec.model.name"),
        Column("Pool", ".spec.pool.name"),
        _READY,
        _REASON,
        _AGE,
    ),
    rules=(
        Rule(
            "self.contains('->')",
            "signature must have the form `inputs -> outputs`",
            path="signature",
        ),
    ),
)
WORKFLOW = Kind(
    "Workflow",
    "workflows",
    "sbworkflow",
    Workflow,
    WorkflowSpec,
    WorkflowStatus,
    (
        Column("Phase", ".status.phase"),
        Column("Progress", ".status.progress"),
        _READY,
        _REASON,
        _AGE,
    ),
    rules=(
        Rule(
            "(has(self.agent) ? 1 : 0) + (has(self.call) ? 1 : 0) + (has(self.container) ? 1 : 0)"
            " == 1",
            "a step has exactly one of agent, call and container",
            path="steps[]",
        ),
    ),
)
FEATURE_FLAG = Kind(
    "FeatureFlag",
    "featureflags",
    "sbflag",
    FeatureFlag,
    FeatureFlagSpec,
    FeatureFlagStatus,
    (
        Column("Enabled", ".spec.enabled", "boolean"),
        Column("State", ".status.state"),
        _READY,
        _AGE,
    ),
    rules=(
        Rule(
            "!has(self.allow) || !has(self.block) || self.allow.all(s, !(s in self.block))",
            "a subject cannot be both in spec.allow and in spec.block",
        ),
    ),
)
SEED_LAYER = Kind(
    "SeedLayer",
    "seedlayers",
    "sbseed",
    SeedLayer,
    SeedLayerSpec,
    SeedLayerStatus,
    (_READY, _AGE),
    installed=False,
)

KINDS: tuple[Kind, ...] = (AGENT, WORKFLOW, POOL, FEATURE_FLAG, SEED_LAYER)
INSTALLED: tuple[Kind, ...] = tuple(kind for kind in KINDS if kind.installed)
BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}
