"""What a run's journal says, as events for people and programs outside.

An event's id is `ENTRY.RECORD`, the place of its record in the run's journal, so a reader that was
interrupted goes on behind the last id it saw. Its kind follows from the record: `run.started`,
`step.scheduled`, `step.succeeded`, `step.retried`, `step.failed`, `step.skipped`, `run.checkpointed`,
`run.finished` and so on; a kind that a reader does not know is to be left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
from msgspec.structs import fields

from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import StepError, StepKey
from seedbed.runtime.store.port import Entry
from seedbed.runtime.workflow.record_form import decode_records, missing_values
from seedbed.runtime.workflow.records import Record, RunFinished, RunRestored, StepFailed

VALUE_SHOWN = 1024
"""Bytes up to which an event shows a value such as a step's output."""
END = "run.finished"
GAP = "gap"
"""Some of the journal is not kept any more; `data` has the ids `from` and `to` around it."""

# What a step was given may be private and large; its journal has it.
_HIDDEN = frozenset({"inputs", "program"})
_VALUES = frozenset({"output", "result", "items"})
_WORDS = re.compile(r"(?<!^)(?=[A-Z])")


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One thing that happened in a run.

    Attributes:
        data: a JSON object; `name` is the step, where it is about one.
    """

    id: str
    kind: str
    data: dict[str, Any]


def position(event_id: str) -> tuple[int, int]:
    """Entry and record of an id; the empty id stands before all.

    Raises:
        InvalidError: it is none.
    """
    if not event_id:
        return 0, -1
    match = re.fullmatch(r"(\d{1,15})\.(\d{1,9})", event_id)
    if match is None:
        raise InvalidError("Last-Event-ID", f"expected ENTRY.RECORD, not {event_id[:40]!r}")
    return int(match[1]), int(match[2])


def events_of(entry: Entry, after: int = -1) -> Iterator[RunEvent]:
    """The events of a journal entry behind its record number `after`."""
    # Values that stand elsewhere are too large to be shown, so nobody reads them for this.
    absent = dict.fromkeys(missing_values(entry.records), b'{"large": true}')
    for number, record in enumerate(decode_records(entry.records, absent)):
        if number > after and not isinstance(record, RunRestored):
            yield RunEvent(f"{entry.seq}.{number}", _kind(record), _data(record))


def is_end(event: RunEvent) -> bool:
    """Whether nothing can follow in this run."""
    return event.kind == END


def _kind(record: Record) -> str:
    if isinstance(record, StepFailed) and record.retry_at is not None:
        return "step.retried"
    if isinstance(record, RunFinished):
        return END
    about, *what = _WORDS.split(type(record).__name__)
    return ".".join((about, "_".join(what))).lower()


def _data(record: Record) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for field in fields(record):
        value = getattr(record, field.name)
        if field.name in _HIDDEN:
            continue
        if isinstance(value, StepKey):
            data["name"] = str(value)
        elif isinstance(value, StepError):
            data["error"] = {"code": value.code, "message": value.message}
        elif field.name == "step":
            data["name"] = value
        elif field.name in _VALUES:
            data.update(_shown(field.name, value))
        else:
            data[_camel(field.name)] = value
    return data


def _shown(name: str, value: Any) -> dict[str, Any]:
    size = len(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))
    if isinstance(value, list) and name == "items":
        return {"count": len(value)}
    return {name: value} if size <= VALUE_SHOWN else {f"{name}Bytes": size}


def _camel(name: str) -> str:
    first, *rest = name.split("_")
    return first + "".join(word.capitalize() for word in rest)
