"""`Pool`: a set of worker pods of one class."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from seedbed.crds.base import Duration, Model, ObjectMeta, Observation, Status
from seedbed.crds.pod import PodSettings

QueuePolicy = Literal["Wait", "Reject", "ShedLow"]


class PoolSpec(Model):
    """What a user wants of a Pool."""

    worker_class: Literal["general", "optimizer", "neural"] = Field(
        default="general",
        alias="class",
        description="What the workers are for: general steps, optimisation runs, or neural work.",
        examples=["general"],
    )
    replicas: int = Field(
        default=1,
        description="Worker pods. Autoscalers change it through the scale subresource.",
        ge=0,
        le=1000,
        examples=[2],
    )
    workers_per_replica: int = Field(
        default=4,
        description="Workers in each pod; each executes `concurrency` steps at a time.",
        ge=1,
        le=256,
        examples=[4],
    )
    concurrency: int = Field(
        default=4,
        description="Steps that each worker executes side by side; 1 for steps that need a processor, "
        "more for steps that wait for a model. A worker takes no step that it cannot start at once.",
        ge=1,
        le=256,
        examples=[16],
    )
    adapter: Literal["python", "javascript"] = Field(
        default="python",
        description="Language of the entry points that `call` steps name.",
        examples=["python"],
    )
    queue_limit: int = Field(
        default=10_000,
        description="Steps handed to the Pool and not finished; further ones wait in the engine.",
        ge=1,
        le=1_000_000,
        examples=[10_000],
    )
    queue_policy: QueuePolicy = Field(
        default="Wait",
        description=(
            "What happens to further steps: Wait keeps them in the engine, in order and durably; "
            "Reject fails them with the code `queue_full`, so that their `onError` decides; ShedLow "
            "keeps them too, and for one of a higher priority (of its Workflow, then of the step) the "
            "step of the lowest priority that was handed out last gives its place up: its attempt "
            "fails with the code `queue_shed`, so that its `retry` decides."
        ),
        examples=["Reject"],
    )
    queue_timeout: Duration | None = Field(
        default=None,
        description=(
            "How long the queue may stay full under Wait and ShedLow without taking any of a run's "
            "waiting steps; then these fail with the code `queue_timeout`. Without it they wait for "
            "as long as the run may take."
        ),
        examples=["30s"],
    )
    drain: Duration = Field(
        default="30s",
        description="How long a pod that ends may go on with the steps it has.",
        examples=["2m"],
    )
    suspend: bool = Field(
        default=False, description="Takes the pods away and keeps the queue.", examples=[False]
    )
    template: PodSettings = Field(
        default_factory=PodSettings,
        description="Settings of the worker pods.",
        examples=[{"resources": {"requests": {"cpu": "500m"}}}],
    )


class PoolStatus(Status):
    """What the operator reports of a Pool."""

    replicas: int = Field(default=0, description="Pods that exist.", ge=0, examples=[2])
    ready_replicas: int = Field(default=0, description="Pods that are ready.", ge=0, examples=[2])
    workers: int = Field(
        default=0, description="Healthy workers that have registered.", ge=0, examples=[8]
    )
    selector: str = Field(
        default="",
        description="Label selector of the pods, for autoscalers.",
        max_length=512,
        examples=["seedbed.dev/pool=general"],
    )


class Pool(Observation):
    """A set of worker pods of one class."""

    metadata: ObjectMeta
    spec: PoolSpec = Field(default_factory=PoolSpec)
    status: PoolStatus = Field(default_factory=PoolStatus)


STANDARD_POOLS: Mapping[str, PoolSpec] = {
    "general": PoolSpec(worker_class="general", replicas=2, workers_per_replica=4),
    "optimizer": PoolSpec(worker_class="optimizer", replicas=1, workers_per_replica=2),
    "neural": PoolSpec(worker_class="neural", replicas=1, workers_per_replica=4),
}
"""The three Pools of an installation that says nothing else, by name: 8, 2 and 4 workers."""
