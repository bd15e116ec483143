"""The money that this gateway holds of one account. Pure: it is told the time.

An advance, drawn from the ledger, is what may be spent without asking again. Each call under way has
its worst case reserved in it. What a call has cost leaves the advance at once; the ledger hears of
both in the same turn, so that spent and held money together never look smaller than they are.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Purse:
    """One account's money in this process, in nano-dollars.

    Attributes:
        advance: drawn and not yet spent.
        reserved: worst cases of the calls under way.
        until: time at which the advance is nobody's any more.
        used: time of the last reservation.
        spent: what the account has spent, as far as it was heard.
    """

    advance: int = 0
    reserved: int = 0
    until: float = 0.0
    used: float = 0.0
    spent: int = 0

    def free(self, now: float) -> int:
        """What another call may reserve."""
        if now >= self.until:
            # Others may have drawn it meanwhile. What was reserved stays reserved.
            self.advance = 0
        return self.advance - self.reserved

    def reserve(self, amount: int, now: float) -> bool:
        """Reserve, where there is enough."""
        self.used = now
        if amount > self.free(now):
            return False
        self.reserved += amount
        return True

    def release(self, reserved: int, cost: int) -> None:
        """A call is over: its reservation ends, and what it has cost is gone."""
        self.reserved -= reserved
        self.advance -= cost
        self.spent += cost

    def drawn(self, granted: int, until: float) -> None:
        """The ledger has granted more."""
        self.advance = max(self.advance, 0) + granted
        self.until = until

    def holding(self) -> int:
        """What the ledger is to count as held."""
        return max(self.advance, 0)

    def idle(self, now: float, after: float) -> bool:
        """Whether nobody has needed it for a while."""
        return self.reserved == 0 and now >= self.used + after
