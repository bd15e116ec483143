"""What is done about prompts that repeat: a section of the models file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from seedbed.crds.base import Model


class Compression(Model):
    """Leaving out the sentences of long texts that say least."""

    similarity_floor: float = Field(
        ge=0.5,
        le=1,
        description="Cosine that what is left has to the whole at least; else nothing is left out.",
    )
    from_bytes: int = Field(
        default=2000, ge=500, le=1_000_000, description="Shorter texts stay as they are."
    )
    keep: float = Field(default=0.5, ge=0.1, le=1, description="Share of the sentences that stays.")


class Prompts(Model):
    """What is done about prompts that repeat."""

    patterns: bool = Field(
        default=True, description="Find what prompts of a namespace have in common."
    )
    duplicates: bool = Field(
        default=True,
        description="Send a text that stands twice in a request once, with a reference to it.",
    )
    duplicates_from_bytes: int = Field(
        default=300,
        ge=100,
        le=1_000_000,
        description="Shorter texts may stand as often as they do.",
    )
    prefix: Literal["as-given", "tools", "blocks"] = Field(
        default="tools",
        description=(
            "What is put in a constant order, so that a provider's prompt cache finds it: nothing; "
            "tools, by name; also paragraphs of instructions that are always the same, before those "
            "that differ."
        ),
    )
    compression: Compression | None = Field(
        default=None, description="Off where not given: it leaves out text."
    )
