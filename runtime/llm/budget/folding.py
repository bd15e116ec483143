"""Keeps the ledger small: calls of days long gone become sums of their day.

One process of all gateways does it, a few calls at a time, so that those who pay do not wait for it.
Budgets rest on accounts, which it leaves alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from seedbed.crds.errors import RetryableError
from seedbed.runtime.coordination.port import Coordinator, Ownership
from seedbed.runtime.coordination.singleton import run_singleton
from seedbed.runtime.store.ledger import Ledger
from seedbed.runtime.store.port import StoreRefusedError

log = logging.getLogger(__name__)

NAME = "ledger-folding"
"""Of the one process that does it."""
DAY = 86_400.0
SOME = 500
"""Calls at a time."""
_BREATH = 0.05
_EVERY = 3600.0


@dataclass(frozen=True, slots=True)
class Folding:
    """See the module.

    Attributes:
        days: that calls stay; for ever where 0.
        folded: told how many calls have become sums.
        wall: gives Unix time.
    """

    ledger: Ledger
    days: int
    folded: Callable[[int], object]
    wall: Callable[[], float] = time.time

    async def run(self, coordinator: Coordinator, holder: str) -> None:
        """Work whenever it is this process's turn, until cancelled."""
        if self.days:
            await run_singleton(coordinator, NAME, holder, self._work)

    async def _work(self, _: Ownership) -> None:
        while True:
            try:
                await self.once()
            except (RetryableError, StoreRefusedError) as error:
                log.warning("old calls stay in the ledger for now: %s", error)
            await asyncio.sleep(_EVERY)

    async def once(self) -> None:
        """Fold all that is old by now."""
        before = (self.wall() // DAY - self.days) * DAY
        some = partial(self.ledger.fold, before, SOME)
        while count := await some():
            self.folded(count)
            await asyncio.sleep(_BREATH)
