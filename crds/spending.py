"""What an account has spent, as the model service tells operator and engine through live settings."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from seedbed.crds.base import Model
from seedbed.crds.budget import Budget
from seedbed.crds.money import dollars

SPENDING_PREFIX = "spending/"
"""Where the model service tells what accounts have spent: before the account's name."""


def workflow_setting(namespace: str, name: str = "") -> str:
    """Key of the live setting that holds a Workflow's budget."""
    return f"workflows/{namespace}/{name}"


def agent_account(namespace: str, name: str) -> str:
    """The account that an Agent's budget pays for."""
    return f"agents/{namespace}/{name}"


def workflow_account(namespace: str, name: str) -> str:
    """The account that a Workflow's budget pays for."""
    return f"workflows/{namespace}/{name}"


def namespace_account(namespace: str) -> str:
    """The account that all of a namespace pays from."""
    return f"namespaces/{namespace}"


class Limits(Model):
    """The live setting of a Workflow that has a budget."""

    budget: Budget


@dataclass(frozen=True, slots=True)
class Spending:
    """An account as it stands.

    Attributes:
        spent: nano-dollars.
        refused_under: the amount, never to be passed, under which a call was last refused, or 0.
    """

    spent: int = 0
    refused_under: int = 0

    @classmethod
    def read(cls, value: bytes | None) -> Spending:
        """From its live setting; nothing spent where there is none or it cannot be read."""
        if value is None:
            return cls()
        try:
            told = orjson.loads(value)
            return cls(int(told["spent"]), int(told["refusedUnder"]))
        except (orjson.JSONDecodeError, LookupError, TypeError, ValueError):
            return cls()

    def written(self) -> bytes:
        """As a live setting."""
        return orjson.dumps({"spent": self.spent, "refusedUnder": self.refused_under})

    def exceeds(self, budget: Budget) -> bool:
        """Whether the budget halts its owner; raising it so that more may be spent ends that."""
        ceiling = budget.halt_nanos
        return self.spent >= ceiling or self.refused_under >= ceiling > 0

    def alerts(self, budget: Budget) -> bool:
        """Whether the budget runs out."""
        return self.spent >= budget.alert_nanos

    def told(self, budget: Budget) -> str:
        """One sentence for people."""
        return f"${dollars(self.spent)} of ${budget.limit} spent; no call passes {budget.halt_at} %"
