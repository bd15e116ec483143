"""`SeedLayer`: a frozen torch model whose layers carry seeds.

The model fixes the form of the kind. Its behaviour is not built yet, so its CRD is generated
but not installed.
"""

from __future__ import annotations

from pydantic import Field

from seedbed.crds.base import FieldName, Model, ObjectMeta, Observation, Status


class SeedLayerSpec(Model):
    """What a user wants of a SeedLayer."""

    model: str = Field(
        description="Where the frozen model comes from: `package.module:function`, or a folder.",
        min_length=1,
        max_length=512,
        examples=["team.models:load"],
    )
    layers: tuple[FieldName, ...] = Field(
        description="Patterns of the names of the layers that carry seeds.",
        min_length=1,
        max_length=256,
        examples=[["encoder.*.mlp"]],
    )
    seeds_per_layer: int = Field(
        default=1024, description="Seeds on each layer.", ge=1, le=100_000, examples=[1024]
    )


class SeedLayerStatus(Status):
    """What the operator reports of a SeedLayer."""


class SeedLayer(Observation):
    """A frozen torch model whose layers carry seeds."""

    metadata: ObjectMeta
    spec: SeedLayerSpec
    status: SeedLayerStatus = Field(default_factory=SeedLayerStatus)
