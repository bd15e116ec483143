"""Tells what Agents and Workflows have spent.

Operator and engine hear it through live settings, people by notices, Prometheus by two gauges.
"""

from __future__ import annotations

import asyncio
import logging
import time

from seedbed.crds.budget import Budget
from seedbed.crds.errors import RetryableError
from seedbed.crds.money import dollars
from seedbed.crds.spending import SPENDING_PREFIX, Spending
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.llm.budget.limits import Limits
from seedbed.runtime.llm.budget.teller import Teller
from seedbed.runtime.llm.metrics import BudgetState, ModelMetrics
from seedbed.runtime.llm.notices import Kind, Notice, Tell
from seedbed.runtime.store.ledger import Account, Ledger
from seedbed.runtime.store.port import StoreRefusedError

log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two looks; a refusal is told at once."""
TIDY = 3600.0
"""Seconds between two times that advances of gateways that are gone are forgotten."""


class Publisher:
    """Follows a teller's changes. What cannot be told now is told later."""

    def __init__(
        self,
        teller: Teller,
        ledger: Ledger,
        coordinator: Coordinator,
        *,
        limits: Limits,
        metrics: ModelMetrics,
        tell: Tell,
    ) -> None:
        self._teller = teller
        self._ledger = ledger
        self._coordinator = coordinator
        self._limits = limits
        self._metrics = metrics
        self._tell = tell
        self._states: dict[str, BudgetState] = {}

    async def run(self) -> None:
        """Tell changes until cancelled."""
        tidied = float("-inf")
        while True:
            await self.tell()
            if time.time() - tidied > TIDY:
                tidied = time.time()
                await self._tidy(tidied - TIDY)
            await asyncio.sleep(EVERY)

    async def _tidy(self, before: float) -> None:
        try:
            await self._ledger.tidy(before)
        except (RetryableError, StoreRefusedError) as error:
            log.warning("what gateways of the past held is not forgotten: %s", error)

    async def tell(self) -> None:
        """Tell what has changed."""
        changed, self._teller.changed = self._teller.changed, set()
        if not changed:
            return
        try:
            stand = await self._ledger.accounts(sorted(changed))
            for name, account in stand.items():
                self._teller.heard(name, account.spent)
                self._watch(name, account)
                if not name.startswith("namespaces/"):
                    value = Spending(account.spent, account.refused_under).written()
                    await self._coordinator.put(f"{SPENDING_PREFIX}{name}", value)
        except (RetryableError, StoreRefusedError) as error:
            log.warning("spending cannot be told now: %s", error)
            self._teller.changed |= changed

    def _watch(self, name: str, account: Account) -> None:
        """Count how far a budget is spent, and tell where it comes into another state."""
        budget = self._limits.of_account(name)
        if budget is None:
            return
        spending = Spending(account.spent, account.refused_under)
        state = _state(spending, budget)
        before = self._states.get(name, "fine")
        self._states[name] = state
        self._metrics.budget_stands(name, account.spent / max(1, budget.limit_nanos), state)
        kind = _news(before, state)
        if kind is not None:
            facts: dict[str, str | float] = {"spent": dollars(account.spent), "limit": budget.limit}
            self._tell(Notice(kind, name, facts))


def _news(before: BudgetState, state: BudgetState) -> Kind | None:
    if before == state:
        return None
    if state == "halted":
        return "budget.exceeded"
    if before == "halted":
        return "budget.resumed"
    return "budget.alert" if state == "alert" else None


def _state(spending: Spending, budget: Budget) -> BudgetState:
    if spending.exceeds(budget):
        return "halted"
    return "alert" if spending.alerts(budget) else "fine"
