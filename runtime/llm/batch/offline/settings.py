"""How batches of offline work are done: a section of the models file."""

from __future__ import annotations

from pydantic import Field

from seedbed.crds.base import Model


class Offline(Model):
    """Batches of offline work, `/v1/files` and `/v1/batches`."""

    enabled: bool = Field(default=True, description="Whether batches are taken; needs a database.")
    concurrency: int = Field(
        default=4,
        ge=1,
        le=256,
        description="Lines that models are asked at a time, where no provider's batch has them.",
    )
    patience_seconds: float = Field(
        default=10.0,
        ge=0,
        le=3600,
        description="Longest wait of a line for interactive calls to the same model to end.",
    )
    poll_seconds: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Between two looks at a provider's batch.",
    )
    retention_days: float = Field(
        default=30.0,
        gt=0,
        le=3650,
        description="After that what has ended is forgotten, files too.",
    )
