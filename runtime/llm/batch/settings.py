"""How calls go together: a section of the models file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from seedbed.crds.base import Model


class Batching(Model):
    """How calls go to the models together."""

    collapse: Literal["repeatable", "all", "off"] = Field(
        default="repeatable",
        description=(
            "Which equal calls share one answer while it is under way: those that would get the same "
            "one anyway (embeddings, temperature 0, a seed), all, or none."
        ),
    )
    window_milliseconds: int = Field(
        default=100,
        ge=0,
        le=100,
        description="Longest wait for others to go along with; 0 sends each call alone.",
    )
    largest: int = Field(default=64, ge=1, le=2048, description="Calls that go together at most.")
