"""What a reconciler sees and what it decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from seedbed.crds.messages import Decision, RunRequest, RunSummary, StepResult
from seedbed.crds.seed_messages import SeedReport
from seedbed.crds.spending import Spending

Raw = Mapping[str, Any]
"""A Kubernetes object as JSON."""


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """Identifies an object of the cluster."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Observed:
    """All that one pass may look at.

    Attributes:
        key: the object under reconciliation.
        object: it as the API server holds it; None where it is gone or being deleted.
        children: objects that it owns.
        references: the objects it names, None for those that do not exist.
        settings: live settings that concern it, by key, as JSON.
        run: what the engine last told of the Workflow's current run; None where it told nothing.
        workers: healthy workers registered for the Pool that concerns it.
        spending: what model calls on its behalf have cost.
        seeds: what the pods of the SeedLayer told last.
    """

    key: Key
    object: Raw | None
    children: tuple[Raw, ...] = ()
    references: Mapping[Key, Raw | None] = field(default_factory=dict)
    settings: Mapping[str, bytes] = field(default_factory=dict)
    run: RunSummary | None = None
    workers: int = 0
    spending: Spending = field(default_factory=Spending)
    seeds: tuple[SeedReport, ...] = ()


@dataclass(frozen=True, slots=True)
class Defaults:
    """What the operator itself knows and a user need not say: values of the chart.

    Attributes:
        image: the product's own image.
        environment: variables that connect a worker to the bus, the coordinator and the model service.
        seeds_image: the image with torch, of which the pods of SeedLayers are made.
    """

    image: str = "seedbed"
    image_pull_policy: str = "IfNotPresent"
    environment: tuple[Mapping[str, Any], ...] = ()
    worker_service_account: str = "default"
    seeds_image: str = "seedbed-kernels"


@dataclass(frozen=True, slots=True)
class Event:
    """A Kubernetes Event to record on the object."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Publish:
    """Set a live setting."""

    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Remove a live setting."""

    key: str


@dataclass(frozen=True, slots=True)
class SubmitRun:
    """Ask the engine to run a plan; `document` and `packed` as in `Submit`."""

    request: RunRequest
    document: str = ""
    packed: bool = False


@dataclass(frozen=True, slots=True)
class AdjustRun:
    """Tell the engine what changed for a run under way; `approvals` by step."""

    run: str
    suspend: bool
    parallelism: int
    approvals: Mapping[str, Decision] = field(default_factory=dict)
    priority: int = 1


@dataclass(frozen=True, slots=True)
class CancelRun:
    """Ask the engine to end a run."""

    run: str
    reason: str


@dataclass(frozen=True, slots=True)
class ReportStep:
    """Tell the engine how a container step ended."""

    result: StepResult


Effect = Publish | Withdraw | SubmitRun | AdjustRun | CancelRun | ReportStep


@dataclass(frozen=True, slots=True)
class Plan:
    """What one pass decided. The executor writes only what differs from what is there.

    Attributes:
        apply: child objects as they should be, for server-side apply.
        delete: children that should not be.
        status: the status as it should be, without the fencing token; None leaves it alone.
        effects: what goes to the engine and the live settings, in order.
        events: what to tell the user, once per change.
        requeue_after: seconds after which to look again although nothing happened.
    """

    apply: tuple[Raw, ...] = ()
    delete: tuple[Key, ...] = ()
    status: Raw | None = None
    effects: tuple[Effect, ...] = ()
    events: tuple[Event, ...] = ()
    requeue_after: float | None = None
