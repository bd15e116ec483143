"""Says of each line of a batch which way it goes: an answer that is kept, a provider's batch, or our own.

validate    the file becomes lines, or the batch fails and its errors name line and field
sort        new lines become done (kept answers), `ready` for a provider's batch, or `own`
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial

import orjson

from seedbed.crds.errors import FencedError, InvalidError, RetryableError, SeedbedError
from seedbed.crds.money import nanos
from seedbed.runtime.llm.batch.collapse import repeatable
from seedbed.runtime.llm.batch.offline.job import Bench, Job
from seedbed.runtime.llm.batch.offline.lines import (
    MOST_FAULTS,
    MOST_LINES,
    Line,
    LineError,
    Splitter,
    read_line,
)
from seedbed.runtime.llm.batch.offline.provider_batches import ProviderBatches
from seedbed.runtime.llm.cache.key import digest
from seedbed.runtime.llm.cache.policy import HEADER
from seedbed.runtime.llm.call import Call, Reply
from seedbed.runtime.llm.endpoints import Request
from seedbed.runtime.llm.failures import told
from seedbed.runtime.llm.requests import Json
from seedbed.runtime.llm.sending import account_of
from seedbed.runtime.store.batch_work import LineResult
from seedbed.runtime.store.batches import PAGE_BYTES, LineRow, LineState
from seedbed.runtime.store.port import StoreRefusedError

_AT_ONCE = 200
EXACT = {HEADER: "exact"}
"""Headers of a call that takes kept answers to equal requests only."""


class MissError(InvalidError):
    """No answer is kept."""

    def __init__(self) -> None:
        super().__init__("request", "is not in the cache")


@dataclass(slots=True)
class _Found:
    """What of a file is read so far; `rows` of so many bytes are not written yet."""

    rows: list[LineRow]
    faults: list[Json]
    names: set[str]
    first: dict[bytes, int]
    total: int = 0
    size: int = 0


async def validate(job: Job) -> None:
    """The file's lines become the batch's, and it is under way; or it has failed."""
    found = _Found([], [], set(), {})
    splitter = Splitter()
    try:
        async for chunk in job.bench.files.content(job.row.input_file):
            for number, data in splitter.feed(chunk):
                await _take(job, found, number, data)
        for number, data in splitter.end():
            await _take(job, found, number, data)
        if not found.total:
            raise LineError(None, "input_file_id", "has no lines", "empty_file")
    except LineError as fault:
        found.faults.append(fault.told())
    work, now = job.bench.work, job.bench.wall()
    if found.faults:
        errors = orjson.dumps(found.faults).decode()
        await work.change(job.id, ("validating", "cancelling"), errors=errors)
        await work.finish(job.id, "failed", now, ())
        return
    await work.add_lines(found.rows)
    await work.change(job.id, ("validating", "cancelling"), total=found.total)
    await work.change(job.id, ("validating",), status="in_progress", in_progress_at=now)


async def _take(job: Job, found: _Found, number: int, data: bytes) -> None:
    found.total += 1
    if found.total > MOST_LINES:
        raise LineError(
            None, "input_file_id", f"has more than {MOST_LINES} lines", "too_many_tasks"
        )
    try:
        named = partial(job.bench.gateway.named, namespace=job.row.namespace)
        line = read_line(number, data, job.endpoint, named)
        if line.custom_id in found.names:
            raise LineError(number, "custom_id", "stands twice", "duplicate_custom_id")
    except LineError as fault:
        found.faults.append(fault.told())
        if len(found.faults) >= MOST_FAULTS:
            raise LineError(None, "input_file_id", "has more errors", "too_many_errors") from None
        return
    found.names.add(line.custom_id)
    found.rows.append(
        LineRow(job.id, number, line.custom_id, _same_as(job, line, found), line.body)
    )
    found.size += len(data)
    if len(found.rows) >= _AT_ONCE or found.size > PAGE_BYTES:
        await job.bench.work.add_lines(found.rows)
        found.rows.clear()
        found.size = 0
        # To read many lines takes a while: others have their turn.
        await asyncio.sleep(0)


def _same_as(job: Job, line: Line, found: _Found) -> int | None:
    """Number of the earlier line whose answer this one may have."""
    how = job.bench.gateway.models.batching.collapse
    if how == "off" or (how == "repeatable" and not repeatable(line.request)):
        return None
    model = job.bench.gateway.named(line.request.model, job.row.namespace)
    asked = digest(line.request) + model.encode()
    first = found.first.setdefault(asked, line.number)
    return None if first == line.number else first


async def sort(job: Job, providers: Mapping[str, ProviderBatches]) -> None:
    """Send all new lines their way."""
    after: int | None = 0
    while after is not None and not job.over.is_set():
        async with job.bench.large:
            after = await _sorted(job, after, providers)
        await asyncio.sleep(0)


async def _sorted(job: Job, after: int, providers: Mapping[str, ProviderBatches]) -> int | None:
    """Send the next lines their way; the number of the last one, None where there was none."""
    rows = await job.bench.batches.lines(job.id, "new", after, _AT_ONCE)
    ways: list[tuple[int, LineState, str]] = []
    results: list[LineResult] = []
    for row in rows:
        if row.same_as is not None:
            continue
        try:
            target = await _target(job, row, providers)
        except (FencedError, RetryableError, StoreRefusedError):
            # It is the database's, not the line's.
            raise
        except SeedbedError as error:
            results.append(failure(row.number, error))
            continue
        if isinstance(target, LineResult):
            results.append(target)
        else:
            ways.append((row.number, "ready" if target else "own", target))
    if results:
        await job.answered(results)
    await job.bench.work.advance(job.id, ways)
    return rows[-1].number if rows else None


async def _target(
    job: Job, row: LineRow, providers: Mapping[str, ProviderBatches]
) -> LineResult | str:
    """A kept answer, the model whose provider's batch is to have the line, or nothing for our own."""
    request = job.endpoint.read(row.body)
    gateway = job.bench.gateway
    async with AsyncExitStack() as closing:
        call = Call(request, job.identity, gateway.now(), closing, headers=EXACT)
        gateway.plan(call)
        first = call.candidates[0] if call.candidates else ""
        if first not in providers or not providers[first].allowed:
            model = first or request.model
            await job.note(model, "no batch API is known or allowed for this model")
            return ""
        kept = await _kept(job.bench, call)
    if kept is None:
        return first
    saved = nanos(call.notes.get("Cache_Saved", "0"))
    return success(job, row.number, "cache", kept, call, saved=saved)


async def _kept(bench: Bench, call: Call) -> Json | None:
    async def missed(_: Call) -> Reply:
        raise MissError

    if bench.cache is None:
        return None
    try:
        return (await bench.cache(call, missed)).whole
    except MissError:
        return None


async def keep(job: Job, request: Request, model: str, answer: Json, call: Call) -> None:
    """Keep an answer that came by a provider's batch for equal requests."""

    async def given(inner: Call) -> Reply:
        inner.served_by = model
        inner.spent += call.spent
        return Reply(whole=answer)

    if job.bench.cache is None:
        return
    async with AsyncExitStack() as closing:
        again = Call(request, job.identity, call.deadline, closing, (model,), headers=EXACT)
        await job.bench.cache(again, given)


def success(
    job: Job, number: int, way: str, answer: Json, call: Call, *, saved: int = 0
) -> LineResult:
    """The result of a line that has an answer; what it has cost is the call's."""
    body = {**job.endpoint.form(answer), "seedbed": {**account_of(call), "answered_by": way}}
    return LineResult(
        number,
        way,
        200,
        orjson.dumps(body),
        sum(each.prompt_tokens for each in call.spent),
        sum(each.completion_tokens for each in call.spent),
        call.cost,
        saved,
    )


def failure(number: int, error: SeedbedError, way: str = "", nanos_spent: int = 0) -> LineResult:
    """The result of a line that has none."""
    status, body = told(error)
    return LineResult(number, way, status, orjson.dumps(body), nanos=nanos_spent)
