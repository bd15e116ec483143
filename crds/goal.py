"""What a goal is made of: rules that take goals of a known form apart."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from seedbed.crds.base import Model

MOST_TASKS = 100_000
MOST_LEVELS = 250
GoalText = Annotated[str, Field(min_length=1, max_length=500)]


class SubGoal(Model):
    """One or several goals that follow from another."""

    text: GoalText = Field(
        description=(
            "The goal. `{NAME}` stands for what the rule's form found under that name, `{n}` for the "
            "number of the goal from 1, `{each}` for an item of `each`, `{level}` for its level."
        ),
        examples=["Write the driver for {each}"],
    )
    each: tuple[GoalText, ...] = Field(
        default=(),
        description="One goal for each of these.",
        max_length=1000,
        examples=[["network", "storage"]],
    )
    count: int = Field(
        default=1,
        description="This many goals, for each item of `each` where there are any.",
        ge=1,
        le=MOST_TASKS,
        examples=[8],
    )


class GoalRule(Model):
    """Takes goals of one form apart."""

    goal: GoalText = Field(
        description="Form of the goal; `{NAME}`, at most two, stands for any text.",
        examples=["Build {what}"],
    )
    max_level: int = Field(
        default=MOST_LEVELS,
        description="Goals of this level and below are left whole by this rule.",
        ge=1,
        le=MOST_LEVELS,
        examples=[100],
    )
    into: tuple[SubGoal, ...] = Field(
        description="What it is made of.",
        min_length=1,
        max_length=1000,
        examples=[[{"text": "Design {what}"}, {"text": "Test {what}"}]],
    )


class GoalTemplate(Model):
    """A known domain: the first rule whose form a goal has takes it apart; others are left whole."""

    rules: tuple[GoalRule, ...] = Field(
        description="The rules, in the order in which they are tried.",
        min_length=1,
        max_length=1000,
        examples=[[{"goal": "Build {what}", "into": [{"text": "Design {what}"}]}]],
    )
