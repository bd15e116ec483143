"""Lines that a provider works through as a batch of its own, for a share of the price.

    plan      ready lines become a part: its row, its lines and its money in one transaction
    make      the provider is given the file and told to begin; each step is noted before the next
    follow    it is looked at until it has ended
    fetch     its results become the lines', with what they cost, some at a time

Whoever takes over goes on with what is noted. Where it is not known whether the provider was told, its
batches are looked through for the part's id first. What the provider will not take goes our own way.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from seedbed.crds.errors import FencedError, RetryableError, SeedbedError, TerminalError
from seedbed.runtime.llm.batch.offline.job import Job
from seedbed.runtime.llm.batch.offline.money import Held, HeldError, check
from seedbed.runtime.llm.batch.offline.provider_batches import ProviderBatch, ProviderBatches
from seedbed.runtime.llm.batch.offline.results import Answered, Results
from seedbed.runtime.llm.batch.offline.sorting import failure
from seedbed.runtime.llm.budget.limits import accounts_of
from seedbed.runtime.llm.budget.stage import UnpricedError
from seedbed.runtime.llm.budget.teller import BudgetExceededError
from seedbed.runtime.llm.providers import EmbeddingRequest, MalformedError
from seedbed.runtime.store.batch_work import LineResult
from seedbed.runtime.store.batches import LineRow, LineState, PartRow
from seedbed.runtime.store.ledger import Turn

log = logging.getLogger(__name__)

MOST_LINES = 20_000
MOST_BYTES = 64 * 1024 * 1024
"""Of one part."""
_NOT_ALLOWED = "its batch API is not allowed any more"
_PAGE, _FEW = 500, 50
_AT_ONCE = 100
_GRACE = 86_400.0
"""Seconds behind the batch's time for which its money is held at most."""


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
        job = self.job
        followed: dict[str, asyncio.Task[None]] = {}
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    for part in await job.patiently(partial(job.bench.batches.parts, job.id)):
                        if part.id not in followed or followed[part.id].done():
                            followed[part.id] = tasks.create_task(self._follow(part))
                    going = [task for task in followed.values() if not task.done()]
                    job.sent = len(going)
                    # Where a provider wants less at a time, one part follows the other.
                    waits = job.over.is_set() or (self.most and going)
                    if not waits and await self._planned():
                        continue
                    if not going and (job.over.is_set() or not await self._expects()):
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

    def _late(self) -> bool:
        """Whether nobody waits for a provider any more."""
        return self.job.bench.wall() > self.job.row.expires_at + _GRACE

    def _held(self, part: PartRow) -> Held:
        return Held(f"offline-{part.id}", part.reserved, self.job.row.expires_at + _GRACE)

    async def _planned(self) -> bool:
        """Make a part of lines that are ready; False where there are none, or no money."""
        job = self.job
        rows = await job.patiently(self._ready)
        if rows and rows[0].target not in self.providers:
            await job.note(rows[0].target, _NOT_ALLOWED)
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
        held = Held(f"offline-{part.id}", 0, job.row.expires_at + _GRACE)
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

    async def _follow(self, part: PartRow) -> None:
        """See a part to its end, or as far as the store lets it be seen."""
        try:
            await self._followed(part)
        except RetryableError as error:
            log.warning("a part of batch %s is interrupted: %s", self.job.id, error)
            await asyncio.sleep(self.job.bench.look)

    async def _followed(self, part: PartRow) -> None:
        provider = self.providers.get(part.model)
        if provider is None:
            await self._back(part, "own", _NOT_ALLOWED)
            return
        made = await self._until_made(part, provider)
        if made is None:
            return
        told = await self._until_ended(made, provider)
        if told.state == "refused":
            small = "limit" in told.reason and await self._shrinks(made)
            await self._back(made, "ready" if small else "own", told.reason)
            return
        await self._fetched(made, told, provider)
        files = [made.provider_file, *told.files]
        for file in filter(None, files):
            try:
                await provider.forget(file)
            except SeedbedError as error:
                log.info("a file of a provider's batch is not deleted: %s", error)

    async def _shrinks(self, part: PartRow) -> bool:
        """The provider takes so much at a time only: smaller parts follow one after the other."""
        lines = await self.job.bench.work.part_lines(part, 0, MOST_LINES)
        await self.job.pause(self.job.bench.settings.poll_seconds)
        self.most[part.model] = len(lines) // 2
        return len(lines) > 1

    async def _back(self, part: PartRow, way: LineState, reason: str) -> None:
        if way == "own":
            await self.job.note(part.model, reason)
        await self.job.bench.work.end(part, self._held(part).holder, way)

    async def _until_made(self, part: PartRow, provider: ProviderBatches) -> PartRow | None:
        """The part once the provider has it; None where it went another way."""
        poll = self.job.bench.settings.poll_seconds
        while part.state == "planned":
            try:
                part = await self._made(part, provider)
            except FencedError:
                raise
            except TerminalError as error:
                await self._back(part, "own", error.message)
                return None
            except RetryableError as error:
                log.warning("a provider's batch cannot be made yet: %s", error)
            gone = not part.tries or self._late()
            if part.state == "planned" and self.job.over.is_set() and gone:
                await self.job.bench.work.end(part, self._held(part).holder)
                return None
            if part.state == "planned":
                await asyncio.sleep(poll) if self.job.over.is_set() else await self.job.pause(poll)
        return part

    async def _made(self, part: PartRow, provider: ProviderBatches) -> PartRow:
        """Have the provider make its batch, or find the one it has made."""
        job, work = self.job, self.job.bench.work
        if part.tries:
            found = await provider.find(part.id, part.created_at)
            if found is not None:
                return await work.note(part, state="made", provider_batch=found.id)
        if job.over.is_set():
            return await work.note(part, tries=0)
        if not part.provider_file:
            data = await self._written(part, provider)
            file = await provider.upload(f"{part.id}.jsonl", data)
            part = await work.note(part, provider_file=file)
        part = await work.note(part, tries=part.tries + 1)
        first = (await work.part_lines(part, 0, 1))[0]
        asks = job.endpoint.read(first.body)
        path = "/v1/embeddings" if isinstance(asks, EmbeddingRequest) else "/v1/chat/completions"
        made = await provider.make(part.provider_file, path, part.id)
        return await work.note(part, state="made", provider_batch=made.id)

    async def _written(self, part: PartRow, provider: ProviderBatches) -> list[bytes]:
        """The file for the provider."""
        results, after = Results(self.job, part.model), 0
        data: list[bytes] = []
        while rows := await self.job.bench.work.part_lines(part, after, _PAGE):
            after = rows[-1].number
            for row in rows:
                request = results.limited(self.job.endpoint.read(row.body))
                data.append(provider.line(row.number, request))
        return data

    async def _until_ended(self, part: PartRow, provider: ProviderBatches) -> ProviderBatch:
        job, poll, cancelled = self.job, self.job.bench.settings.poll_seconds, False
        while True:
            try:
                told = await provider.look(part.provider_batch)
                if told.state != "under way":
                    return told
                if job.over.is_set() and not cancelled:
                    await provider.cancel(part.provider_batch)
                    cancelled = True
            except SeedbedError as error:
                # It is paid for: its results are waited for, as long as they can be of use.
                if job.over.is_set() and (self._late() or isinstance(error, TerminalError)):
                    return ProviderBatch(part.provider_batch, "ended")
                log.warning("a provider's batch cannot be looked at: %s", error)
                await job.halt(
                    part.id, f"the provider's batch cannot be looked at: {error.message}"
                )
            else:
                await job.halt(part.id, "")
            if job.over.is_set():
                await asyncio.sleep(poll)
            else:
                await job.pause(poll)

    async def _fetched(self, part: PartRow, told: ProviderBatch, provider: ProviderBatches) -> None:
        """Write all results, as often as it takes, and what is missing."""
        results, work = Results(self.job, part.model), self.job.bench.work
        held = self._held(part)
        while True:
            try:
                for file in told.files:
                    some: list[bytes] = []
                    async for line in provider.results(file):
                        some.append(line)
                        if len(some) >= _AT_ONCE:
                            await self._write(part, results, held, results.read(some))
                            some = []
                    await self._write(part, results, held, results.read(some))
                break
            except FencedError:
                raise
            except TerminalError as error:
                log.warning("results of a provider's batch cannot be fetched: %s", error)
                break
            except RetryableError as error:
                log.warning("results of a provider's batch cannot be fetched yet: %s", error)
                await asyncio.sleep(self.job.bench.settings.poll_seconds)
        if not self.job.over.is_set():
            await self._left_out(part)
        await work.end(part, held.holder)

    async def _write(
        self, part: PartRow, results: Results, held: Held, found: Mapping[int, Answered]
    ) -> None:
        """Write some results, each once, with what they cost and what need not be held any more."""
        job = self.job
        if not found:
            return
        rows = await job.bench.work.some(job.id, sorted(found))
        lines = [results.of(row, found[row.number]) for row in rows]
        spent = {line.result.number: line for line in lines}
        now = job.bench.wall()
        release = sum(line.worst for line in lines)

        def turn(new: Sequence[LineResult]) -> Turn:
            entries = [one for each in new if (one := spent[each.number].entry) is not None]
            return held.spend(job.budgets, job.identity, entries, release, now)

        await job.answered([line.result for line in lines], turn)
        job.bench.gateway.spent(accounts_of(job.identity))
        await job.bench.work.note(part, reserved=held.amount)
        for line in lines:
            await results.keep(line)

    async def _left_out(self, part: PartRow) -> None:
        """Lines that the provider says nothing of have failed."""
        error = MalformedError(part.model, "the provider's batch leaves this line out")
        while rows := await self.job.bench.work.part_lines(part, 0, _AT_ONCE):
            await self.job.answered([failure(row.number, error, "provider") for row in rows])
