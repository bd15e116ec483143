"""`SeedLayer`: a frozen torch model whose layers carry seeds, served while they train."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from seedbed.crds.base import (
    ENTRY_POINT,
    OPEN,
    Duration,
    Model,
    Name,
    ObjectMeta,
    Observation,
)
from seedbed.crds.pod import PodSettings
from seedbed.crds.seed_features import Features
from seedbed.crds.seed_policy import Grafting, LifecyclePolicy, Training
from seedbed.crds.seed_status import SeedLayerStatus

NAME_LIMIT = 46
"""Characters of a SeedLayer's name: what is made of it has to fit into a label."""
SEED_IMMUTABLE = ("model", "routing", "reads")
"""Fields of the spec without which the seeds' state means nothing."""
LayerPattern = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_.*?\[\]!-]+$", min_length=1, max_length=256)
]
_URL = r"^([a-z][a-z0-9+]*://.+|/.+)$"


class ModelSource(Model):
    """Where the frozen model comes from: an entry point, with weights or without, or a folder."""

    entry: str | None = Field(
        default=None,
        description="`package.module:function`; called with `arguments`, it gives the torch module.",
        pattern=ENTRY_POINT,
        max_length=256,
        examples=["seedbed.examples.seeds.digits:model"],
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="Arguments of the entry point, by name.",
        max_length=64,
        examples=[{"width": 64}],
        json_schema_extra=OPEN,
    )
    weights: str | None = Field(
        default=None,
        description=(
            "A safetensors file whose tensors are loaded into what `entry` gives: a path on one of "
            "`spec.volumes`, or a URL that fsspec knows. No pickle is ever read."
        ),
        pattern=_URL,
        max_length=1024,
        examples=["/volumes/models/encoder.safetensors"],
    )
    folder: str | None = Field(
        default=None,
        description=(
            "A folder in the form of Hugging Face, with config.json and safetensors files, on one of "
            "`spec.volumes`; the image needs the package transformers."
        ),
        pattern=r"^/.+$",
        max_length=1024,
        examples=["/volumes/models/bert-base"],
    )


class Blueprint(Model):
    """A form that a germinated seed may take."""

    type: Literal["lowRank", "mlp", "norm", "custom"] = Field(
        description=(
            "`lowRank` adds a low-rank map, `mlp` a small network with one hidden layer, `norm` what is "
            "normalised, scaled and shifted, `custom` what a module of yours gives."
        ),
        examples=["lowRank"],
    )
    entry: str | None = Field(
        default=None,
        description=(
            "Of `custom`: `package.module:attribute`; called with the number of columns that a seed reads, "
            "that of those it writes, and `arguments`, it gives a torch module for one seed."
        ),
        pattern=ENTRY_POINT,
        max_length=256,
        examples=["team.blueprints:gated"],
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="Of `custom`: more arguments of the entry point, by name.",
        max_length=64,
        examples=[{"hidden": 4}],
        json_schema_extra=OPEN,
    )
    rank: int = Field(
        default=8,
        description="Inner width of `lowRank` and `mlp`.",
        ge=1,
        le=256,
        examples=[8],
    )


class DataSource(Model):
    """What the seeds are trained on and measured by."""

    entry: str | None = Field(
        default=None,
        description=(
            "`package.module:function`; called with `arguments`, it gives four tensors: inputs and "
            "targets to train on, inputs and targets to measure by."
        ),
        pattern=ENTRY_POINT,
        max_length=256,
        examples=["seedbed.examples.seeds.digits:data"],
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict,
        description="Arguments of the entry point, by name.",
        max_length=64,
        examples=[{"shift": 0.5}],
        json_schema_extra=OPEN,
    )
    url: str | None = Field(
        default=None,
        description=(
            "A safetensors or npz file with the arrays `inputs`, `targets`, `test_inputs` and "
            "`test_targets`, a CSV table with the column `target`, or JSON lines with `inputs` and "
            "`target`: a path on one of `spec.volumes`, or a URL that fsspec knows."
        ),
        pattern=_URL,
        max_length=1024,
        examples=["s3://team/digits.safetensors"],
    )


class CheckpointVolume(Model):
    """A volume that each pod gets for its checkpoints; it stays when the pod goes."""

    size: str = Field(
        default="1Gi",
        description="Size of the volume.",
        pattern=r"^[1-9][0-9]*(Mi|Gi|Ti)$",
        max_length=16,
        examples=["10Gi"],
    )
    class_name: str | None = Field(
        default=None,
        description="Storage class; the cluster's own where none is given.",
        max_length=253,
        examples=["fast"],
    )


class SeedCheckpoint(Model):
    """Where the seeds' state is kept, and how often. At most one of volume, claim and url."""

    interval: Duration = Field(
        default="60s",
        description="Longest time between two checkpoints while seeds train; one is also taken at the end "
        "of each epoch in which a seed has moved, and when the pod ends.",
        examples=["30s"],
    )
    keep: int = Field(
        default=3, description="Checkpoints that are kept.", ge=1, le=100, examples=[3]
    )
    volume: CheckpointVolume | None = Field(
        default=None,
        description="A volume for each pod. Without any place a pod's checkpoints go with the pod.",
        examples=[{"size": "10Gi"}],
    )
    claim: str | None = Field(
        default=None,
        description="A PersistentVolumeClaim of yours; several pods need one that can be shared.",
        max_length=253,
        examples=["seed-checkpoints"],
    )
    url: str | None = Field(
        default=None,
        description="A place that fsspec knows, such as an object store; its package has to be in the "
        "image and its credentials in `template.env`.",
        pattern=r"^[a-z][a-z0-9+]*://.+$",
        max_length=1024,
        examples=["s3://team/seeds/encoder"],
    )


class Volume(Model):
    """A PersistentVolumeClaim that the pods read, at `/volumes/NAME`."""

    name: Name = Field(description="Name of the folder below /volumes.", examples=["models"])
    claim: str = Field(
        description="Name of the PersistentVolumeClaim.",
        min_length=1,
        max_length=253,
        examples=["models"],
    )


class Distribution(Model):
    """Pods that train together, as torchrun's elastic launch starts them."""

    seeds: Literal["replicated", "sharded"] = Field(
        default="replicated",
        description=(
            "`replicated`: every process holds all seeds and learns from its part of each batch. "
            "`sharded`: every process holds a part of each layer's seeds and sees the whole of each "
            "batch; only the first pod answers requests, with all of them."
        ),
        examples=["replicated"],
    )
    processes_per_pod: int = Field(
        default=1,
        description="Processes in each pod, each with a GPU of its own where there are GPUs.",
        ge=1,
        le=16,
        examples=[1],
    )
    least_pods: int = Field(
        default=1,
        description="Pods without which training does not go on.",
        ge=1,
        le=1000,
        examples=[2],
    )


class TokenSecret(Model):
    """A Secret with the token that callers of the pods must show."""

    name: str = Field(
        description="Name of the Secret.", min_length=1, max_length=253, examples=["encoder-token"]
    )
    key: str = Field(
        default="token",
        description="Its key.",
        min_length=1,
        max_length=253,
        examples=["token"],
    )


class SeedLayerSpec(Model):
    """What a user wants of a SeedLayer."""

    model: ModelSource = Field(
        description="The frozen model; it cannot be changed.",
        examples=[{"entry": "seedbed.examples.seeds.digits:model"}],
    )
    layers: tuple[LayerPattern, ...] = Field(
        description=(
            "Names of the modules that carry seeds, `*` for any text: as `named_modules` tells them. "
            "After a change new layers begin with dormant seeds; a layer with fossils cannot go."
        ),
        min_length=1,
        max_length=256,
        examples=[["encoder.*.mlp"]],
    )
    seeds_per_layer: int = Field(
        default=1024,
        description="Seeds on each layer. With the routing `token` a change keeps every seed that has its "
        "place; with `chunk` it cuts the layers anew, which no fossil survives, so it is refused then.",
        ge=1,
        le=100_000,
        examples=[1024],
    )
    routing: Literal["chunk", "token"] = Field(
        default="chunk",
        description=(
            "`chunk` cuts the layer's width into as many chunks as there are seeds, one for each; `token` "
            "gives each row of a batch to the seed that the caller names. It cannot be changed."
        ),
        examples=["chunk"],
    )
    reads: Literal["output", "input"] = Field(
        default="output",
        description=(
            "Whether a seed adapts what its layer gives, or reads the layer's input as LoRA does, which "
            "needs the routing `token`. It cannot be changed."
        ),
        examples=["output"],
    )
    blueprints: tuple[Blueprint, ...] = Field(
        default=(Blueprint(type="lowRank"),),
        description="Forms that a seed may take. One that fossils grew from cannot go.",
        min_length=1,
        max_length=16,
        examples=[[{"type": "lowRank", "rank": 8}, {"type": "norm"}]],
    )
    lifecycle: LifecyclePolicy = Field(
        default_factory=LifecyclePolicy,
        description="When seeds germinate, advance and are given up. A change holds from the next epoch on.",
        examples=[{"patience": 3, "accuracyTarget": 0.97}],
    )
    grafting: Grafting = Field(
        default_factory=Grafting,
        description="How seeds blend in. A change holds from the next epoch on.",
        examples=[{"strategy": "drift", "steps": 60}],
    )
    training: Training = Field(
        default_factory=Training,
        description="How seeds are trained. A change holds from the next epoch on.",
        examples=[{"epochs": 60, "batchSize": 64}],
    )
    data: DataSource | None = Field(
        default=None,
        description="What seeds are trained on; without it only on what callers send to `/v1/train`.",
        examples=[{"entry": "seedbed.examples.seeds.digits:data"}],
    )
    features: Features = Field(
        default_factory=Features,
        description="The FeatureFlags that switch the parts of the product on for this SeedLayer.",
        examples=[{"neuralController": "seed-networks"}],
    )
    checkpoint: SeedCheckpoint = Field(
        default_factory=SeedCheckpoint,
        description="Where the state is kept and how often.",
        examples=[{"interval": "30s", "volume": {"size": "10Gi"}}],
    )
    replicas: int = Field(
        default=1,
        description=(
            "Pods. The first one trains; the others serve what it has checkpointed, which has to stand "
            "in `checkpoint.url` or on a shared `checkpoint.claim`; with `distribution` all of them train."
        ),
        ge=0,
        le=1000,
        examples=[1],
    )
    distribution: Distribution | None = Field(
        default=None,
        description="Has all pods train together. It cannot be given or taken away later.",
        examples=[{"seeds": "sharded", "leastPods": 2}],
    )
    gpus: int = Field(
        default=0,
        description="GPUs of each pod, as nvidia.com/gpu; 0 computes on the CPU, or on devices that "
        "`template.resourceClaims` brings.",
        ge=0,
        le=16,
        examples=[1],
    )
    drain: Duration = Field(
        default="110s",
        description="How long a pod that ends may take to save its state; at most 2m, which spot nodes give.",
        examples=["60s"],
    )
    token_secret: TokenSecret | None = Field(
        default=None,
        description="The token that callers must show; without one the pods serve whoever reaches them.",
        examples=[{"name": "encoder-token"}],
    )
    volumes: tuple[Volume, ...] = Field(
        default=(),
        description="PersistentVolumeClaims with models and data.",
        max_length=16,
        examples=[[{"name": "models", "claim": "models"}]],
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    suspend: bool = Field(
        default=False,
        description="Takes the pods away and keeps the checkpoints.",
        examples=[False],
    )
    template: PodSettings = Field(
        default_factory=PodSettings,
        description="Settings of the pods; the image is the chart's `seeds.image` where none is given.",
        examples=[{"resources": {"requests": {"cpu": "2", "memory": "4Gi"}}}],
    )


class SeedLayer(Observation):
    """A frozen torch model whose layers carry seeds."""

    metadata: ObjectMeta
    spec: SeedLayerSpec
    status: SeedLayerStatus = Field(default_factory=SeedLayerStatus)
