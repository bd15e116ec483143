"""The ledger: what model calls have cost, and money held for calls under way, in nano-dollars.

An account is what one budget pays for: a namespace, an Agent or a Workflow. Several gateways spend
from one account at once. Each draws an advance, decides about calls from it without asking again,
and writes what they cost. Spent and all advances together never pass the amount that the drawer
names, because drawing holds the account's row. An advance that is not renewed ends by the clock, so
a gateway that died gives its money back and loses nothing that was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal, Protocol

Dimension = Literal["namespace", "workflow", "agent", "model", "day", "user"]
DIMENSIONS: tuple[Dimension, ...] = ("namespace", "workflow", "agent", "model", "day", "user")


def day_of(at: float) -> str:
    """The day of a Unix time, as in `2026-11-21`, in UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d")


@dataclass(frozen=True, slots=True)
class LedgerEntry:
    """What one call of a model has cost.

    Attributes:
        id: unique; the same entry again is not written twice.
        at: Unix time.
        nanos: nano-dollars.
        estimated: whether the provider did not say, and this is the worst case.
        prices: version of the price table.
    """

    id: str
    at: float
    namespace: str
    workflow: str
    agent: str
    run: str
    user: str
    model: str
    prompt_tokens: int
    completion_tokens: int
    nanos: int
    estimated: bool
    prices: str


@dataclass(frozen=True, slots=True)
class Draw:
    """Asks to hold more money of an account.

    Attributes:
        need: nano-dollars, at least; nothing is granted where there is not so much.
        want: nano-dollars, where there is plenty.
        ceiling: what spent and held money together never pass.
    """

    account: str
    need: int
    want: int
    ceiling: int


@dataclass(frozen=True, slots=True)
class Drawn:
    """What became of it.

    Attributes:
        granted: 0 where there was not enough.
        spent: what the account has spent by now.
    """

    granted: int
    spent: int


@dataclass(frozen=True, slots=True)
class Turn:
    """All that one gateway has to tell and to ask at a time, done in one transaction.

    Attributes:
        entries: calls to write. A turn whose first entry is there already was written before; its
            costs are not taken again.
        costs: nano-dollars by account.
        holding: what the gateway holds once this is written, by account: money for calls under way.
        draws: what it asks for beyond.
        refusals: by account, the ceiling under which a call was refused.
        now, until: Unix times; what is held ends at `until` where it is not told again.
    """

    holder: str
    now: float
    until: float
    entries: Sequence[LedgerEntry] = ()
    costs: Mapping[str, int] = field(default_factory=dict)
    holding: Mapping[str, int] = field(default_factory=dict)
    draws: Sequence[Draw] = ()
    refusals: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Account:
    """An account as it stands.

    Attributes:
        refused_under: the amount under which a call was last refused; 0 where none was.
    """

    spent: int
    refused_under: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Spending under one key: of a model, an Agent, a day."""

    key: str
    calls: int
    prompt_tokens: int
    completion_tokens: int
    nanos: int


class Ledger(Protocol):
    """Every method may raise UnavailableError when the database does not answer."""

    async def take(self, turn: Turn) -> list[Drawn]:
        """Do a turn, all or nothing; what became of each draw, in their order."""

    async def accounts(self, names: Sequence[str]) -> Mapping[str, Account]:
        """The accounts as they stand; those that were never used are left out."""

    async def tidy(self, before: float) -> None:
        """Forget money that gateways of the past held until then: it is long free."""

    async def costs(
        self,
        by: Dimension,
        *,
        namespace: str = "",
        workflow: str = "",
        agent: str = "",
        since: float = 0,
    ) -> list[Cost]:
        """Spending by one dimension, the largest first; of one namespace, Workflow or Agent where named.

        Of days whose calls are folded, the one that holds `since` counts as a whole.
        """

    async def fold(self, before: float, most: int) -> int:
        """Add some calls of old days to their days' sums, and keep the sums alone.

        Args:
            before: Unix time at which a day began; calls of earlier ones are old.
            most: calls at a time.

        Returns:
            How many there were.
        """
