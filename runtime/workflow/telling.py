"""Telling the event log what has been journalled, so that it can be followed while it happens.

One event for each run and turn: the journal entry as it was written, behind its position. An entry that
is too large travels as its position alone, and what a full buffer refuses does not travel at all:
the journal is the truth, and whoever finds a gap reads it. Nothing here waits.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

import orjson

from seedbed.crds.errors import InvalidError, QueueFullError
from seedbed.crds.messages import RunSummary
from seedbed.runtime.bus.events import Event, EventLog
from seedbed.runtime.store.port import Entry

JOURNAL = "journal"
"""Of normal priority; see `written` and `read`."""
FINISHED = "run.finished"
"""Critical; JSON with namespace, workflow, run, phase, reason and message."""
STUCK = "run.stuck"
"""Critical; the same: the run's owner cannot go on with it."""
ENTRY_LIMIT = 64 * 1024
"""Bytes up to which an entry travels whole."""


def tell_entries(events: EventLog, entries: Iterable[Entry]) -> None:
    """Tell of entries that are durable now."""
    now = time.time()
    try:
        for entry in entries:
            events.put(Event(entry.run, JOURNAL, now, written(entry)))
    except QueueFullError:
        return


def tell_end(events: EventLog, summary: RunSummary) -> None:
    """Tell, ahead of all else, that a run is over."""
    _tell(events, FINISHED, summary)


def tell_stuck(events: EventLog, summary: RunSummary) -> None:
    """Tell, ahead of all else, that a run cannot be resumed."""
    _tell(events, STUCK, summary)


def _tell(events: EventLog, kind: str, summary: RunSummary) -> None:
    told = {
        "namespace": summary.namespace,
        "workflow": summary.workflow,
        "run": summary.run,
        "phase": summary.phase,
        "reason": summary.reason,
        "message": summary.message,
    }
    try:
        events.put(Event(summary.run, kind, time.time(), orjson.dumps(told), "critical"))
    except QueueFullError:
        return


def written(entry: Entry) -> bytes:
    """A journal entry as the payload of an event."""
    records = entry.records if len(entry.records) <= ENTRY_LIMIT else b""
    return b"%d\n%b" % (entry.seq, records)


def read(event: Event) -> Entry:
    """The journal entry that an event tells of; no records where they did not travel.

    Raises:
        InvalidError: the event is of another kind.
    """
    position, _, records = event.payload.partition(b"\n")
    if event.kind != JOURNAL or not position.isdigit():
        raise InvalidError("event", f"expected one of the kind {JOURNAL}, not {event.kind}")
    return Entry(event.key, int(position), records)
