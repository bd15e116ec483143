"""What a Workflow says of checkpoints: when they are taken, and which one it begins from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from pydantic import Field

from seedbed.crds.base import Duration, Model, Name, Observation
from seedbed.crds.errors import ConflictError


class CheckpointPolicy(Model):
    """When the run's state is put aside, and for how long.

    A checkpoint is not needed to survive a crash: that is what the journal is for. It is a point to
    go back to, or to fork from. A change of the policy holds from the next run on.
    """

    enabled: bool = Field(
        default=True,
        description="Takes checkpoints by itself; on demand they are taken either way.",
        examples=[True],
    )
    interval: Duration = Field(
        default="10m",
        description="Time between two of them; none is taken while nothing changes.",
        examples=["10m"],
    )
    retention: Duration = Field(
        default="7d", description="Time after which one is removed.", examples=["7d"]
    )
    keep: int = Field(
        default=1000,
        description="Checkpoints of a run that stay; the oldest go first.",
        ge=1,
        le=100_000,
        examples=[1000],
    )


class ForkFrom(Model):
    """An earlier run whose results this plan takes over, as far as they are still right.

    A step is executed again where its definition differs, where it reads a parameter that differs,
    where `again` names it, or where it needs a step that is executed again.
    """

    workflow: Name | None = Field(
        default=None,
        description="A Workflow of this namespace, whose newest run it is; by default this one.",
        examples=["nightly"],
    )
    run: str | None = Field(
        default=None,
        description="The run itself, as `status.runId` names it, instead of the newest one.",
        min_length=1,
        max_length=64,
        examples=["6b1f-4e2a91c0"],
    )
    checkpoint: int | None = Field(
        default=None,
        description="Number of its checkpoint; the run as it is where none is given.",
        ge=1,
        examples=[3],
    )
    again: tuple[Name, ...] = Field(
        default=(),
        description=(
            "Steps to execute again although nothing of theirs differs, with all that need them: "
            "what they read from outside has changed, or their result was wrong."
        ),
        max_length=1000,
        examples=[["load"]],
    )


class LastCheckpoint(Observation):
    """The newest checkpoint of the run."""

    number: int = Field(description="It counts from 1 in each run.", ge=1, examples=[3])
    id: str = Field(
        description="Its UUID.",
        max_length=36,
        examples=["0b9f5d3e-6a0e-4a53-9f0e-7f4f7d3f6a11"],
    )
    time: datetime = Field(description="When it was written.", examples=["2026-11-21T10:00:00Z"])
    size_bytes: int = Field(description="Bytes stored.", ge=0, examples=[13095])
    ratio: float = Field(
        description="Bytes of the state for each byte stored.", ge=0, examples=[73.6]
    )


class ForkedFrom(Observation):
    """Where the run began."""

    run: str = Field(description="The earlier run.", max_length=64, examples=["6b1f-4e2a91c0"])
    checkpoint: int = Field(
        default=0, description="Its checkpoint; 0: as it was then.", ge=0, examples=[3]
    )
    taken: int = Field(default=0, description="Steps taken over.", ge=0, examples=[412])
    again: int = Field(
        default=0,
        description="Steps that had ended there and are executed again.",
        ge=0,
        examples=[3],
    )


def forked(
    workflow: Mapping[str, Any],
    *,
    name: str,
    run: str,
    checkpoint: int | None,
    params: Mapping[str, Any],
    again: Sequence[str] = (),
) -> dict[str, Any]:
    """The manifest of a Workflow that goes on from a run of another one.

    Args:
        workflow: the other, as an object.
        name: the new one's.
        run: the run.
        checkpoint: number of its checkpoint; None for the run as it is.
        params: parameters that are to differ.
        again: steps to execute again in any case.
    """
    metadata, spec = workflow["metadata"], dict(workflow["spec"])
    for decided in ("suspend", "approvals"):
        spec.pop(decided, None)
    if params:
        spec["params"] = {**(spec.get("params") or {}), **params}
    spec["forkFrom"] = {**fork_from(run, checkpoint), **({"again": list(again)} if again else {})}
    labels = metadata.get("labels")
    head = {"name": name, "namespace": metadata["namespace"]}
    return {
        "apiVersion": workflow["apiVersion"],
        "kind": workflow["kind"],
        "metadata": {**head, **({"labels": dict(labels)} if labels else {})},
        "spec": spec,
    }


def fork_from(run: str, checkpoint: int | None) -> dict[str, Any]:
    """`spec.forkFrom` as JSON."""
    return {"run": run, **({} if checkpoint is None else {"checkpoint": checkpoint})}


def restored(workflow: Mapping[str, Any], run: str, checkpoint: int) -> dict[str, Any]:
    """The merge patch that has a Workflow go on from one of its own checkpoints.

    Raises:
        ConflictError: its present run began there already, so the patch would change nothing.
    """
    wanted = fork_from(run, checkpoint)
    if workflow["spec"].get("forkFrom") == wanted:
        raise ConflictError(
            f"the Workflow's present run began at checkpoint {checkpoint} of {run}: "
            "restore a checkpoint of the present run, or fork"
        )
    return {"spec": {"forkFrom": {"workflow": None, "again": None, **wanted}}}
