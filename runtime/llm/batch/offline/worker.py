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

from seedbed.crds.errors import FencedError, RetryableError
from seedbed.crds.money import dollars
from seedbed.runtime.coordination.port import Ownership
from seedbed.runtime.llm.batch.offline.counting import OfflineMetrics
from seedbed.runtime.llm.batch.offline.form import written_by
from seedbed.runtime.llm.batch.offline.job import Bench, Job, Wall
from seedbed.runtime.llm.batch.offline.lines import CANCELLED, EXPIRED, output_line
from seedbed.runtime.llm.batch.offline.own import OwnWork
from seedbed.runtime.llm.batch.offline.parts import Parts
from seedbed.runtime.llm.batch.offline.provider_batches import ProviderBatches
from seedbed.runtime.llm.batch.offline.quiet import Quiet
from seedbed.runtime.llm.batch.offline.sorting import sort, validate
from seedbed.runtime.llm.cache.stage import CacheStage
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.notices import Notice
from seedbed.runtime.store.batch_files import SqlBatchFiles
from seedbed.runtime.store.batch_work import LineResult, SqlBatchWork
from seedbed.runtime.store.batches import BatchRow, BatchStatus, LineState, SqlBatches
from seedbed.runtime.store.ledger import SqlLedger
from seedbed.runtime.store.sql import SqlStore

log = logging.getLogger(__name__)

MOST_BATCHES = 16
"""That are worked through side by side."""
_TRIM_EVERY = 3600.0
_AFTER_A_FAULT = 30.0
_DAY = 86_400.0
_AT_ONCE = 500
_UNDONE: tuple[LineState, ...] = ("new", "own", "ready", "sent")


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
        trimmed = float("-inf")
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
                        self.metrics.stand(await bench.batches.counts(), halted)
                        if self.gateway.now() - trimmed > _TRIM_EVERY:
                            trimmed = self.gateway.now()
                            await _trim(bench)
                    except RetryableError as error:
                        log.warning("batches cannot be read: %s", error)
                    with suppress(TimeoutError):
                        async with asyncio.timeout(bench.look):
                            await self.wake.wait()
        finally:
            self.metrics.resigned()

    async def _claimed(self, bench: Bench) -> None:
        while True:
            try:
                await bench.work.claim()
            except RetryableError as error:
                log.warning("batches cannot be taken over yet: %s", error)
                await asyncio.sleep(bench.look)
            else:
                return

    def _waiting(self, model: str) -> int:
        target = self.gateway.targets.get(model)
        return 0 if target is None else target.provider.waiting

    async def _safely(self, bench: Bench, row: BatchRow, quiet: Quiet) -> None:
        """Work through a batch; where that fails for now, it is begun anew a while later."""
        try:
            await self._serve(bench, row, quiet)
        except* FencedError:
            raise
        except* RetryableError as errors:
            log.warning("batch %s is interrupted: %s", row.id, errors.exceptions[0])
            await asyncio.sleep(bench.look)
        except* Exception:
            # A fault of ours in one batch must not end the others', nor the calls of this process.
            log.exception("batch %s is interrupted by a fault", row.id)
            await asyncio.sleep(_AFTER_A_FAULT)

    async def _serve(self, bench: Bench, row: BatchRow, quiet: Quiet) -> None:
        if row.status == "validating":
            await validate(Job(bench, row))
            found = await bench.batches.batch(row.id)
            if found is None or found.ended_at is not None:
                if found is not None:
                    _tell(bench, found)
                return
            row = found
        job = Job(bench, row)
        if row.status == "cancelling":
            job.stop(CANCELLED)
        async with asyncio.TaskGroup() as tasks:
            watching = tasks.create_task(job.watch())
            await sort(job, self.providers)
            parts, own = Parts(job, self.providers), OwnWork(job, quiet)
            async with asyncio.TaskGroup() as working:
                working.create_task(parts.run())
                working.create_task(own.run(lambda: parts.sending))
            watching.cancel()
        await _finish(job)
        found = await bench.batches.batch(row.id)
        if found is not None:
            _tell(bench, found)


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


async def _finish(job: Job) -> None:
    """Say of lines that were not asked why, and end the batch with its files."""
    bench = job.bench
    for state in _UNDONE:
        while job.why and (rows := await bench.batches.lines(job.id, state, 0, _AT_ONCE)):
            await job.answered([LineResult(row.number, "", job.why, b"") for row in rows])
    now = bench.wall()
    await bench.work.change(job.id, ("in_progress",), status="finalizing", finalizing_at=now)
    row = await bench.batches.batch(job.id)
    if row is None:
        return
    status: BatchStatus = "cancelled" if row.status == "cancelling" else "completed"
    if job.why == EXPIRED:
        status = "expired"
    sizes = await _size(bench, job.id, failed=False), await _size(bench, job.id, failed=True)
    await bench.work.finish(job.id, status, bench.wall(), written_by(row, now, sizes))


async def _size(bench: Bench, batch: str, *, failed: bool) -> int:
    """Bytes of a file that a batch has written."""
    rows = bench.batches.all_results(batch, failed=failed)
    return sum([len(output_line(row)) async for row in rows])


async def _trim(bench: Bench) -> None:
    before = bench.wall() - bench.settings.retention_days * _DAY
    while await bench.work.trim(before):
        pass
    while await bench.files.trim(before):
        pass


def _tell(bench: Bench, row: BatchRow) -> None:
    facts: dict[str, str | float] = {
        "namespace": row.namespace,
        "status": row.status,
        "completed": row.completed,
        "failed": row.failed,
        "saved": dollars(row.saved),
    }
    bench.gateway.notices(Notice("batch.ended", row.id, facts))
