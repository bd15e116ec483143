"""How a run flows between its steps: branches, joins."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, PlainValidator, WithJsonSchema

from seedbed.crds.base import Model, Name

MAX_NEEDS = 1000

Names = Annotated[tuple[Name, ...], Field(max_length=MAX_NEEDS)]


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

    @property
    def arms(self) -> dict[str, tuple[str, ...]]:
        """The steps of each arm, by its name."""
        return {"then": self.then, "else": self.otherwise}
