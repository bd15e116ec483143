"""What a run may put in the place of a step that has failed for good, and how often."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from seedbed.crds.base import ENTRY_POINT, Model, Name

MAX_ALTERNATIVES = 10
ModelName = Annotated[str, Field(min_length=1, max_length=128)]


class Alternative(Model):
    """Another way to do a step, with the same inputs; what it does not name stays as it is."""

    pool: Name | None = Field(
        default=None, description="Runs the step in this Pool.", examples=["spare"]
    )
    entry: str | None = Field(
        default=None,
        description="Calls this entry point; it gets the inputs as keyword arguments.",
        pattern=ENTRY_POINT,
        max_length=256,
        examples=["team.steps:from_the_archive"],
    )
    agent: Name | None = Field(
        default=None, description="Asks this Agent.", examples=["second-reader"]
    )
    workflow: Name | None = Field(
        default=None,
        description="Runs this Workflow, which has `template`; the inputs are its parameters.",
        examples=["by-hand"],
    )
    model: ModelName | None = Field(
        default=None, description="Has the Agent ask this model.", examples=["default"]
    )


class Replan(Model):
    """How far a run changes its plan when steps fail for good.

    After a timeout or a lost connection the step goes to another Pool, after an error of the model to
    another model, after any error to what the step names itself.
    """

    max_per_step: int = Field(
        default=2,
        description="Changes of the plan for one step, or one item of a forEach step.",
        ge=0,
        le=10,
        examples=[2],
    )
    max_total: int = Field(
        default=100,
        description="Changes of the plan in the whole run.",
        ge=0,
        le=10_000,
        examples=[100],
    )
    pools: tuple[Name, ...] = Field(
        default=(),
        description="Pools that a step may go to, in order.",
        max_length=MAX_ALTERNATIVES,
        examples=[["spare"]],
    )
    models: tuple[ModelName, ...] = Field(
        default=(),
        description="Models that an Agent's step may ask instead, in order.",
        max_length=MAX_ALTERNATIVES,
        examples=[["default"]],
    )
