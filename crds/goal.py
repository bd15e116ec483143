"""What a goal is made of: rules that take goals of a known form apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from seedbed.crds.base import OPEN, Model
from seedbed.crds.errors import InvalidError
from seedbed.crds.sub_workflow import WorkflowCall

PLACE = re.compile(r"\{([a-z][a-z0-9_]*)\}")
"""A name in a rule's form or text."""
MOST_PLACES = 2
RESERVED = frozenset({"n", "each", "level"})
MOST_TASKS = 100_000
MOST_LEVELS = 250
PART = "part"
"""Name of the step that does the leaves of a goal's tree."""
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
    after: bool = Field(
        default=False,
        description=(
            "Begins once all that stands before it in the rule is done; what stands behind it does so "
            "too."
        ),
        examples=[True],
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


class GoalWork(Model):
    """Has the leaves of a goal's tree done, in their order, by a run of its own."""

    step: dict[str, Any] = Field(
        description=(
            "What is done for each leaf: a step in the form of `spec.steps`, without name, needs, join, "
            "forEach and ordered. Its expressions see `item` (`text`, `id`, the texts `above`), "
            "`previous` (the outputs of the leaves that come directly before) and `params` (`goal`, "
            "`leaves`), nothing of the Workflow around."
        ),
        examples=[{"agent": {"name": "doer", "inputs": {"task": "${item.text}"}}}],
        json_schema_extra=OPEN,
    )
    result: str | None = Field(
        default=None,
        description=(
            f"CEL of the step's output; else `steps.{PART}.output`, the outputs in the order of "
            "`params.leaves`."
        ),
        min_length=1,
        max_length=4096,
        examples=[f"last(steps.{PART}.output)"],
    )

    @property
    def plan(self) -> WorkflowCall:
        """The plan that does the leaves; they are its parameter `leaves`."""
        part = {**self.step, "name": PART, "forEach": "params.leaves", "ordered": True}
        return WorkflowCall(steps=(part,), result=self.result or f"steps.{PART}.output")


OF_THE_TREE = ("name", "needs", "join", "forEach", "ordered")
"""What a leaf's step cannot say: it follows from the tree."""


class GoalCall(Model):
    """Takes a goal apart into a tree of tasks.

    The output holds `tasks` (each with `id`, `parent`, `level`, `text`), `leaves` (the tasks without
    parts, each with the texts `above` it and, where leaves come before it, their places in `after`),
    `depth`, `calls` and `cut`, which tells why parts were left whole. A forEach over
    `steps.NAME.output.leaves` has each leaf done, with `ordered` in their order; `execute` does so in a
    run of its own.
    """

    text: str = Field(
        description="The goal. May hold `${ CEL }`.",
        min_length=1,
        max_length=4096,
        examples=["Build ${params.what}"],
    )
    rules: tuple[GoalRule, ...] = Field(
        default=(),
        description="Rules of a known domain; the first whose form a goal has takes it apart.",
        max_length=200,
        examples=[[{"goal": "Build {what}", "into": [{"text": "Design {what}"}]}]],
    )
    model: str | None = Field(
        default=None,
        description="Model of the model service for goals that no rule takes apart.",
        min_length=1,
        max_length=128,
        examples=["default"],
    )
    max_tasks: int = Field(
        default=10_000,
        description="Tasks that there may be; rules that make more fail, models are cut short.",
        ge=1,
        le=20_000,
        examples=[2000],
    )
    max_depth: int = Field(
        default=20,
        description="Levels below the goal; goals there are left whole.",
        ge=1,
        le=MOST_LEVELS,
        examples=[6],
    )
    max_calls: int = Field(
        default=100,
        description="Calls of the model; what is open when they are spent is left whole.",
        ge=1,
        le=10_000,
        examples=[50],
    )
    order: Literal["Parallel", "Sequence"] = Field(
        default="Parallel",
        description=(
            "How the parts of each goal are done: side by side, but for what rules say by `after`; or "
            "one after the other."
        ),
        examples=["Sequence"],
    )
    execute: GoalWork | None = Field(
        default=None,
        description=(
            "Has the leaves done, in their order. The step's output is then the result of that work; "
            "retries repeat the work, not the planning."
        ),
        examples=[{"step": {"agent": {"name": "doer", "inputs": {"task": "${item.text}"}}}}],
    )


def problems_of(rules: Sequence[GoalRule], field: str) -> Iterator[InvalidError]:
    """What keeps rules from working: forms that cannot be read, texts that name what is not known."""
    for at, rule in enumerate(rules):
        places = PLACE.findall(rule.goal)
        where = f"{field}[{at}].goal"
        # More places could make the search for a match take very long.
        if len(places) > MOST_PLACES or len(set(places)) < len(places):
            yield InvalidError(where, f"takes at most {MOST_PLACES} names, each of them once")
        if reserved := RESERVED & set(places):
            yield InvalidError(where, f"`{min(reserved)}` has a meaning already")
        for place, part in enumerate(rule.into):
            unknown = set(PLACE.findall(part.text)) - RESERVED - set(places)
            if unknown:
                told = f"nothing is known of `{{{min(unknown)}}}`"
                yield InvalidError(f"{field}[{at}].into[{place}].text", told)
