"""How a run flows between its steps: branches, joins, loops, approvals, waits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from seedbed.crds.base import Duration, Model, Name, Text

MAX_NEEDS = 1000

Names = Annotated[tuple[Name, ...], Field(max_length=MAX_NEEDS)]

Priority = Annotated[int, Field(ge=0, le=2)]


def _join(value: Any) -> Literal["all", "any"] | int:
    if value in ("all", "any") or (type(value) is int and 1 <= value <= MAX_NEEDS):
        return value  # type: ignore[no-any-return]  # the line above tells its type
    raise ValueError(f"must be all, any or a number from 1 to {MAX_NEEDS}")


# Kubernetes has one form for "a word or a number": IntOrString.
_JOIN_SCHEMA: dict[str, Any] = {
    "x-kubernetes-int-or-string": True,
    "pattern": "^(all|any)$",
    "minimum": 1,
    "maximum": MAX_NEEDS,
}
Join = Annotated[Literal["all", "any"] | int, PlainValidator(_join), WithJsonSchema(_JOIN_SCHEMA)]
"""Which of a step's needs must have gone well: all have to end, any one, or this many."""


class Speculate(Model):
    """Starts steps of the arm that is expected before the branch has decided.

    Only steps of the arm itself that are `pure` start early, when all else that they need has ended.
    Their results count once the branch has chosen the arm; else nobody ever sees them. Without an arm
    the last 50 runs of the Workflow tell which one to expect and how sure that is.
    """

    arm: Literal["then", "else"] | None = Field(
        default=None,
        description="The arm that is expected; where it is not set, the one of most earlier runs.",
        examples=["then"],
    )
    confidence: float | None = Field(
        default=None,
        description=(
            "How sure that is: set it together with `arm`. Where neither is set, (k + 1) / (n + 2) "
            "for an arm that k of n earlier runs have chosen."
        ),
        ge=0,
        le=1,
        examples=[0.95],
    )
    min_confidence: float = Field(
        default=0.8,
        description="Nothing starts early where the confidence is below.",
        ge=0,
        le=1,
        examples=[0.9],
    )


class Branch(Model):
    """Chooses which steps are entered: those of `then`, or those of `else`.

    The steps of the other arm are Skipped, and so is what needs nothing but skipped steps. A step
    that needs one of each arm runs. The output is the name of the arm: `then` or `else`.
    """

    when: str = Field(
        description="CEL condition: `then` is entered where it is true, else `else`.",
        min_length=1,
        max_length=4096,
        examples=["steps.classify.output.urgent"],
    )
    then: Names = Field(
        description="Steps that are entered where the condition is true.",
        examples=[["page-somebody"]],
    )
    otherwise: Names = Field(
        alias="else",
        description="Steps that are entered where it is false; may be an empty list.",
        examples=[["write-ticket"]],
    )

    speculate: Speculate | None = Field(
        default=None,
        description="Starts pure steps of the arm that is expected before the branch has decided.",
        examples=[{"arm": "then", "confidence": 0.95}],
    )

    @property
    def expected(self) -> str:
        """The arm whose steps may start early; empty where none."""
        guess = self.speculate
        if guess is None or guess.arm is None or guess.confidence is None:
            return ""
        return guess.arm if guess.confidence >= guess.min_confidence else ""

    @property
    def arms(self) -> dict[str, tuple[str, ...]]:
        """The steps of each arm, by its name."""
        return {"then": self.then, "else": self.otherwise}


class Approve(Model):
    """Waits until a person decides; nothing runs meanwhile.

    Approved, the output is `{"decision": "approve", "by": ..., "comment": ...}`; rejected, the step
    fails with the code `rejected`, and its onError says what follows.
    """

    message: Text = Field(
        description="What is to be decided, for the person. May hold `${ CEL }`.",
        min_length=1,
        examples=["Send ${size(steps.draft.output)} letters?"],
    )
    deadline: Duration | None = Field(
        default=None,
        description="How long to wait for a person; for ever where it is not set.",
        examples=["24h"],
    )
    default: Literal["approve", "reject"] = Field(
        default="reject",
        description="What counts when nobody has decided by then.",
        examples=["reject"],
    )


class Wait(Model):
    """Waits for a time or an event: exactly one of `duration`, `until` and `event`."""

    duration: Duration | None = Field(
        default=None, description="How long to wait.", examples=["15m"]
    )
    until: str | None = Field(
        default=None,
        description="CEL of the time to wait for: a timestamp, or text such as 2026-11-21T10:00:00Z.",
        min_length=1,
        max_length=4096,
        examples=["timestamp(params.opens) - duration('10m')"],
    )
    event: Name | None = Field(
        default=None,
        description=(
            "Name of the event to wait for; its payload is the output. An event that comes before "
            "is kept for the next step that waits for it."
        ),
        examples=["payment-received"],
    )
    timeout: Duration | None = Field(
        default=None,
        description="Longest wait for the event; then the step fails with the code `timeout`.",
        examples=["2h"],
    )


class Approval(Model):
    """What a person has decided about an approve step."""

    decision: Literal["approve", "reject"] = Field(
        description="Whether the run goes on.", examples=["approve"]
    )
    by: str = Field(
        default="",
        description="Who decided; whoever may edit the Workflow may write any name here.",
        max_length=253,
        examples=["kim@example.com"],
    )
    comment: str = Field(
        default="", description="Why.", max_length=1024, examples=["figures checked"]
    )


class Stragglers(Model):
    """Starts an item a second time when it takes much longer than the others.

    The first result counts. Both get the same idempotency key; what they do outside happens twice
    where the outside does not look at it.
    """

    slower_than: float = Field(
        default=3.0,
        description="Times the median of the items that have ended; waiting for a worker counts.",
        ge=2,
        le=1000,
        examples=[3],
    )
    at_least: Duration = Field(
        default="10s",
        description="No item straggles before it has taken this long.",
        examples=["30s"],
    )
    after: int = Field(
        default=5,
        description="Items that must have ended before the median counts.",
        ge=3,
        le=1000,
        examples=[20],
    )


class Repeat(Model):
    """Runs the step again until a condition over its output holds.

    Each iteration is journalled: a run that resumes goes on with the iteration at hand. The retry
    policy holds for each iteration anew.
    """

    until: str = Field(
        description=(
            "CEL condition, asked after each iteration: `output` is what it gave, `iteration` its "
            "number from 0, `previous` the output of the iteration before."
        ),
        min_length=1,
        max_length=4096,
        examples=["output.score > 0.9 || output.score == previous.score"],
    )
    max: int = Field(description="Iterations at most.", ge=1, le=10_000, examples=[10])
    delay: Duration | None = Field(
        default=None, description="Wait between two iterations.", examples=["30s"]
    )
    exhausted: Literal["fail", "continue"] = Field(
        default="fail",
        description=(
            "What follows the last iteration where the condition still does not hold: the step fails "
            "with the code `loop_exhausted`, or goes on with the last output."
        ),
        examples=["continue"],
    )
