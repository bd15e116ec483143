"""What a run consists of: steps, their units, and where those stand. Only `state` changes them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from seedbed.crds.graph import Node
from seedbed.crds.graph_checks import COMPENSATE
from seedbed.crds.messages import StepError, StepKey
from seedbed.runtime.workflow.entering import Join
from seedbed.runtime.workflow.item_order import ItemOrder
from seedbed.runtime.workflow.records import StepScheduled

UnitStatus = Literal[
    "Ready",
    "Scheduled",
    "Retrying",
    "Waiting",
    "Recovering",
    "Held",
    "Succeeded",
    "Failed",
    "Skipped",
]
ENDED = ("Succeeded", "Failed", "Skipped")


@dataclass(slots=True)
class Unit:
    """One execution unit: a step, or one item of a forEach step.

    Attributes:
        attempt: the last attempt that was scheduled, or 0.
        excused: attempts that do not count, because no budget paid for them.
        task: that attempt, until the unit has ended.
        retry_at: Unix time of the next attempt while Retrying, of the end of the wait while Waiting.
    """

    key: StepKey
    status: UnitStatus = "Ready"
    attempt: int = 0
    excused: int = 0
    task: StepScheduled | None = None
    retry_at: float = 0.0
    output: Any = None
    error: StepError | None = None


@dataclass(slots=True)
class StepState:
    """A step with its units; `items` is None where the step has no forEach or is not expanded.

    Attributes:
        order: which items come after which, where the step says that they do.
        more: whether items may come that are not known yet; that counts as one more open unit.
        queued: units that were put into their lane, of a step whose items come one after the other.
    """

    node: Node
    waits_for: int
    items: list[Any] | None = None
    units: list[Unit] = field(default_factory=list)
    open: int = 0
    settled: bool = False
    join: Join | None = None
    order: ItemOrder | None = None
    more: bool = False
    queued: int = 0


@dataclass(frozen=True, slots=True)
class Loop:
    """Where a unit that repeats stands.

    Attributes:
        iteration: the one at hand, from 0.
        previous: the output of the one before.
        attempts: attempts that belong to earlier iterations.
    """

    iteration: int
    previous: Any
    attempts: int


@dataclass(slots=True)
class Undoing:
    """What was done is undone: since when, why, and how that goes."""

    at: float
    cause: StepKey
    why: str = ""
    done: int = 0
    failed: list[StepKey] = field(default_factory=list)


class Done(NamedTuple):
    """What can be undone: a unit that succeeded, or one iteration of a unit that repeats.

    Attributes:
        iteration: from 0; -1 where the unit does not repeat.
    """

    key: StepKey
    iteration: int = -1


class Steps(dict[str, StepState]):
    """A run's steps by name. What undoes a unit is a step too, and comes into being when it is needed."""

    def __missing__(self, name: str) -> StepState:
        unit, sign, _ = name.partition(COMPENSATE)
        origin = self.get(origin_of(unit))
        if not sign or origin is None or origin.node.undo is None:
            raise KeyError(name)
        self[name] = StepState(origin.node.undo, 0)
        return self[name]


def compensation_of(done: Done) -> StepKey:
    """The unit that undoes a unit, or an iteration of it: `step[2]#3:compensate`."""
    iteration = "" if done.iteration < 0 else f"#{done.iteration}"
    return StepKey(f"{done.key}{iteration}{COMPENSATE}")


def origin_of(unit: str) -> str:
    """The name of the step that a unit, or an iteration of it, belongs to."""
    return unit.partition("#")[0].partition("[")[0]


def told_of(step: StepState) -> dict[str, Any]:
    """What expressions see of a step that has ended."""
    if step.items is None:
        unit = step.units[0]
        return {"output": unit.output, "error": _told_error(unit.error), "state": unit.status}
    failed = any(unit.status == "Failed" for unit in step.units)
    outputs = [unit.output for unit in step.units]
    errors = [_told_error(unit.error) for unit in step.units]
    return {"output": outputs, "error": errors, "state": "Failed" if failed else "Succeeded"}


def _told_error(error: StepError | None) -> dict[str, str] | None:
    if error is None:
        return None
    return {"code": error.code, "class": error.error_class, "message": error.message}
