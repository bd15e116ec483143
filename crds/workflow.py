"""`Workflow`: a durable graph of steps, run on Pools."""

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
    ObjectMeta,
    Observation,
    Reference,
    Text,
)
from seedbed.crds.budget import Budget
from seedbed.crds.checkpoint import CheckpointPolicy, ForkFrom
from seedbed.crds.failure import OnError, Retry
from seedbed.crds.flow import (
    Approval,
    Approve,
    Branch,
    Join,
    Names,
    Priority,
    Repeat,
    Stragglers,
    Wait,
)
from seedbed.crds.goal import GoalCall
from seedbed.crds.replan import MAX_ALTERNATIVES, Alternative, Replan
from seedbed.crds.steps_source import StepsFrom
from seedbed.crds.sub_workflow import ParamType, WorkflowCall
from seedbed.crds.workflow_status import WorkflowStatus

MAX_INLINE_STEPS = 10_000
"""Steps that one object may hold: the API server takes seconds for so many, and gives up at more."""
MAX_STEPS = 100_000
"""Steps that a graph may have, wherever they stand."""
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


class WorkflowSpec(Model):
    """What a user wants of a Workflow."""

    pool: Reference = Field(
        default=Reference(name="general"),
        description="Pool for steps that name none.",
        examples=[{"name": "general"}],
    )
    params: dict[str, Any] = Field(
        default_factory=dict,
        description="Values that expressions read as `params.NAME`.",
        examples=[{"limit": 12}],
        json_schema_extra=OPEN,
    )
    param_types: dict[str, ParamType] = Field(
        default_factory=dict,
        description=(
            "Types of the parameters. A run with a value of another type, without a required one or "
            "with an unknown one does not begin."
        ),
        max_length=100,
        examples=[{"limit": {"type": "integer", "required": True}}],
    )
    template: bool = Field(
        default=False,
        description="Does not run by itself: `workflow` steps of others run it, by its name.",
        examples=[True],
    )
    steps: tuple[Step, ...] = Field(
        default=(),
        description="The steps of the graph, where they fit into the object.",
        max_length=MAX_INLINE_STEPS,
        examples=[[{"name": "hello", "call": {"entry": "builtins:dict"}}]],
        json_schema_extra={
            "x-kubernetes-list-type": "map",
            "x-kubernetes-list-map-keys": ["name"],
        },
    )
    steps_from: StepsFrom | None = Field(
        default=None,
        description="Where the steps stand instead; for graphs beyond the size of an object.",
        examples=[{"configMap": {"name": "nightly-plan"}}],
    )
    result: str | None = Field(
        default=None,
        description="CEL of the run's result; the outputs of the last steps where none is given.",
        min_length=1,
        max_length=4096,
        examples=["steps.table.output"],
    )
    retry: Retry = Field(
        default=Retry(attempts=1),
        description="Retry policy of steps that have none.",
        examples=[{"attempts": 3}],
    )
    on_error: OnError | None = Field(
        default=None,
        description="What becomes of the run when a step fails that does not say so itself.",
        examples=[{"action": "abort"}],
    )
    replan: Replan = Field(
        default=Replan(),
        description="How the plan may change when steps fail for good.",
        examples=[{"maxTotal": 20, "pools": ["spare"]}],
    )
    on_exit: Names = Field(
        default=(),
        description=(
            "Steps that run once the outcome is known, whatever it is. Their expressions may read "
            "`run.phase`, `run.reason` and `run.message`, and every step as it was left. They cannot "
            "change the outcome."
        ),
        examples=[["tell-the-team"]],
    )
    priority: Priority = Field(
        default=1,
        description=(
            "Share of a Pool that several Workflows want more of than there is: each step of "
            "priority doubles it. May be changed while the run goes on."
        ),
        examples=[2],
    )
    parallelism: int = Field(
        default=100,
        description="Steps of this Workflow that run at the same time.",
        ge=1,
        le=100_000,
        examples=[20],
    )
    optimise: Literal["Off", "Report", "Apply"] = Field(
        default="Report",
        description=(
            "What the optimiser does before the run: nothing; tells in the status how much shorter the "
            "plan could be; or runs the shorter plan, which means the same."
        ),
        examples=["Apply"],
    )
    deadline: Duration | None = Field(
        default=None,
        description="Longest time for the whole run; it fails when it is over.",
        examples=["48h"],
    )
    budget: Budget | None = Field(
        default=None,
        description=(
            "What model calls on the Workflow's behalf may cost in all, its earlier runs included. "
            "When it is used up, steps that ask Agents wait until the limit is raised."
        ),
        examples=[{"limit": "20.00", "policy": "Cheaper"}],
    )
    suspend: bool = Field(
        default=False,
        description="Starts no further step while it is set; running ones end.",
        examples=[False],
    )
    approvals: dict[str, Approval] = Field(
        default_factory=dict,
        description=(
            "Decisions about approve steps, by step. May be set while the run goes on: whoever may "
            "patch the Workflow may decide."
        ),
        max_length=1000,
        examples=[{"send-letters": {"decision": "approve", "by": "kim@example.com"}}],
    )
    checkpoint: CheckpointPolicy = Field(
        default=CheckpointPolicy(),
        description="When the run's state is put aside, to go back to or fork from.",
        examples=[{"interval": "10m", "retention": "7d"}],
    )
    fork_from: ForkFrom | None = Field(
        default=None,
        description="Begins with the results of an earlier run, or of an earlier state of it.",
        examples=[{"workflow": "nightly", "checkpoint": 3}],
    )


class Workflow(Observation):
    """A durable graph of steps, run on Pools."""

    metadata: ObjectMeta
    spec: WorkflowSpec
    status: WorkflowStatus = Field(default_factory=WorkflowStatus)
