"""What the engine is asked, as `{"op": ..., ...}`.

Each answer is a JSON object; `{"error": {...}}` with code and message where it was refused.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, cast

from msgspec import Struct

from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import Decision, RunRequest, StepResult
from seedbed.crds.wire import decode


@dataclass(frozen=True, slots=True)
class Submit:
    """Run a plan; answered with its RunSummary. Submitting the same run again changes nothing.

    Attributes:
        document: text with the steps, where the spec takes them from a ConfigMap.
        packed: whether the text is Base64 of bytes.
    """

    request: RunRequest
    document: str = ""
    packed: bool = False
    op: Literal["submit"] = "submit"


@dataclass(frozen=True, slots=True)
class Adjust:
    """Change what may change while a run goes on; answered with the RunSummary.

    Attributes:
        approvals: decisions, by step; those about steps that have ended change nothing.
        priority: None leaves it as it is.
    """

    run: str
    suspend: bool
    parallelism: int
    approvals: dict[str, Decision] = field(default_factory=dict)
    priority: int | None = None
    op: Literal["adjust"] = "adjust"


@dataclass(frozen=True, slots=True)
class Approve:
    """Decide about an approve step; answered with the RunSummary."""

    run: str
    step: str
    decision: Decision
    op: Literal["approve"] = "approve"


@dataclass(frozen=True, slots=True)
class Signal:
    """Tell a run of an event; answered with the RunSummary.

    Attributes:
        id: the sender's; an event of an id that came before counts once.
        by: who sent it.
    """

    run: str
    event: str
    id: str
    payload: Any = None
    by: str = ""
    op: Literal["signal"] = "signal"


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a run; answered with the RunSummary. Unknown runs are no error."""

    run: str
    reason: str
    op: Literal["cancel"] = "cancel"


class Report(Struct, frozen=True, gc=False):
    """A step's result; answered `{}` when the result is journalled."""

    result: StepResult
    op: Literal["report"] = "report"


class ReportMany(Struct, frozen=True, gc=False):
    """Results of steps of one partition; answered as a `Reported` when they are journalled."""

    results: tuple[StepResult, ...]
    op: Literal["report_many"] = "report_many"


class Reported(Struct, frozen=True, gc=False):
    """What became of results.

    Attributes:
        again: which of them, by position, have to be sent again in a while.
        ended: runs that have ended: what is left of their steps is of no use.
    """

    again: tuple[int, ...] = ()
    ended: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Summarise:
    """Asks for a run's RunSummary; answered with it, or with the error `not_found`."""

    run: str
    op: Literal["summarise"] = "summarise"


@dataclass(frozen=True, slots=True)
class TakeCheckpoint:
    """Take a checkpoint of a run under way now; answered with it, as a TakenCheckpoint."""

    run: str
    op: Literal["checkpoint"] = "checkpoint"


@dataclass(frozen=True, slots=True)
class ListActive:
    """Asks which runs of the partition have not finished; answered `{"runs": [id, ...]}`."""

    op: Literal["active"] = "active"


EngineRequest = (
    Submit
    | Adjust
    | Approve
    | Signal
    | Cancel
    | Report
    | ReportMany
    | Summarise
    | ListActive
    | TakeCheckpoint
)


_REQUESTS: dict[str, Any] = {
    "submit": Submit,
    "adjust": Adjust,
    "approve": Approve,
    "signal": Signal,
    "cancel": Cancel,
    "report": Report,
    "report_many": ReportMany,
    "summarise": Summarise,
    "active": ListActive,
    "checkpoint": TakeCheckpoint,
}


class _Op(Struct):
    op: str


def decode_request(data: bytes) -> EngineRequest:
    """An engine request from JSON; see `decode`."""
    try:
        form = _REQUESTS[decode(_Op, data).op]
    except (InvalidError, KeyError) as error:
        raise InvalidError("op", f"expected one of {', '.join(_REQUESTS)}") from error
    return cast("EngineRequest", decode(form, data))
