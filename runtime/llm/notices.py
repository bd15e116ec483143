"""What people and programs are told of the model service beside its metrics.

    model.breaker      a model's breaker changed: `state` is `open`, `half-open` or `closed`
    model.quota        from 80 % of a rate limit on: `unit` and the share `used`
    budget.alert       a budget runs out (from `alertAt` on): `spent` and `limit` in dollars
    budget.exceeded    a budget halts calls
    budget.resumed     it does so no more, because it was raised
    batch.halted       a batch stands still: `namespace` and `reason`
    batch.resumed      it goes on
    batch.ended        it has: `namespace`, `status`, `completed`, `failed` and dollars `saved`

Each comes once, when it begins to hold.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

log = logging.getLogger(__name__)

Kind = Literal[
    "model.breaker",
    "model.quota",
    "budget.alert",
    "budget.exceeded",
    "budget.resumed",
    "batch.halted",
    "batch.resumed",
    "batch.ended",
]
_GOOD: tuple[Kind, ...] = ("budget.resumed", "batch.resumed", "batch.ended")


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that whoever runs the service wants to know.

    Attributes:
        of: the model or the account.
        facts: what there is to tell; see the module.
    """

    kind: Kind
    of: str
    facts: Mapping[str, str | float] = field(default_factory=dict)

    @property
    def bad(self) -> bool:
        """Whether calls fail or soon will."""
        return self.kind not in _GOOD and self.facts.get("state", "open") == "open"


Tell = Callable[[Notice], None]


class Notices:
    """Tells all who listen; the log always does."""

    def __init__(self) -> None:
        self._listeners: list[Tell] = [_logged]

    def __call__(self, notice: Notice) -> None:
        """Tell."""
        for listener in self._listeners:
            listener(notice)

    def also(self, listener: Tell) -> None:
        """Tell it too from now on; it may neither wait nor fail."""
        self._listeners.append(listener)


def _logged(notice: Notice) -> None:
    level = logging.WARNING if notice.bad else logging.INFO
    log.log(level, "%s of %s", notice.kind, notice.of, extra=dict(notice.facts))
