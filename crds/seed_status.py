"""The parts of a SeedLayer's status."""

from __future__ import annotations

from datetime import datetime

from pydantic import Field

from seedbed.crds.base import Observation


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
