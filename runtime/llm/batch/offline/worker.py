"""The one who works through batches: one replica at a time, under a lease and a fencing token.

What a batch has come to stands in the store, so whoever takes over goes on from there. A batch goes
through validation, sorting, the work itself (its own and that of providers side by side) and its end.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from seedbed.crds.errors import ConflictError, FencedError, RetryableError, UnavailableError
from seedbed.runtime.coordination.port import Ownership
from seedbed.runtime.llm.batch.offline.counting import OfflineMetrics
from seedbed.runtime.llm.batch.offline.ending import fail, finish, meets_its_end, tell
from seedbed.runtime.llm.batch.offline.job import Bench, Job, Wall
from seedbed.runtime.llm.batch.offline.lines import CANCELLED, FAILED
from seedbed.runtime.llm.batch.offline.own import LineRefusedError, OwnWork
from seedbed.runtime.llm.batch.offline.parts import Parts
from seedbed.runtime.llm.batch.offline.provider_batches import ProviderBatches
from seedbed.runtime.llm.batch.offline.quiet import Quiet
from seedbed.runtime.llm.batch.offline.sorting import sort, validate
from seedbed.runtime.llm.cache.stage import CacheStage
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.store.batch_files import SqlBatchFiles
from seedbed.runtime.store.batch_work import SqlBatchWork
from seedbed.runtime.store.batches import OPEN, BatchRow, SqlBatches
from seedbed.runtime.store.port import StoreRefusedError
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.store.sql_ledger import SqlLedger

log = logging.getLogger(__name__)

MOST_BATCHES = 16
"""That are worked through side by side."""
_DATABASE = (RetryableError, StoreRefusedError, ConflictError)
"""What may pass once the database is well again."""
_TRIM_EVERY = 3600.0
_COUNT_EVERY = 10.0
_AFTER_A_FAULT = 30.0
_LONGEST_WAIT = 30.0
"""Seconds between two looks at a database that is away."""
_DAY = 86_400.0


@dataclass(slots=True)
class OfflineWorker:
    """Works while `run` is under way.

    Attributes:
        providers: those that may have batches, by model.
        wake: set where a batch has come or changed, so that it is not waited for.
    """

    gateway: Gateway
    store: SqlStore
    cache: CacheStage | None
    metrics: OfflineMetrics
    providers: Mapping[str, ProviderBatches]
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    wall: Wall = time.time
    _struck: set[str] = field(default_factory=set)
    """Batches whose work was refused once."""

    async def run(self, ownership: Ownership) -> None:
        """Work until cancelled.

        Raises:
            FencedError: where somebody else works by now.
        """
        bench = Bench(
            self.gateway,
            self.cache,
            SqlBatchFiles(self.store),
            SqlBatches(self.store),
            SqlBatchWork(self.store, SqlLedger(self.store), ownership.token),
            self.metrics,
            self.wall,
        )
        settings = bench.settings
        quiet = Quiet(
            self._waiting, settings.concurrency, settings.patience_seconds, self.gateway.now
        )
        await self._claimed(bench)
        running: dict[str, asyncio.Task[None]] = {}
        trimmed, counted, away = float("-inf"), float("-inf"), 0
        try:
            async with asyncio.TaskGroup() as tasks:
                while True:
                    self.wake.clear()
                    running = {name: task for name, task in running.items() if not task.done()}
                    try:
                        rows = await bench.batches.open()
                        for row in in_turn(rows)[:MOST_BATCHES]:
                            if row.id not in running:
                                task = tasks.create_task(self._safely(bench, row, quiet))
                                running[row.id] = task
                        halted = sum(bool(row.reason) for row in rows)
                        if self.gateway.now() - counted > _COUNT_EVERY:
                            counted = self.gateway.now()
                            self.metrics.stand(await bench.batches.counts(), halted)
                        if self.gateway.now() - trimmed > _TRIM_EVERY:
                            trimmed = self.gateway.now()
                            await _trim(bench)
                        away = 0
                    except _DATABASE as error:
                        away = await self._away(bench, "batches cannot be read", error, away)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(bench.look):
                            await self.wake.wait()
        finally:
            self.metrics.resigned()

    async def _claimed(self, bench: Bench) -> None:
        away = 0
        while True:
            try:
                await bench.work.claim()
            except _DATABASE as error:
                away = await self._away(bench, "batches cannot be taken over yet", error, away)
            else:
                return

    async def _away(self, bench: Bench, what: str, error: Exception, times: int) -> int:
        """Wait for the database, the longer the more often it was away in a row; how often by now."""
        log.warning("%s: %s", what, error)
        if not isinstance(error, RetryableError):
            self.metrics.fault("database")
        await asyncio.sleep(min(_LONGEST_WAIT, bench.look * 2.0 ** min(times, 16)))
        return times + 1

    def _waiting(self, model: str) -> int:
        target = self.gateway.targets.get(model)
        return 0 if target is None else target.provider.waiting

    async def _safely(self, bench: Bench, row: BatchRow, quiet: Quiet) -> None:
        """Work through a batch; where that fails for now, it is begun anew a while later.

        Where the database refuses its work twice, or an answer that is paid for, the batch fails, and
        others go on.
        """
        try:
            await self._serve(bench, row, quiet)
        except* FencedError:
            raise
        except* RetryableError as errors:
            log.warning("batch %s is interrupted: %s", row.id, _first(errors))
            await asyncio.sleep(bench.look)
        except* (StoreRefusedError, ConflictError) as errors:
            await self._failed(bench, row, _first(errors))
        except* Exception:
            # A fault of ours in one batch must not end the others', nor the calls of this process.
            log.exception("batch %s is interrupted by a fault", row.id)
            self.metrics.fault("defect")
            await asyncio.sleep(_AFTER_A_FAULT)

    async def _failed(self, bench: Bench, row: BatchRow, error: Exception) -> None:
        self.metrics.fault("database")
        if row.id not in self._struck and not isinstance(error, LineRefusedError):
            # It may have been the database as a whole, which is well again by now.
            log.warning("batch %s is refused: %s", row.id, error)
            self._struck.add(row.id)
            await asyncio.sleep(bench.look)
            return
        log.error("batch %s fails: %s", row.id, error)
        try:
            await fail(bench, row.id, str(error))
            self._struck.discard(row.id)
        except _DATABASE as again:
            # Then it is the database as a whole: once it is well the batch goes on.
            log.warning("that batch %s fails cannot be written: %s", row.id, again)
            await asyncio.sleep(_AFTER_A_FAULT)

    async def _serve(self, bench: Bench, row: BatchRow, quiet: Quiet) -> None:
        # Where not even this can be written nobody is asked: it would be paid for again and again.
        try:
            await bench.work.change(row.id, OPEN, reason=row.reason)
        except (StoreRefusedError, ConflictError) as error:
            raise UnavailableError(f"nothing can be written: {error.message}") from error
        if row.status == "validating":
            await validate(Job(bench, row))
            found = await bench.batches.batch(row.id)
            if found is None or found.ended_at is not None:
                await tell(bench, row.id)
                return
            row = found
        job = Job(bench, row)
        if row.status == "cancelling":
            job.stop(FAILED if meets_its_end(row) else CANCELLED)
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(job.watch())
            await sort(job, self.providers)
            parts, own = Parts(job, self.providers), OwnWork(job, quiet)
            async with asyncio.TaskGroup() as working:
                working.create_task(parts.run())
                working.create_task(own.run(lambda: parts.sending))
            watching.cancel()
        await finish(job)
        self._struck.discard(row.id)
        await tell(bench, row.id)


def in_turn(rows: Sequence[BatchRow]) -> list[BatchRow]:
    """Batches, given in order of arrival, so that each namespace's first comes before any's second.

    Whoever has many, or some that stand still, lets others wait no longer than they have to.
    """
    before: Counter[str] = Counter()
    places: list[tuple[int, int]] = []
    for arrival, row in enumerate(rows):
        places.append((before[row.namespace], arrival))
        before[row.namespace] += 1
    return [rows[arrival] for _, arrival in sorted(places)]


def _first(group: BaseExceptionGroup[Exception]) -> Exception:
    """The first of what went wrong at once."""
    found = group.exceptions[0]
    return _first(found) if isinstance(found, BaseExceptionGroup) else found


async def _trim(bench: Bench) -> None:
    before = bench.wall() - bench.settings.retention_days * _DAY
    while await bench.work.trim(before):
        pass
    while await bench.files.trim(before):
        pass
