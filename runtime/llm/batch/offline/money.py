"""The money of offline work: held before a line is asked, written with its answer. Pure.

Unlike an interactive call's, it is held under a name of its own in the ledger, in the same transactions
as the lines: what a provider works on for a day stays paid for, whoever works through the batch by then.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from seedbed.crds.budget import Budget
from seedbed.crds.errors import UnavailableError
from seedbed.runtime.llm.budget.limits import accounts_of
from seedbed.runtime.llm.budget.teller import BudgetExceededError
from seedbed.runtime.llm.call import Identity, Spent
from seedbed.runtime.store.ledger import Draw, Drawn, LedgerEntry, Turn

Budgets = Mapping[str, Budget]


@dataclass(slots=True)
class Held:
    """Money that is held under one name, in every account that a budget limits.

    Attributes:
        holder: the name.
        amount: nano-dollars, as far as the ledger was told.
        until: Unix time at which it is free by itself.
    """

    holder: str
    amount: int = 0
    until: float = 0.0

    def more(self, budgets: Budgets, amount: int, now: float) -> Turn:
        """A turn that asks for so much more."""
        draws = [
            Draw(account, amount, amount, budgets[account].halt_nanos)
            for account in sorted(budgets)
        ]
        return Turn(self.holder, now, self.until, (), {}, self._holding(budgets), draws)

    def spend(
        self,
        budgets: Budgets,
        identity: Identity,
        entries: Sequence[LedgerEntry],
        release: int,
        now: float,
    ) -> Turn:
        """A turn that writes calls and lets go of what was held for them."""
        self.amount = max(0, self.amount - release)
        cost = sum(entry.nanos for entry in entries)
        costs = dict.fromkeys(accounts_of(identity), cost) if entries else {}
        return Turn(self.holder, now, self.until, entries, costs, self._holding(budgets))

    def refusal(self, budgets: Budgets, refused: BudgetExceededError, now: float) -> Turn:
        """A turn that notes what a budget did not allow."""
        refusals = {refused.account: refused.ceiling}
        return Turn(self.holder, now, self.until, (), {}, self._holding(budgets), (), refusals)

    def _holding(self, budgets: Budgets) -> dict[str, int]:
        return dict.fromkeys(sorted(budgets), self.amount)


class HeldError(UnavailableError):
    """There is money, but calls that are under way hold it."""

    code = "budget_held"


def check(turn: Turn, drawn: Sequence[Drawn]) -> None:
    """Pass where what a turn asks for was granted.

    Raises:
        BudgetExceededError: where it cannot be, as long as the budget is not raised.
        HeldError: where it can be once others have let go.
    """
    for draw, found in zip(turn.draws, drawn, strict=True):
        if found.granted:
            continue
        if found.spent + draw.need <= draw.ceiling:
            raise HeldError(f"the budget of {draw.account} is held by calls under way", 1.0)
        raise BudgetExceededError(draw.account, found.spent, draw.need, draw.ceiling)


def entry(identity: Identity, batch: str, spent: Spent, prices: str, now: float) -> LedgerEntry:
    """What the ledger keeps of a call of a batch's line; its run is the batch where it has no other."""
    return LedgerEntry(
        id=secrets.token_hex(16),
        at=now,
        namespace=identity.namespace,
        workflow=identity.workflow,
        agent=identity.agent,
        run=identity.run or batch,
        user=identity.user,
        model=spent.model,
        prompt_tokens=spent.prompt_tokens,
        completion_tokens=spent.completion_tokens,
        nanos=spent.nanos,
        estimated=spent.estimated,
        prices=prices,
    )
