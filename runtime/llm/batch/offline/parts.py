"""Lines that a provider works through as a batch of its own, for a share of the price.

Lines that are ready become a part: its row, its lines and its money in one transaction. What becomes of
it says `following`.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from seedbed.crds.errors import RetryableError
from seedbed.runtime.llm.batch.offline.following import (
    MOST_LINES,
    NOT_ALLOWED,
    Following,
    held_for,
)
from seedbed.runtime.llm.batch.offline.job import Job
from seedbed.runtime.llm.batch.offline.money import Held, HeldError, check
from seedbed.runtime.llm.batch.offline.provider_batches import ProviderBatches
from seedbed.runtime.llm.batch.offline.results import Results
from seedbed.runtime.llm.batch.offline.sorting import failure
from seedbed.runtime.llm.budget.stage import UnpricedError
from seedbed.runtime.llm.budget.teller import BudgetExceededError
from seedbed.runtime.store.batches import LineRow, PartRow

log = logging.getLogger(__name__)

MOST_BYTES = 16 * 1024 * 1024
"""Of one part."""
_PAGE, _FEW = 500, 50


@dataclass(slots=True)
class Parts:
    """All of a batch that is with providers, or is to go there."""

    job: Job
    providers: Mapping[str, ProviderBatches]
    most: dict[str, int] = field(default_factory=dict)
    """Lines of a part, by model, where the provider wants less at a time."""
    sending: bool = True
    """Whether lines may still come back to go our own way."""
    _modest: bool = False
    """Whether money was short the last time, so that a few lines are tried."""

    async def run(self) -> None:
        """Send what is ready, and follow it to its end."""
        job, following = self.job, Following(self.job, self.providers, self.most)
        followed: dict[str, asyncio.Task[None]] = {}
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    # What ends while the parts are read is not to be followed anew.
                    followed = {name: task for name, task in followed.items() if not task.done()}
                    parts = await job.patiently(partial(job.bench.batches.parts, job.id))
                    for part in parts:
                        if part.id not in followed:
                            followed[part.id] = tasks.create_task(following.run(part))
                    going = [task for task in followed.values() if not task.done()]
                    job.sent = len(going)
                    # Where a provider wants less at a time, one part follows the other.
                    waits = job.over.is_set() or (self.most and going)
                    if not waits:
                        async with job.bench.large:
                            planned = await self._planned()
                        if planned:
                            continue
                    if not (parts or going) and (job.over.is_set() or not await self._expects()):
                        return
                    if going:
                        first = asyncio.FIRST_COMPLETED
                        await asyncio.wait(going, timeout=job.bench.look, return_when=first)
                    else:
                        await job.pause(job.bench.look)
        finally:
            self.sending = False

    async def _expects(self) -> bool:
        """Whether lines are still to be sent."""
        lines = partial(self.job.bench.batches.lines, self.job.id, "ready", 0, 1)
        return bool(await self.job.patiently(lines))

    async def _planned(self) -> bool:
        """Make a part of lines that are ready; False where there are none, or no money."""
        job = self.job
        rows = await job.patiently(self._ready)
        provider = self.providers.get(rows[0].target) if rows else None
        if rows and (provider is None or not provider.allowed):
            await job.note(rows[0].target, NOT_ALLOWED)
            await job.bench.work.advance(job.id, [(row.number, "own", "") for row in rows])
            return True
        while rows:
            try:
                await self._plan(rows)
            except (BudgetExceededError, HeldError) as error:
                if len(rows) == 1:
                    await self._halts(error)
                    return False
                rows = rows[: len(rows) // 2]
            except UnpricedError as error:
                await job.answered([failure(row.number, error) for row in rows])
                return True
            except RetryableError as error:
                # It may be made all the same: then it is among the batch's parts.
                log.warning("lines cannot be sent yet: %s", error)
                return False
            else:
                return True
        return False

    async def _ready(self) -> list[LineRow]:
        """Lines that are ready for the same provider as the first one is."""
        found: list[LineRow] = []
        size, after = 0, 0
        page, largest = (_FEW, _FEW) if self._modest else (_PAGE, MOST_LINES)
        while rows := await self.job.bench.batches.lines(self.job.id, "ready", after, page):
            after = rows[-1].number
            for row in rows:
                if found and row.target != found[0].target:
                    continue
                size += len(row.body)
                most = min(largest, self.most.get(row.target, largest))
                if found and (len(found) >= most or size > MOST_BYTES):
                    return found
                found.append(row)
        return found

    async def _plan(self, rows: Sequence[LineRow]) -> None:
        job, model, now = self.job, rows[0].target, self.job.bench.wall()
        results = Results(job, model)
        worst = 0
        for at, row in enumerate(rows):
            worst += results.worst(job.endpoint.read(row.body)) or 0
            if at % _PAGE == 0:
                await asyncio.sleep(0)
        budgets = job.budgets
        if budgets and results.price is None:
            raise UnpricedError(f"model {model!r} has no price, and a budget pays for the batch")
        reserved = worst if budgets else 0
        part = PartRow(
            f"part_{secrets.token_hex(12)}", job.id, model, "planned", now, reserved=reserved
        )
        held = held_for(job, replace(part, reserved=0))
        turn = held.more(budgets if worst else {}, worst, now)
        check(turn, await job.bench.work.plan(part, [row.number for row in rows], turn))
        self._modest = False
        if job.halted:
            await job.halt("parts", "")

    async def _halts(self, error: BudgetExceededError | HeldError) -> None:
        job, self._modest = self.job, True
        if isinstance(error, HeldError) and job.sent:
            # It is this batch's own lines that hold it.
            return
        if isinstance(error, BudgetExceededError) and error.message not in job.halted:
            turn = Held(f"offline-{job.id}").refusal({}, error, job.bench.wall())
            await job.bench.work.refused(turn)
            job.bench.gateway.spent([error.account])
        await job.halt("parts", error.message)
