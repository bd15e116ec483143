"""A run from the store: its journal, record by record, or folded into a state."""

from __future__ import annotations

from collections.abc import AsyncIterator

from seedbed.crds.messages import RunRequest, decode
from seedbed.runtime.store.port import RunRow, Store
from seedbed.runtime.workflow.records import (
    Record,
    decode_records,
    missing_values,
)
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.world import Hands


async def records_of(store: Store, run: str) -> AsyncIterator[tuple[int, Record]]:
    """A run's records in order, each with the position of its journal entry."""
    for entry in await store.journal(run):
        values = {}
        for digest in missing_values(entry.records):
            data = await store.value(digest)
            if data is not None:
                values[digest] = data
        for record in decode_records(entry.records, values):
            yield entry.seq, record


async def resume(store: Store, row: RunRow, hands: Hands) -> tuple[RunState, int]:
    """A run as its journal left it, and the position of its last entry."""
    state = RunState(decode(RunRequest, row.request), hands)
    last = 0
    async for seq, record in records_of(store, row.run):
        state.apply(record)
        last = seq
    state.catch_up()
    return state, last
