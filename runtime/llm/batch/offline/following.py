"""One part of a batch that a provider works through, from its making to its results.

    make      the provider is given the file and told to begin; each step is noted before the next
    follow    it is looked at until it has ended
    fetch     its results become the lines', with what they cost, some at a time

Whoever takes over goes on with what is noted. Where it is not known whether the provider was told, its
batches are looked through for the part's id first. What the provider will not take goes our own way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from seedbed.crds.errors import (
    FencedError,
    RetryableError,
    SeedbedError,
    TerminalError,
    UnavailableError,
)
from seedbed.runtime.llm.batch.offline.job import Job
from seedbed.runtime.llm.batch.offline.lines import EXPIRED
from seedbed.runtime.llm.batch.offline.money import Held
from seedbed.runtime.llm.batch.offline.provider_batches import ProviderBatch, ProviderBatches
from seedbed.runtime.llm.batch.offline.results import Answered, LineTold, Results
from seedbed.runtime.llm.batch.offline.sorting import failure
from seedbed.runtime.llm.budget.limits import accounts_of
from seedbed.runtime.llm.endpoints import CHAT, EMBEDDINGS
from seedbed.runtime.llm.providers import MalformedError
from seedbed.runtime.store.batch_work import LineResult
from seedbed.runtime.store.batches import PAGE_BYTES, LineState, PartRow
from seedbed.runtime.store.ledger import Turn
from seedbed.runtime.store.port import StoreRefusedError

log = logging.getLogger(__name__)

MOST_LINES = 20_000
"""Of one part."""
NOT_ALLOWED = "its batch API is not allowed any more"
GRACE = 86_400.0
"""Seconds behind the batch's time for which its money is held, and the provider waited for, at most."""
_PAGE, _AT_ONCE = 500, 100


def held_for(job: Job, part: PartRow) -> Held:
    """The money that is held for a part."""
    return Held(f"offline-{part.id}", part.reserved, job.row.expires_at + GRACE)


@dataclass(slots=True)
class Following:
    """Sees parts of one batch to their end.

    Attributes:
        most: lines of a part, by model, where the provider wants less at a time.
    """

    job: Job
    providers: Mapping[str, ProviderBatches]
    most: dict[str, int]

    async def run(self, part: PartRow) -> None:
        """See a part to its end, or as far as the store lets it be seen."""
        try:
            await self._followed(part)
        except RetryableError as error:
            log.warning("a part of batch %s is interrupted: %s", self.job.id, error)
            await asyncio.sleep(self.job.bench.look)

    def _late(self) -> bool:
        """Whether nobody waits for a provider any more."""
        return self.job.bench.wall() > self.job.row.expires_at + GRACE

    async def _followed(self, part: PartRow) -> None:
        provider = self.providers.get(part.model)
        unknown = part.state == "planned" and not part.tries
        if provider is None or (unknown and not provider.allowed):
            await self._back(part, "own", NOT_ALLOWED)
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
        await self.job.bench.work.end(part, held_for(self.job, part).holder, way)

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
                await self.job.bench.work.end(part, held_for(self.job, part).holder)
                return None
            if part.state == "planned":
                await asyncio.sleep(poll) if self.job.over.is_set() else await self.job.pause(poll)
        return part

    async def _made(self, part: PartRow, provider: ProviderBatches) -> PartRow:
        """Have the provider make its batch, or find the one it has made."""
        job, work = self.job, self.job.bench.work
        if part.tries:
            try:
                found = await provider.find(part.id, part.created_at)
            except TerminalError as error:
                # Nobody knows whether it was made: to ask elsewhere might be to pay twice.
                raise UnavailableError(error.message) from error
            if found is not None:
                return await work.note(part, state="made", provider_batch=found.id)
        if job.over.is_set():
            return await work.note(part, tries=0)
        if not part.provider_file:
            data = await self._written(part, provider)
            file = await provider.upload(f"{part.id}.jsonl", data)
            part = await work.note(part, provider_file=file)
        part = await work.note(part, tries=part.tries + 1)
        # Providers are asked for chats, also where callers use the older form.
        asked = EMBEDDINGS if job.endpoint is EMBEDDINGS else CHAT
        try:
            made = await provider.make(part.provider_file, asked.path, part.id)
            return await work.note(part, state="made", provider_batch=made.id)
        except RetryableError as error:
            # It may be made all the same: the next time it is looked for.
            log.warning("a provider's batch cannot be made yet: %s", error)
            return part

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
                if job.over.is_set() and self._late():
                    log.warning("a provider's batch does not end: it is %s", told.id)
                    return replace(told, state="ended")
                if job.over.is_set() and not cancelled:
                    cancelled = await self._cancelled(told, provider)
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

    async def _cancelled(self, told: ProviderBatch, provider: ProviderBatches) -> bool:
        """Whether the provider was told to end early. It may have come to an end just now instead."""
        try:
            await provider.cancel(told.id)
        except SeedbedError as error:
            log.info("a provider's batch is not cancelled: %s", error)
            return False
        return True

    async def _fetched(self, part: PartRow, told: ProviderBatch, provider: ProviderBatches) -> None:
        """Write all results, as often as it takes, and what is missing."""
        results, work = Results(self.job, part.model), self.job.bench.work
        held = held_for(self.job, part)
        while True:
            try:
                for file in told.files:
                    some: list[bytes] = []
                    size = 0
                    async for line in provider.results(file):
                        some.append(line)
                        size += len(line)
                        if len(some) >= _AT_ONCE or size > PAGE_BYTES:
                            await self._write(part, results, held, results.read(some))
                            some, size = [], 0
                    await self._write(part, results, held, results.read(some))
                break
            except FencedError:
                raise
            except TerminalError as error:
                log.warning("results of a provider's batch cannot be fetched: %s", error)
                break
            except RetryableError as error:
                log.warning("results of a provider's batch cannot be fetched yet: %s", error)
                if self._late():
                    # Whoever watches the time may not have looked yet.
                    self.job.stop(EXPIRED)
                    break
                await asyncio.sleep(self.job.bench.settings.poll_seconds)
        if not self.job.over.is_set():
            await self._left_out(part)
        await work.end(part, held.holder)

    async def _write(
        self, part: PartRow, results: Results, held: Held, found: Mapping[int, Answered]
    ) -> None:
        """Write some results, each once, with what they cost and what need not be held any more."""
        if found:
            rows = await self.job.bench.work.some(self.job.id, sorted(found))
            lines = [results.of(row, found[row.number]) for row in rows]
            await self._put(part, results, held, lines)

    async def _put(
        self, part: PartRow, results: Results, held: Held, lines: Sequence[LineTold]
    ) -> None:
        job = self.job
        spent = {line.result.number: line for line in lines}
        now = job.bench.wall()
        release, before = sum(line.worst for line in lines), held.amount

        def turn(new: Sequence[LineResult]) -> Turn:
            entries = [one for each in new if (one := spent[each.number].entry) is not None]
            return held.spend(job.budgets, job.identity, entries, release, now)

        try:
            await job.answered([line.result for line in lines], turn)
        except RetryableError:
            held.amount = before  # it is written anew, and let go of then
            raise
        except StoreRefusedError as error:
            held.amount = before
            await self._put_each(part, results, held, lines, error)
            return
        job.bench.gateway.spent(accounts_of(job.identity))
        await job.bench.work.note(part, reserved=held.amount)
        for line in lines:
            await results.keep(line)

    async def _put_each(
        self,
        part: PartRow,
        results: Results,
        held: Held,
        lines: Sequence[LineTold],
        why: StoreRefusedError,
    ) -> None:
        """Write what the database takes, and of the rest that it is refused; else the batch fails."""
        if len(lines) <= 1:
            (line,) = lines or (None,)
            if line is None or line.answer is None:
                raise why
            log.warning("the answer to line %d is refused: %s", line.result.number, why)
            self.job.bench.metrics.fault("database")
            instead = failure(line.result.number, why, "provider", line.result.nanos)
            await self._put(part, results, held, [replace(line, result=instead, answer=None)])
            return
        refused: StoreRefusedError | None = None
        for line in lines:
            try:
                await self._put(part, results, held, [line])
            except StoreRefusedError as error:
                refused = error
        if refused is not None:
            raise refused

    async def _left_out(self, part: PartRow) -> None:
        """Lines that the provider says nothing of have failed."""
        error = MalformedError(part.model, "the provider's batch leaves this line out")
        while rows := await self.job.bench.work.part_lines(part, 0, _AT_ONCE):
            await self.job.answered([failure(row.number, error, "provider") for row in rows])
