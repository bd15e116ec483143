"""What a checkpoint holds: the plan and the shortest records that lead to the state. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import orjson

from seedbed.crds.checkpoint import CheckpointPolicy
from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import RunRequest
from seedbed.crds.wire import decode, encode
from seedbed.runtime.workflow.record_form import encode_records
from seedbed.runtime.workflow.records import Record
from seedbed.runtime.workflow.snapshot import shortest
from seedbed.runtime.workflow.state import RunState


@dataclass(frozen=True, slots=True)
class Captured:
    """A run's state at one moment. Taking it is cheap: nothing is copied but references.

    Attributes:
        revision: the run's revision.
        ended: steps that have ended, of `total`.
    """

    request: RunRequest
    policy: CheckpointPolicy
    records: list[Record]
    revision: int
    ended: int
    total: int


def capture(state: RunState) -> Captured:
    """The state as it is now; nothing of it changes when the run goes on."""
    counts = state.counts
    ended = counts["succeeded"] + counts["failed"] + counts["skipped"]
    return Captured(
        state.request,
        state.spec.checkpoint,
        shortest(state),
        state.revision,
        ended,
        counts["total"],
    )


def to_bytes(captured: Captured) -> bytes:
    """The content: `{"request": ..., "records": ...}`; large values stay where they are, by digest."""
    parts = {
        "request": orjson.Fragment(encode(captured.request)),
        "records": orjson.Fragment(encode_records(captured.records).data),
    }
    return orjson.dumps(parts)


@dataclass(frozen=True, slots=True)
class Content:
    """A checkpoint that was read: `records` still encoded, as a journal entry's are."""

    request: RunRequest
    records: bytes


def from_bytes(data: bytes) -> Content:
    """What `to_bytes` made.

    Raises:
        InvalidError: this code cannot read it.
    """
    try:
        parts = orjson.loads(data)
        request, records = orjson.dumps(parts["request"]), orjson.dumps(parts["records"])
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise InvalidError("checkpoint", "is not of a form that this version knows") from error
    return Content(decode(RunRequest, request), records)
