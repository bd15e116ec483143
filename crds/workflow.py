"""`Workflow`: a durable graph of steps, run on Pools."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from seedbed.crds.base import (
    OPEN,
    Duration,
    Model,
    ObjectMeta,
    Observation,
    Reference,
)
from seedbed.crds.budget import Budget
from seedbed.crds.checkpoint import CheckpointPolicy, ForkFrom
from seedbed.crds.failure import OnError, Retry
from seedbed.crds.flow import (
    Approval,
    Names,
    Priority,
)
from seedbed.crds.replan import Replan
from seedbed.crds.step import Step
from seedbed.crds.steps_source import StepsFrom
from seedbed.crds.sub_workflow import ParamType
from seedbed.crds.workflow_status import WorkflowStatus

MAX_INLINE_STEPS = 10_000
"""Steps that one object may hold: the API server takes seconds for so many, and gives up at more."""
MAX_STEPS = 100_000
"""Steps that a graph may have, wherever they stand."""


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
