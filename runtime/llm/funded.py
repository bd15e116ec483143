"""Puts budgets before a gateway: limits, teller and publisher at work, and their stage in the chain."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.llm.budget.folding import Folding
from seedbed.runtime.llm.budget.limits import Limits
from seedbed.runtime.llm.budget.publisher import Publisher
from seedbed.runtime.llm.budget.stage import BudgetStage
from seedbed.runtime.llm.budget.teller import LEASE, Teller
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.prices import table_version
from seedbed.runtime.store.ledger import Ledger


@asynccontextmanager
async def funded(
    gateway: Gateway,
    ledger: Ledger,
    coordinator: Coordinator,
    holder: str,
    *,
    lease: float = LEASE,
) -> AsyncIterator[Limits]:
    """The gateway keeps to budgets and writes what calls cost while the context is open.

    Args:
        gateway: gets the stage.
        ledger: where spending is written.
        coordinator: where budgets come from, and where spending is told.
        holder: unique among all gateways, also those that died.
        lease: seconds after which the money that a dead gateway held is free again.
    """
    limits = Limits(gateway.models.budgets)
    await limits.load(coordinator)
    teller = Teller(ledger, holder, lease=lease)
    publisher = Publisher(
        teller,
        ledger,
        coordinator,
        limits=limits,
        metrics=gateway.metrics,
        tell=gateway.notices,
    )
    stage = BudgetStage(
        limits,
        teller,
        worst=lambda call, model: gateway.targets[model].worst_case(call.request),
        prices=table_version(),
        metrics=gateway.metrics,
        refused=publisher.tell,
    )
    days = gateway.models.ledger.retention_days
    folding = Folding(ledger, days, gateway.metrics.ledger_folded.inc)
    gateway.stages.append(stage)
    gateway.short = stage.short
    gateway.budgets = limits.of
    gateway.spent = teller.touched
    async with teller.working(), asyncio.TaskGroup() as tasks:
        keeping_up = [
            tasks.create_task(limits.follow(coordinator)),
            tasks.create_task(publisher.run()),
            tasks.create_task(folding.run(coordinator, holder)),
        ]
        try:
            yield limits
        finally:
            for task in keeping_up:
                task.cancel()
    await publisher.tell()
