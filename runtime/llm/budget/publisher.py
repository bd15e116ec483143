"""Tells operator and engine what Agents and Workflows have spent, through live settings."""

from __future__ import annotations

import asyncio
import logging

from seedbed.crds.errors import RetryableError
from seedbed.crds.spending import SPENDING_PREFIX, Spending
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.llm.budget.teller import Teller
from seedbed.runtime.store.ledger import Ledger

log = logging.getLogger(__name__)

EVERY = 1.0
"""Seconds between two looks; a refusal is told at once."""


class Publisher:
    """Follows a teller's changes. What cannot be told now is told later."""

    def __init__(self, teller: Teller, ledger: Ledger, coordinator: Coordinator) -> None:
        self._teller = teller
        self._ledger = ledger
        self._coordinator = coordinator

    async def run(self) -> None:
        """Tell changes until cancelled."""
        while True:
            await self.tell()
            await asyncio.sleep(EVERY)

    async def tell(self) -> None:
        """Tell what has changed."""
        changed, self._teller.changed = self._teller.changed, set()
        names = sorted(name for name in changed if not name.startswith("namespaces/"))
        if not names:
            return
        try:
            stand = await self._ledger.accounts(names)
            for name, account in stand.items():
                value = Spending(account.spent, account.refused_under).written()
                await self._coordinator.put(f"{SPENDING_PREFIX}{name}", value)
        except RetryableError as error:
            log.warning("spending cannot be told now: %s", error)
            self._teller.changed |= changed
