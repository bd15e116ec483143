"""A step of a Workflow: what it may be, and when it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from seedbed.crds.base import (
    ENTRY_POINT,
    NAMED,
    OPEN,
    Duration,
    Model,
    Name,
    Reference,
    Text,
)
from seedbed.crds.failure import OnError, Retry
from seedbed.crds.flow import (
    Approve,
    Branch,
    Join,
    Priority,
    Repeat,
    Stragglers,
    Wait,
)
from seedbed.crds.goal import GoalCall
from seedbed.crds.replan import MAX_ALTERNATIVES, Alternative
from seedbed.crds.sub_workflow import WorkflowCall

BODIES = ("agent", "call", "container", "workflow", "goal", "approve", "wait", "branch")
"""What a step may be: each step has exactly one of these fields."""


def listed(names: Sequence[str]) -> str:
    """Names as a sentence lists them: `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), names[-1])))


class AgentCall(Model):
    """Asks an Agent."""

    name: Name = Field(description="An Agent of the same namespace.", examples=["licence-reader"])
    inputs: dict[str, Any] = Field(
        default_factory=dict,
        description="The Agent's inputs. A string may hold `${ CEL }`.",
        examples=[{"document": "${item.text}"}],
        json_schema_extra=OPEN,
    )


class EntryCall(Model):
    """Calls an entry point in the worker's image."""

    entry: str = Field(
        description="Entry point: `package.module:function`.",
        pattern=ENTRY_POINT,
        max_length=256,
        examples=["seedbed.examples.quickstart.licences:collect"],
    )
    args: dict[str, Any] = Field(
        default_factory=dict,
        description="Keyword arguments. A string may hold `${ CEL }`.",
        examples=[{"limit": 12}],
        json_schema_extra=OPEN,
    )


class ContainerRun(Model):
    """Runs a container to its end in a Pod of its own.

    Its output is what it writes to /dev/termination-log: JSON, or else text; at most 4 KiB.
    """

    image: str = Field(
        description="Container image.", min_length=1, max_length=512, examples=["busybox:1.37"]
    )
    command: tuple[Text, ...] = Field(
        default=(),
        description="Command, instead of the image's entry point. May hold `${ CEL }`.",
        max_length=64,
        examples=[["sh", "-c"]],
    )
    args: tuple[Text, ...] = Field(
        default=(),
        description="Arguments. May hold `${ CEL }`.",
        max_length=64,
        examples=[["echo ${item} > /dev/termination-log"]],
    )
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = Field(
        default=None, description="When the image is pulled.", examples=["IfNotPresent"]
    )
    env: tuple[dict[str, Any], ...] = Field(
        default=(),
        description="Environment variables, also from Secrets.",
        max_length=64,
        examples=[[{"name": "LEVEL", "value": "info"}]],
        json_schema_extra=NAMED,
    )
    resources: dict[str, Any] = Field(
        default_factory=dict,
        description="Requests and limits.",
        examples=[{"limits": {"memory": "256Mi"}}],
        json_schema_extra=OPEN,
    )


class Step(Model):
    """One step of the graph, with exactly one body: `agent`, `call`, `container` or `branch`."""

    name: Name = Field(description="Unique name in the Workflow.", examples=["classify"])
    agent: AgentCall | None = Field(
        default=None, description="Asks an Agent.", examples=[{"name": "licence-reader"}]
    )
    call: EntryCall | None = Field(
        default=None,
        description="Calls an entry point in the worker's image.",
        examples=[{"entry": "team.steps:clean"}],
    )
    container: ContainerRun | None = Field(
        default=None,
        description="Runs a container to its end.",
        examples=[{"image": "busybox:1.37"}],
    )
    workflow: WorkflowCall | None = Field(
        default=None,
        description="Runs another Workflow to its end.",
        examples=[{"name": "review-one", "params": {"document": "${item}"}}],
    )
    goal: GoalCall | None = Field(
        default=None,
        description="Takes a goal apart into a tree of tasks.",
        examples=[{"text": "Build ${params.what}", "model": "default"}],
    )
    approve: Approve | None = Field(
        default=None,
        description="Waits until a person approves or rejects.",
        examples=[{"message": "Send the letters?", "deadline": "24h"}],
    )
    wait: Wait | None = Field(
        default=None,
        description="Waits for a time or an event.",
        examples=[{"event": "payment-received", "timeout": "2h"}],
    )
    branch: Branch | None = Field(
        default=None,
        description="Chooses which steps are entered.",
        examples=[{"when": "params.urgent", "then": ["page-somebody"], "else": ["write-ticket"]}],
    )
    needs: tuple[Name, ...] = Field(
        default=(),
        description=(
            "Steps that end first. Steps that the expressions name as `steps.NAME` "
            "are added by themselves."
        ),
        max_length=1000,
        examples=[["collect"]],
    )
    join: Join = Field(
        default="all",
        description=(
            "Which of the needs start the step: `all` once all have ended, `any` as soon as one has "
            "succeeded, a number as soon as so many have. Where that cannot be any more it fails with "
            "`join_impossible`."
        ),
        examples=["any"],
    )
    when: str | None = Field(
        default=None,
        description="CEL condition; the step is skipped where it is false. With forEach: per item.",
        min_length=1,
        max_length=4096,
        examples=["size(steps.collect.output) > 0"],
    )
    for_each: str | None = Field(
        default=None,
        description="CEL list; the step runs once per `item` (with `index`). Output: a list.",
        min_length=1,
        max_length=4096,
        examples=["steps.collect.output"],
    )
    follow: bool = Field(
        default=False,
        description=(
            "Items of forEach start as the step yields them whose output forEach is, instead of when "
            "that has ended. For `steps.NAME.output` of a call that yields. An item counts by its "
            "number: one that is yielded again, by another attempt, is not started again."
        ),
        examples=[True],
    )
    ordered: bool = Field(
        default=False,
        description=(
            "Items of forEach may have `after`, a list of places of earlier items, or of pairs "
            "`[FROM, TO]` of places, TO not included; an item starts once all of them have ended. "
            "Expressions may read `previous`, the list of their outputs. 1,000,000 links at most."
        ),
        examples=[True],
    )
    repeat: Repeat | None = Field(
        default=None,
        description=(
            "Runs the step again until a condition holds. Its expressions may read `iteration`, from "
            "0, and `previous`, the output of the iteration before, null at first."
        ),
        examples=[{"until": "output.done", "max": 10}],
    )
    priority: Priority = Field(
        default=1,
        description="Which of the Workflow's steps that are ready start first: 2 before 1 before 0.",
        examples=[2],
    )
    pool: Reference | None = Field(
        default=None,
        description="Pool for this step, instead of the Agent's or the Workflow's.",
        examples=[{"name": "general"}],
    )
    retry: Retry | None = Field(
        default=None,
        description="Retry policy, instead of the Workflow's.",
        examples=[{"attempts": 5}],
    )
    timeout: Duration | None = Field(
        default=None,
        description="Longest time for one attempt, from when a worker takes it.",
        examples=["2m"],
    )
    compensate: EntryCall | None = Field(
        default=None,
        description=(
            "Undoes the step after it has succeeded, where a step fails whose onError says "
            "`compensate`. Its expressions may read `output`, what the step gave. Five attempts. A "
            "step with repeat is undone iteration by iteration, the last one first, also where it "
            "has failed in the end; `iteration` is the number of the one to undo, from 0."
        ),
        examples=[{"entry": "team.steps:refund", "args": {"payment": "${output.id}"}}],
    )
    allow_failure: bool = Field(
        default=False,
        description="Goes on when the step fails, as onError with the action `continue`.",
        examples=[True],
    )
    on_error: OnError | None = Field(
        default=None,
        description="What becomes of the run when the step fails for good.",
        examples=[{"action": "fallback", "step": "ask-a-person"}],
    )
    alternatives: tuple[Alternative, ...] = Field(
        default=(),
        description=(
            "Other ways to do the step, tried in this order when it has failed for good, before "
            "those of `spec.replan` and before onError. For steps with an agent or a call."
        ),
        max_length=MAX_ALTERNATIVES,
        examples=[[{"pool": "spare"}, {"entry": "team.steps:from_the_archive"}]],
    )
    pure: bool = Field(
        default=False,
        description=(
            "Has no effect but its output, which depends on nothing but what it is given. The "
            "optimiser may start it before steps that only stand first in `needs`, and run equal ones "
            "once; a branch may start it before it has decided."
        ),
        examples=[True],
    )
    stragglers: Stragglers | None = Field(
        default=None,
        description=(
            "Starts items a second time that take much longer than the others. For steps with forEach "
            "whose items may run twice at a time."
        ),
        examples=[{"slowerThan": 3, "atLeast": "30s"}],
    )
    estimate: Duration | None = Field(
        default=None,
        description=(
            "How long one attempt is expected to take. Measured times of earlier runs count more; "
            "critical path and ETA use it."
        ),
        examples=["90s"],
    )
