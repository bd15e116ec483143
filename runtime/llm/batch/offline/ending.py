"""How a batch ends: with its files, or because of a fault that trying again does not mend.

A batch that meets such a fault asks nobody any more. What providers have of it is followed to its end
as if it were cancelled, so that it is paid and kept; then it has `failed`, and says why. Where not even
that can be written, it has failed at once, with what was written before.
"""

from __future__ import annotations

import logging

import orjson

from seedbed.crds.money import dollars
from seedbed.runtime.llm.batch.offline.form import written_by
from seedbed.runtime.llm.batch.offline.job import Bench, Job
from seedbed.runtime.llm.batch.offline.lines import EXPIRED, FAILED, output_line
from seedbed.runtime.llm.notices import Notice
from seedbed.runtime.store.batch_files import FileRow
from seedbed.runtime.store.batch_work import LineResult
from seedbed.runtime.store.batches import BatchRow, BatchStatus, LineState
from seedbed.runtime.store.port import StoreRefusedError

log = logging.getLogger(__name__)

_AT_ONCE = 500
_UNDONE: tuple[LineState, ...] = ("new", "own", "ready", "sent")


def meets_its_end(row: BatchRow) -> bool:
    """Whether a fault has ended it already, so far as what is under way."""
    return row.status == "cancelling" and row.errors != "[]"


async def finish(job: Job) -> None:
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
    if job.why in (EXPIRED, FAILED):
        status = "expired" if job.why == EXPIRED else "failed"
    await bench.work.finish(job.id, status, bench.wall(), await _written(bench, row, now))


async def fail(bench: Bench, batch: str, reason: str) -> None:
    """A fault ends a batch; it is told as it stands then.

    Raises:
        SeedbedError: it cannot be written, so that the batch goes on as if nothing were.
    """
    row = await bench.batches.batch(batch)
    if row is None or row.ended_at is not None:
        return
    now = bench.wall()
    if meets_its_end(row):
        for part in await bench.batches.parts(batch):
            log.error("batch %s of provider %s is left alone", part.provider_batch, part.model)
        await bench.work.finish(batch, "failed", now, await _readable(bench, row, now))
    else:
        message = f"the work was given up: {reason}"
        fault = {"code": StoreRefusedError.code, "line": None, "message": message, "param": None}
        await bench.work.fail(batch, orjson.dumps([fault]).decode(), now)
    await tell(bench, batch)


async def tell(bench: Bench, batch: str) -> None:
    """Tell people of a batch that has ended."""
    row = await bench.batches.batch(batch)
    if row is None or row.ended_at is None:
        return
    facts: dict[str, str | float] = {
        "namespace": row.namespace,
        "status": row.status,
        "completed": row.completed,
        "failed": row.failed,
        "saved": dollars(row.saved),
    }
    bench.gateway.notices(Notice("batch.ended", row.id, facts))


async def _readable(bench: Bench, row: BatchRow, now: float) -> list[FileRow]:
    try:
        return await _written(bench, row, now)
    except StoreRefusedError as error:
        log.warning("the files of batch %s cannot be read: %s", row.id, error)
        return []


async def _written(bench: Bench, row: BatchRow, now: float) -> list[FileRow]:
    """The files that it has written."""
    sizes = await _size(bench, row.id, failed=False), await _size(bench, row.id, failed=True)
    return written_by(row, now, sizes)


async def _size(bench: Bench, batch: str, *, failed: bool) -> int:
    """Bytes of a file that a batch has written."""
    rows = bench.batches.all_results(batch, failed=failed)
    return sum([len(output_line(row)) async for row in rows])
