"""A run from the store: its journal folded into a state, or told as a step log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from seedbed.crds.messages import RunRequest, decode
from seedbed.runtime.store.port import RunRow, Store
from seedbed.runtime.workflow.records import (
    Record,
    RunFinished,
    StepFailed,
    StepSkipped,
    StepSucceeded,
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
    return state, last


async def step_log(store: Store, run: str, step: str = "") -> list[dict[str, Any]]:
    """What became of each attempt, in order; of one step where it is named."""
    lines = []
    async for _, record in records_of(store, run):
        line = _line(record)
        if line is not None and (not step or line["step"].partition("[")[0] == step):
            lines.append(line)
    return lines


async def result_of(store: Store, run: str) -> Any:
    """The result of a finished run, whatever its size; None where there is none."""
    result = None
    async for _, record in records_of(store, run):
        if isinstance(record, RunFinished):
            result = record.result
    return result


def _line(record: Record) -> dict[str, Any] | None:
    if isinstance(record, StepSkipped):
        return {"step": str(record.key), "state": "Skipped", "finished": record.at}
    if not isinstance(record, StepSucceeded | StepFailed):
        return None
    line: dict[str, Any] = {
        "step": str(record.key),
        "attempt": record.attempt,
        "worker": record.worker,
        "started": record.started,
        "finished": record.finished,
    }
    if isinstance(record, StepSucceeded):
        return {**line, "state": "Succeeded", "output": record.output}
    state = "Failed" if record.retry_at is None else "Retrying"
    return {**line, "state": state, "error": record.error.message, "code": record.error.code}
