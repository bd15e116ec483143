"""A run from the store: its journal, record by record, or folded into a state."""

from __future__ import annotations

from collections.abc import AsyncIterator

from seedbed.crds.messages import RunRequest
from seedbed.crds.wire import decode
from seedbed.runtime.store.port import RunRow, Store
from seedbed.runtime.workflow.plan import RunPlan, reopened
from seedbed.runtime.workflow.record_form import decode_records, read_records
from seedbed.runtime.workflow.records import Record
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.world import Hands


async def records_of(store: Store, run: str, after: int = 0) -> AsyncIterator[tuple[int, Record]]:
    """A run's records behind position `after` in order, each with that of its journal entry."""
    for entry in await store.journal(run, after):
        for record in await decoded(store, entry.records):
            yield entry.seq, record


async def stored_plan(store: Store, request: RunRequest) -> RunPlan:
    """The plan of a run that the store has.

    Raises:
        InvalidError: its steps are missing, or this code cannot read them.
    """
    return await reopened(request, await store.value(request.steps) if request.steps else None)


async def resume(store: Store, row: RunRow, hands: Hands) -> tuple[RunState, int]:
    """A run as its snapshot and the rest of its journal left it, and the position of its last entry.

    Raises:
        InvalidError: this code cannot read what is there.
    """
    request = decode(RunRequest, row.request)
    state = RunState(request, hands, await stored_plan(store, request))
    try:
        return state, await _fold(store, row.run, state)
    except BaseException:
        state.release()
        raise


async def _fold(store: Store, run: str, state: RunState) -> int:
    last = 0
    snapshot = await store.snapshot(run)
    if snapshot is not None:
        last = snapshot.seq
        for record in await decoded(store, snapshot.records):
            state.apply(record)
    async for seq, record in records_of(store, run, last):
        state.apply(record)
        last = seq
    return last


async def decoded(store: Store, records: bytes) -> list[Record]:
    """Records with the large values that they refer to.

    Raises:
        InvalidError: this code cannot read them, or a value is missing.
    """
    found, missing = read_records(records, {})
    if not missing:
        return found
    values = {}
    for digest in missing:
        data = await store.value(digest)
        if data is not None:
            values[digest] = data
    return decode_records(records, values)
