"""`Workflow.status`: what the operator reports of a run; small whatever the run's size."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from seedbed.crds.base import JsonValue, Observation, Status
from seedbed.crds.checkpoint import ForkedFrom, LastCheckpoint

Phase = Literal["Pending", "Running", "Suspended", "Succeeded", "Failed"]


class StepCounts(Observation):
    """How many steps, items of a forEach counted one by one, are in which state."""

    total: int = Field(default=0, description="Known so far.", ge=0, examples=[15])
    running: int = Field(default=0, description="Handed to a worker.", ge=0, examples=[4])
    succeeded: int = Field(default=0, description="Ended well.", ge=0, examples=[7])
    failed: int = Field(default=0, description="Failed for good.", ge=0, examples=[0])
    skipped: int = Field(default=0, description="Left out by `when`.", ge=0, examples=[1])


class RecentStep(Observation):
    """One of the steps that changed last."""

    name: str = Field(
        description="Step, with the index of its item.", max_length=128, examples=["classify[3]"]
    )
    state: str = Field(description="Its state.", max_length=32, examples=["Failed"])
    message: str = Field(
        default="", description="Why, where it failed.", max_length=512, examples=["timeout"]
    )


class WaitingStep(Observation):
    """A step that waits for a person, an event or a time."""

    name: str = Field(description="The step.", max_length=128, examples=["send-letters"])
    kind: Literal["approval", "event", "time"] = Field(
        description="What it waits for.", examples=["approval"]
    )
    message: str = Field(
        default="", description="What is asked.", max_length=512, examples=["Send 40 letters?"]
    )
    until: datetime | None = Field(
        default=None, description="When the wait ends by itself.", examples=["2026-11-22T10:00:00Z"]
    )


class OptimisationStatus(Observation):
    """What the optimiser found."""

    applied: bool = Field(
        default=False, description="Whether the run uses the shorter plan.", examples=[True]
    )
    percent: int = Field(
        default=0,
        description="How much shorter it is, under simulated execution.",
        ge=0,
        le=100,
        examples=[31],
    )
    message: str = Field(
        default="",
        description="What makes it shorter.",
        max_length=512,
        examples=["31% shorter: 120 needs dropped, 12 equal steps merged"],
    )


class WorkflowStatus(Status):
    """What the operator reports of a Workflow; under 16 KiB whatever the size of the run."""

    phase: Phase | None = Field(
        default=None, description="Where the run stands.", examples=["Running"]
    )
    run_id: str = Field(
        default="", description="Id of the current run.", max_length=64, examples=["6b1f-4e2a91c0"]
    )
    progress: str = Field(
        default="", description="Steps ended, of all known.", max_length=32, examples=["412/10000"]
    )
    steps: StepCounts = Field(
        default_factory=StepCounts,
        description="Steps by state.",
        examples=[{"total": 15, "succeeded": 7}],
    )
    recent: tuple[RecentStep, ...] = Field(
        default=(),
        description="Steps that changed last, newest first.",
        max_length=5,
        examples=[[{"name": "collect", "state": "Succeeded"}]],
    )
    waiting: tuple[WaitingStep, ...] = Field(
        default=(),
        description="Steps that wait, approvals first; at most 5.",
        max_length=5,
        examples=[[{"name": "send-letters", "kind": "approval", "message": "Send 40 letters?"}]],
    )
    spent: str = Field(
        default="",
        description="Dollars that model calls on its behalf have cost so far.",
        max_length=24,
        examples=["1.25"],
    )
    plan_version: int = Field(
        default=1,
        description="Version of the run's graph; each change after a failure makes a new one.",
        ge=1,
        examples=[3],
    )
    replans: int = Field(
        default=0,
        description="Changes of the plan after failures; `seedbed logs` tells why.",
        ge=0,
        examples=[2],
    )
    eta: datetime | None = Field(
        default=None,
        description="When the run is expected to end; looked at anew every few seconds.",
        examples=["2026-11-21T10:02:00Z"],
    )
    optimisation: OptimisationStatus | None = Field(
        default=None,
        description="What the optimiser found, where it found anything.",
        examples=[{"percent": 31}],
    )
    started_at: datetime | None = Field(
        default=None, description="When the run began.", examples=["2026-11-21T10:00:00Z"]
    )
    finished_at: datetime | None = Field(
        default=None, description="When it ended.", examples=["2026-11-21T10:02:11Z"]
    )
    result: JsonValue = Field(
        default=None,
        description="The run's result where it has at most 4 KiB; `seedbed result` shows any.",
        examples=[{"agreement": 0.75}],
    )
    last_checkpoint: LastCheckpoint | None = Field(
        default=None,
        description="The newest checkpoint of the run.",
        examples=[
            {
                "number": 3,
                "id": "0b9f5d3e-6a0e-4a53-9f0e-7f4f7d3f6a11",
                "time": "2026-11-21T10:01:00Z",
                "sizeBytes": 13095,
                "ratio": 73.6,
            }
        ],
    )
    forked_from: ForkedFrom | None = Field(
        default=None,
        description="Where the run began, for one that took over results.",
        examples=[{"run": "6b1f-4e2a91c0", "checkpoint": 3, "taken": 412}],
    )
