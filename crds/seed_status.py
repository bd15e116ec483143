"""The status of a SeedLayer and its parts."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from seedbed.crds.base import Observation, Status


class Forward(Observation):
    """Percentiles of the time that a forward pass took, of the slowest pod."""

    p50: str = Field(default="", description="Median.", max_length=16, examples=["1.1ms"])
    p95: str = Field(default="", description="95th percentile.", max_length=16, examples=["1.9ms"])
    p99: str = Field(default="", description="99th percentile.", max_length=16, examples=["2.4ms"])


class LastDecision(Observation):
    """One decision of the controller of the seeds."""

    epoch: int = Field(default=0, description="At the end of this epoch.", ge=0, examples=[12])
    action: str = Field(description="What was decided.", max_length=64, examples=["germinate"])
    layer: str = Field(default="", description="For which layer.", max_length=256, examples=["fc1"])
    seed: int = Field(default=-1, description="For which of its seeds.", ge=-1, examples=[17])
    reason: str = Field(
        default="",
        description="Why, in one sentence.",
        max_length=512,
        examples=["no progress for 5 epochs"],
    )


class Checkpointed(Observation):
    """A checkpoint."""

    time: datetime = Field(description="When.", examples=["2026-11-21T10:00:00Z"])
    epoch: int = Field(default=0, description="Epochs that had ended then.", ge=0, examples=[12])
    size_bytes: int = Field(default=0, description="Bytes stored.", ge=0, examples=[120_000])


class SeedLayerStatus(Status):
    """What the operator reports of a SeedLayer."""

    replicas: int = Field(default=0, description="Pods that exist.", ge=0, examples=[1])
    ready_replicas: int = Field(default=0, description="Pods that are ready.", ge=0, examples=[1])
    selector: str = Field(
        default="",
        description="Label selector of the pods, for autoscalers.",
        max_length=512,
        examples=["seedbed.dev/seed-layer=encoder"],
    )
    address: str = Field(
        default="",
        description="Where the model is served inside the cluster.",
        max_length=512,
        examples=["http://encoder-seeds.team.svc:8000"],
    )
    stages: str = Field(
        default="",
        description="Seeds by stage in one line, dormant ones last.",
        max_length=512,
        examples=["3 training/1021 dormant"],
    )
    seeds: dict[str, int] = Field(
        default_factory=dict,
        description="Seeds of all layers, by stage.",
        max_length=16,
        examples=[{"dormant": 1021, "training": 3}],
        json_schema_extra={
            "additionalProperties": {"type": "integer", "format": "int64", "minimum": 0}
        },
    )
    layers: int = Field(
        default=0, description="Layers that carry seeds.", ge=0, le=100_000, examples=[4]
    )
    active: tuple[str, ...] = Field(
        default=(),
        description="Features that are on.",
        max_length=16,
        examples=[["chunked_architecture", "extended_lifecycle"]],
        json_schema_extra={"items": {"type": "string", "maxLength": 64}},
    )
    epoch: int = Field(default=0, description="Epochs that have ended.", ge=0, examples=[12])
    step: int = Field(default=0, description="Training steps so far.", ge=0, examples=[480])
    accuracy: str = Field(
        default="",
        description="Accuracy on the data to measure by, at the end of the last epoch.",
        max_length=16,
        examples=["0.9121"],
    )
    base_accuracy: str = Field(
        default="",
        description="The same of the model without seeds.",
        max_length=16,
        examples=["0.7402"],
    )
    new_parameters: str = Field(
        default="",
        description="Parameters of the seeds that act, as a share of the model's.",
        max_length=16,
        examples=["1.2%"],
    )
    forward: Forward = Field(
        default_factory=Forward,
        description="How long requests took to compute.",
        examples=[{"p50": "1.1ms", "p95": "1.9ms", "p99": "2.4ms"}],
    )
    throughput: str = Field(
        default="",
        description="Examples that were served a second, of all pods.",
        max_length=32,
        examples=["1200/s"],
    )
    memory: str = Field(
        default="",
        description="Memory of the largest pod: of its GPU where it has one, else of its process.",
        max_length=32,
        examples=["412Mi"],
    )
    gpu_utilisation: str = Field(
        default="",
        description="Mean utilisation of the GPUs; absent where there is none.",
        max_length=16,
        examples=["84%"],
    )
    last_decision: LastDecision | None = Field(
        default=None,
        description="What the controller of the seeds decided last, and why.",
        examples=[{"action": "germinate", "layer": "fc1", "seed": 17, "epoch": 12}],
    )
    decisions: int = Field(
        default=0,
        description="Decisions so far; `seedbed seeds decisions` shows them.",
        ge=0,
        examples=[31],
    )
    last_checkpoint: Checkpointed | None = Field(
        default=None,
        description="The newest checkpoint.",
        examples=[{"time": "2026-11-21T10:00:00Z", "epoch": 12, "sizeBytes": 120_000}],
    )
