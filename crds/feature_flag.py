"""`FeatureFlag`: a switch, on for everybody, for a share of subjects, or for nobody."""

from __future__ import annotations

from pydantic import Field

from seedbed.crds.base import Model, ObjectMeta, Observation, Status, Subject


class FeatureFlagSpec(Model):
    """What a user wants of a FeatureFlag.

    Order of decision: not enabled → off; blocked subject → off; allowed subject → on;
    else by the subject's bucket and the rollout percentage.
    """

    description: str = Field(
        default="",
        description="What the flag switches.",
        max_length=1024,
        examples=["Prompt style of the licence audit."],
    )
    enabled: bool = Field(
        default=True, description="Off for everybody where false.", examples=[True]
    )
    rollout_percentage: float = Field(
        default=100.0,
        description="Share of subjects for which it is on, stable per subject.",
        ge=0.0,
        le=100.0,
        examples=[25],
    )
    allow: tuple[Subject, ...] = Field(
        default=(),
        description="Subjects for which it is on whatever the percentage.",
        max_length=500,
        examples=[["team-legal"]],
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )
    block: tuple[Subject, ...] = Field(
        default=(),
        description="Subjects for which it is off whatever the percentage.",
        max_length=500,
        examples=[["team-audit"]],
        json_schema_extra={"x-kubernetes-list-type": "set"},
    )


class FeatureFlagStatus(Status):
    """What the operator reports of a FeatureFlag."""

    state: str = Field(
        default="",
        description="What it does now: On, Off, or the percentage.",
        max_length=32,
        examples=["25%"],
    )


class FeatureFlag(Observation):
    """A switch: on for everybody, for a share of subjects, or for nobody."""

    metadata: ObjectMeta
    spec: FeatureFlagSpec = Field(default_factory=FeatureFlagSpec)
    status: FeatureFlagStatus = Field(default_factory=FeatureFlagStatus)
