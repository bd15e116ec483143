"""The register of kinds: names, short names, columns, rules. CRDs and clients are made from it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from seedbed.crds.agent import Agent, AgentSpec, AgentStatus
from seedbed.crds.base import API_VERSION, Model, Observation, Status
from seedbed.crds.feature_flag import FeatureFlag, FeatureFlagSpec, FeatureFlagStatus
from seedbed.crds.pool import Pool, PoolSpec, PoolStatus
from seedbed.crds.seed_layer import (
    NAME_LIMIT,
    SEED_IMMUTABLE,
    SeedLayer,
    SeedLayerSpec,
)
from seedbed.crds.seed_status import SeedLayerStatus
from seedbed.crds.step import BODIES, listed
from seedbed.crds.workflow import Workflow, WorkflowSpec
from seedbed.crds.workflow_status import WorkflowStatus


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

    `path` is the field that the rule stands on, from the object's root, in the schema's terms
    (`spec.steps[]` means each item). `field` is the field below it that the refusal names.
    """

    rule: str
    message: str
    path: str = "spec"
    field: str = ""


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of the API. `needs_spec`: an object without a spec means nothing."""

    name: str
    plural: str
    short: str
    resource: type[Observation]
    spec: type[Model]
    status: type[Status]
    columns: tuple[Column, ...]
    rules: tuple[Rule, ...] = ()
    conditions: tuple[tuple[str, str], ...] = ()
    scale: dict[str, Any] | None = None
    needs_spec: bool = False

    @property
    def api_version(self) -> str:
        """Group and version, as in `apiVersion`."""
        return API_VERSION


# What holds of every kind, beside the rules of its own.
COMMON_RULES = (
    Rule(
        "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?$')",
        "metadata.name must have 1 to 63 lower-case letters, digits and hyphens, and no dot",
        path="",
    ),
    Rule(
        "!has(oldSelf.status) || !has(oldSelf.status.fencingToken) || (has(self.status) && "
        "has(self.status.fencingToken) && "
        "self.status.fencingToken >= oldSelf.status.fencingToken)",
        "a newer operator leads: the writer of this status is fenced off",
        path="",
        field="status.fencingToken",
    ),
)
COMMON_CONDITIONS = (
    ("Ready", "The object does what its spec says: the one to wait for."),
    ("Reconciling", "True while the operator still works towards the spec."),
    ("Stalled", "True where only a change, of this object or of one it names, can help."),
    ("Accepted", "Whether the spec can be read; where not, the message names the field."),
)
_BUDGET = (
    "BudgetExceeded",
    "Whether `spec.budget` is used up; only there where a budget is set.",
)
_SUSPENDED = ("Suspended", "Whether `spec.suspend` is in force.")

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
            "self == oldSelf",
            "spec.class is immutable: make another Pool",
            path="spec.class",
        ),
    ),
    conditions=(_SUSPENDED,),
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
        Column("Spent", ".status.spent"),
        Column("Budget", ".spec.budget.limit"),
        _READY,
        _REASON,
        _AGE,
    ),
    rules=(
        Rule(
            "self.contains('->')",
            "signature must have the form `inputs -> outputs`",
            path="spec.signature",
        ),
    ),
    conditions=(_BUDGET,),
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
        Column("Spent", ".status.spent"),
        Column("Budget", ".spec.budget.limit"),
        Column("ETA", ".status.eta"),
        _READY,
        _REASON,
        Column("Checkpoint", ".status.lastCheckpoint.time", "date", priority=1),
        _AGE,
    ),
    rules=(
        Rule(
            f"{' + '.join(f'(has(self.{body}) ? 1 : 0)' for body in BODIES)} == 1",
            f"a step has exactly one of {listed(BODIES)}",
            path="spec.steps[]",
        ),
        Rule(
            "[has(self.duration), has(self.until), has(self.event)].filter(b, b).size() == 1",
            "a wait has exactly one of duration, until and event",
            path="spec.steps[].wait",
        ),
        Rule(
            "!has(self.timeout) || has(self.event)",
            "only the wait for an event has a timeout",
            path="spec.steps[].wait",
            field="timeout",
        ),
        Rule(
            "(self.action == 'fallback') == has(self.step)",
            "onError names a step where its action is fallback, and only there",
            path="spec.steps[].onError",
        ),
        Rule(
            "!has(self.allowFailure) || !self.allowFailure || !has(self.onError)",
            "allowFailure says the same as onError with the action continue: write one of them",
            path="spec.steps[]",
            field="allowFailure",
        ),
        Rule(
            "self.action != 'fallback' && !has(self.step)",
            "only a step can name its fallback",
            path="spec.onError",
        ),
        Rule(
            "(has(self.steps) && size(self.steps) > 0) != has(self.stepsFrom)",
            "a Workflow has exactly one of steps and stepsFrom",
            field="steps",
        ),
        Rule(
            "has(self.name) != (has(self.steps) && size(self.steps) > 0)",
            "a workflow step has exactly one of name and steps",
            path="spec.steps[].workflow",
        ),
        Rule(
            "has(self.configMap) != has(self.artifact)",
            "stepsFrom has exactly one of configMap and artifact",
            path="spec.stepsFrom",
        ),
        Rule(
            "has(self.sha256) != self.url.startsWith('seedbed://')",
            "an artifact needs its sha256, unless its URL is seedbed://sha256/... and tells it",
            path="spec.stepsFrom.artifact",
        ),
    ),
    conditions=(
        ("Finished", "True when the run has ended; the reason says whether it went well."),
        _BUDGET,
        _SUSPENDED,
        ("WaitingForApproval", "True while a step waits for a person; the message says for what."),
    ),
    needs_spec=True,
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
            field="allow",
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
    (
        Column("Stages", ".status.stages"),
        Column("Accuracy", ".status.accuracy"),
        Column("P99", ".status.forward.p99"),
        _READY,
        _REASON,
        Column("Epoch", ".status.epoch", "integer", priority=1),
        Column("Throughput", ".status.throughput", priority=1),
        Column("Checkpoint", ".status.lastCheckpoint.time", "date", priority=1),
        _AGE,
    ),
    rules=(
        Rule(
            f"self.metadata.name.size() <= {NAME_LIMIT}",
            f"metadata.name of a SeedLayer has at most {NAME_LIMIT} characters",
            path="",
        ),
        *(
            Rule(
                "self == oldSelf",
                f"spec.{field} is immutable: make another SeedLayer",
                path=f"spec.{field}",
            )
            for field in SEED_IMMUTABLE
        ),
        Rule(
            "self.reads == 'output' || self.routing == 'token'",
            "reading the input needs the routing token",
            field="reads",
        ),
        Rule(
            "has(self.entry) != has(self.folder)",
            "a model has exactly one of entry and folder",
            path="spec.model",
        ),
        Rule(
            "has(self.entry) || (!has(self.weights) && !has(self.arguments))",
            "weights and arguments belong to an entry",
            path="spec.model",
        ),
        Rule(
            "has(self.entry) != has(self.url)",
            "data have exactly one of entry and url",
            path="spec.data",
        ),
        Rule(
            "[has(self.volume), has(self.claim), has(self.url)].filter(b, b).size() <= 1",
            "checkpoints stand in at most one of volume, claim and url",
            path="spec.checkpoint",
        ),
        Rule(
            "has(self.volume) == has(oldSelf.volume) && "
            "(!has(self.volume) || self.volume == oldSelf.volume)",
            "spec.checkpoint.volume is immutable: make another SeedLayer",
            path="spec.checkpoint",
            field="volume",
        ),
        Rule(
            "self.replicas <= 1 || has(self.checkpoint.claim) || has(self.checkpoint.url)",
            "several pods share their checkpoints: replicas above 1 need checkpoint.claim or "
            "checkpoint.url",
            field="replicas",
        ),
        Rule(
            "(self.type == 'custom') == has(self.entry)",
            "an entry belongs to the type custom",
            path="spec.blueprints[]",
        ),
        Rule(
            "has(self.distribution) == has(oldSelf.distribution)",
            "spec.distribution cannot be given or taken away later: make another SeedLayer",
            field="distribution",
        ),
        Rule(
            "!has(self.distribution) || has(self.data)",
            "pods that train together need spec.data",
            field="distribution",
        ),
        Rule(
            "self.gpus == 0 || !has(self.template) || !has(self.template.resourceClaims) || "
            "size(self.template.resourceClaims) == 0",
            "devices come from gpus or from template.resourceClaims, not from both",
            field="gpus",
        ),
    ),
    conditions=(
        ("Progressing", "True while seeds are trained; the reason says what goes on."),
        ("Degraded", "Whether it serves worse than it should: late, silent or with fewer pods."),
        _SUSPENDED,
    ),
    scale={
        "specReplicasPath": ".spec.replicas",
        "statusReplicasPath": ".status.replicas",
        "labelSelectorPath": ".status.selector",
    },
    needs_spec=True,
)

KINDS: tuple[Kind, ...] = (AGENT, WORKFLOW, POOL, FEATURE_FLAG, SEED_LAYER)
BY_NAME: dict[str, Kind] = {kind.name: kind for kind in KINDS}
