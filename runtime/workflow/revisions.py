"""A step as the plan has it now, after the changes that its failures have led to. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from msgspec.structs import replace

from seedbed.crds.base import Reference
from seedbed.crds.step import AgentCall, EntryCall, Step
from seedbed.crds.sub_workflow import WorkflowCall
from seedbed.runtime.workflow.records import StepReplanned
from seedbed.runtime.workflow.world import Place


@dataclass(frozen=True, slots=True)
class Revision:
    """Where a unit stands that is done otherwise than the Workflow says.

    Attributes:
        step: what is done now; its inputs are those of the Workflow's step.
        before: how it was done at first, in the words of an alternative.
        tried: the ways so far, the last one in force.
        attempts: attempts that belong to earlier versions of the plan.
        reason: what the error was about that led to the last change.
    """

    step: Step
    before: Mapping[str, str]
    tried: tuple[Mapping[str, str], ...]
    attempts: int
    reason: str

    @classmethod
    def after(cls, earlier: Revision | None, step: Step, record: StepReplanned) -> Revision:
        """What one more change makes of a step of the Workflow."""
        before, tried = (earlier.before, earlier.tried) if earlier else (record.before, ())
        revised = step.model_copy(update=_fields(record.to))
        return cls(revised, before, (*tried, record.to), record.attempt, record.reason)

    @classmethod
    def to_carry_out(cls, step: Step, attempts: int) -> Revision:
        """What a goal step does once there is a tree: a run of its own that does the leaves."""
        assert step.goal is not None
        assert step.goal.execute is not None
        work = step.model_copy(update={"goal": None, "workflow": step.goal.execute.plan})
        return cls(work, {}, (), attempts, "")

    def settle(self, place: Place) -> Place:
        """The place of the step, with the model that its Agent is to ask."""
        name = self.tried[-1].get("model") if self.tried else None
        if name is None:
            return place
        model = {**place.program["model"], "name": name}
        return replace(place, program={**place.program, "model": model})


def _body(to: Mapping[str, str]) -> dict[str, object]:
    if "entry" in to:
        return {"call": EntryCall(entry=to["entry"])}
    if "agent" in to:
        return {"agent": AgentCall(name=to["agent"])}
    return {"workflow": WorkflowCall(name=to["workflow"])} if "workflow" in to else {}


def _fields(to: Mapping[str, str]) -> dict[str, object]:
    body = _body(to)
    if body:
        body = {"agent": None, "call": None, "workflow": None, **body}
    return {**body, "pool": Reference(name=to["pool"])} if "pool" in to else body
