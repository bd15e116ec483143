"""The section `cache` of the models file: what is cached, for whom, for how long, how carefully.

cache:
  mode: on
  semantic: build
  traffic: 10
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from seedbed.crds.base import Model


def _word(value: object) -> object:
    """YAML reads the bare words `on` and `off` as truth values."""
    if isinstance(value, bool):
        return "on" if value else "off"
    return value


Mode = Annotated[Literal["off", "build", "on"], BeforeValidator(_word)]
"""off: not at all. build: answers are stored and looked up, and never served. on: they are served."""


class CacheSettings(Model):
    """How answers are cached."""

    mode: Mode = Field(default="off", description="off, build (store, never serve) or on.")
    semantic: Mode = Field(
        default="off",
        description="The same for answers to similar requests; never more than `mode` allows.",
    )
    traffic: float = Field(
        default=100,
        ge=0,
        le=100,
        description="Percent of requests that may be served, the same ones each time.",
    )
    flag: str = Field(
        default="",
        max_length=253,
        description="A FeatureFlag. A namespace that has one of this name decides by it, not by "
        "`traffic`, which requests may be served; the subject is the request's hash.",
    )
    ttl_seconds: float = Field(
        default=86_400, gt=0, le=31_536_000, description="How long an answer is served."
    )
    stale_seconds: float = Field(
        default=3_600,
        ge=0,
        le=31_536_000,
        description="How long beyond it, where no model can be asked.",
    )
    sampled: bool = Field(
        default=False, description="Also requests whose temperature asks for variety."
    )
    entries: int = Field(
        default=10_000, ge=1, le=1_000_000, description="Most answers kept for one namespace."
    )
    memory_mi_b: int = Field(
        default=256,
        ge=1,
        le=1_048_576,
        description="Of all answers that one process holds.",
    )
    accepted_wrong_hits: float = Field(
        default=0.02,
        gt=0,
        le=0.5,
        description="Share of semantic hits that may be wrong; it decides what is similar enough.",
    )
    proven_first: bool = Field(
        default=True,
        description="Semantic hits are asked anyway, until enough of a namespace's were right.",
    )
    verify: float = Field(
        default=0.02,
        ge=0,
        le=1,
        description="Share of semantic hits that are asked anyway, to measure how many are wrong.",
    )
    same_answer: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="Cosine from which on two answers that differ in words say the same.",
    )
