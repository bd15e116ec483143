"""`spec.budget` of Agents and Workflows: how much may be spent, and what happens as it runs out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from seedbed.crds.base import Model
from seedbed.crds.money import AMOUNT_PATTERN, nanos


class Budget(Model):
    """An amount of dollars for model calls."""

    limit: str = Field(
        description="Dollars that model calls may cost in all.",
        pattern=AMOUNT_PATTERN,
        max_length=16,
        examples=["5.00"],
    )
    alert_at: int = Field(
        default=80,
        description="Percent of the limit from which on the budget is reported as running out.",
        ge=1,
        le=100,
        examples=[80],
    )
    halt_at: int = Field(
        default=95,
        description="Percent of the limit that is never passed: calls that might are not made.",
        ge=1,
        le=100,
        examples=[95],
    )
    policy: Literal["Halt", "Cheaper"] = Field(
        default="Halt",
        description=(
            "Halt: calls are answered as asked until the money is spent. Cheaper: from `alertAt` on "
            "the cheapest able model answers, and when the money is spent, models that cost nothing."
        ),
        examples=["Cheaper"],
    )

    @property
    def limit_nanos(self) -> int:
        """The whole amount, in nano-dollars."""
        return nanos(self.limit)

    @property
    def halt_nanos(self) -> int:
        """The amount that is never passed, in nano-dollars."""
        return nanos(self.limit) * self.halt_at // 100

    @property
    def alert_nanos(self) -> int:
        """The amount from which on the budget runs out, in nano-dollars."""
        return nanos(self.limit) * self.alert_at // 100
