"""What a run has left in the store, for people: its step log and its result."""

from __future__ import annotations

from typing import Any, NotRequired, TypedDict

import orjson

from seedbed.crds.errors import NotFoundError
from seedbed.runtime.store.port import Store
from seedbed.runtime.workflow.records import (
    Record,
    RunFinished,
    StepFailed,
    StepRepeated,
    StepReplanned,
    StepSkipped,
    StepSucceeded,
)
from seedbed.runtime.workflow.replay import records_of

OUTPUT_SHOWN = 1024
"""Bytes up to which a step log shows an output."""

_STATE_AFTER = {"skip": "Skipped", "fallback": "Recovering"}


Attempt = TypedDict(
    "Attempt",
    {
        "name": str,
        "state": str,
        "attempt": int,
        "started": float,
        "finished": float,
        "worker": str,
        "error": str,
        "code": NotRequired[str],
        "class": NotRequired[str],
        "version": NotRequired[int],
        "output": NotRequired[Any],
    },
)
"""An attempt at a step; times are Unix times. `code` and `class` stand where it failed, `version` of the
plan where that was changed, `output` where it is small."""


class StoredHistory:
    """Reads journals."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def steps(self, run: str) -> list[Attempt]:
        """Each attempt that ended, in order of the journal."""
        lines = []
        async for _, record in records_of(self._store, run):
            line = _line(record)
            if line is not None:
                lines.append(line)
        return lines

    async def result(self, run: str) -> Any:
        """The result of a finished run, whatever its size.

        Raises:
            NotFoundError: while there is none.
        """
        async for _, record in records_of(self._store, run):
            if isinstance(record, RunFinished):
                return record.result
        raise NotFoundError("result of run", run)


def _line(record: Record) -> Attempt | None:
    if isinstance(record, StepSkipped):
        line = _attempt(str(record.key), "Skipped", 0, record.at, record.at, "")
        return {**line, "error": record.reason}
    if isinstance(record, StepReplanned):
        line = _attempt(str(record.key), "Replanned", record.attempt, record.at, record.at, "")
        to = ", ".join(f"{name} {value}" for name, value in record.to.items())
        return {**line, "error": f"now {to} ({record.why})", "version": record.version}
    if isinstance(record, StepSucceeded | StepRepeated):
        times = (record.started, record.finished)
        state = "Succeeded" if isinstance(record, StepSucceeded) else "Repeating"
        line = _attempt(str(record.key), state, record.attempt, *times, record.worker)
        if len(orjson.dumps(record.output, option=orjson.OPT_NON_STR_KEYS)) <= OUTPUT_SHOWN:
            line["output"] = record.output
        return line
    if isinstance(record, StepFailed):
        state = _STATE_AFTER.get(record.then) or (
            "Failed" if record.retry_at is None else "Retrying"
        )
        times = (record.started, record.finished)
        line = _attempt(str(record.key), state, record.attempt, *times, record.worker)
        error = record.error
        return {**line, "error": error.message, "code": error.code, "class": error.error_class}
    return None


def _attempt(
    name: str, state: str, attempt: int, started: float, finished: float, worker: str
) -> Attempt:
    return {
        "name": name,
        "state": state,
        "attempt": attempt,
        "started": started,
        "finished": finished,
        "worker": worker,
        "error": "",
    }
