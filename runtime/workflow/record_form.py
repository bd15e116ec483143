"""Records on disk: a group of them is `[VERSION, [[TAG, field, ...], ...]]` in JSON.

Values (outputs, inputs, items, programs, results) stand inline up to a limit. Larger ones are put
aside under the SHA-256 of their JSON, to be committed together with the records, and the record
keeps the digest; equal values are kept once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import orjson
from msgspec import Struct

from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import INLINE_LIMIT, Decision, StepError, StepKey
from seedbed.runtime.workflow.records import (
    ApprovalGiven,
    EventReceived,
    Record,
    RunAdjusted,
    RunCheckpointed,
    RunCompensating,
    RunEnding,
    RunFinished,
    RunForked,
    RunHeld,
    RunRecord,
    RunRestored,
    RunStarted,
    StepAnticipated,
    StepExpanded,
    StepFailed,
    StepRepeated,
    StepReplanned,
    StepReported,
    StepScheduled,
    StepSkipped,
    StepSucceeded,
    StepWaiting,
)

VERSION = 1
PROGRAM_INLINE_LIMIT = 512
"""Bytes up to which a program stands inline; a run's many steps share few programs."""


def digest_of(data: bytes) -> str:
    """The content hash under which a value is kept."""
    return hashlib.sha256(data).hexdigest()


class _Aside:
    """Puts large values aside while records are encoded."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}
        # Neighbours share inputs and programs: those of the one before are not encoded again.
        self._inputs: tuple[Any, Any] = (None, None)
        self._program: tuple[Any, Any] = (None, None)

    def inputs(self, value: Any) -> Any:
        if value is not self._inputs[0]:
            self._inputs = value, self.put(value)
        return self._inputs[1]

    def program(self, value: Any) -> Any:
        if value is not self._program[0]:
            self._program = value, self.put(value, PROGRAM_INLINE_LIMIT)
        return self._program[1]

    def put(self, value: Any, limit: int = INLINE_LIMIT) -> Any:
        if not value:
            return [value]
        data = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
        if len(data) <= limit:
            return [orjson.Fragment(data)]
        digest = digest_of(data)
        self.values[digest] = data
        return digest


class _Values:
    """Gives values back while records are decoded; collects what is missing."""

    def __init__(self, values: Mapping[str, bytes]) -> None:
        self._raw = values
        self._known: dict[str, Any] = {}
        self.missing: set[str] = set()

    def get(self, stored: Any) -> Any:
        if isinstance(stored, list):
            return stored[0]
        if stored not in self._known:
            if stored not in self._raw:
                self.missing.add(stored)
                return None
            self._known[stored] = orjson.loads(self._raw[stored])
        return self._known[stored]


def _row(record: Record, aside: _Aside) -> list[Any]:
    match record:
        # These two each step makes, and to take them apart in the pattern takes longer.
        case StepSucceeded():
            key, when = record.key, (record.at, record.worker, record.started, record.finished)
            return ["ok", key.step, key.index, record.attempt, *when, aside.put(record.output)]
        case StepScheduled():
            key, inputs, program = record.key, record.inputs, record.program
            how = (record.at, record.kind, record.pool, record.timeout)
            given = None if inputs is None else aside.inputs(inputs)
            code = None if program is None else aside.program(program)
            return ["go", key.step, key.index, record.attempt, *how, given, code]
        case StepFailed(key, attempt, at, worker, started, finished, error, retry_at, then):
            times = [at, worker, started, finished]
            return ["no", key.step, key.index, attempt, *times, _error(error), retry_at, then]
        case StepSkipped(key, at, reason):
            return ["skip", key.step, key.index, at, reason]
        case StepExpanded(step, at, items, more):
            return ["each", step, at, aside.put(items), *([True] if more else [])]
        case StepRepeated(key, attempt, at, worker, started, finished, output, iteration, then_at):
            row = ["again", key.step, key.index, attempt, at, worker, started, finished]
            return [*row, aside.put(output), iteration, then_at]
        case StepAnticipated(key, attempt, at, worker, started, finished, output):
            row = ["early", key.step, key.index, attempt, at, worker, started, finished]
            return [*row, aside.put(output)]
        case StepReported(key, attempt, at, worker, started, finished, output, error):
            row = ["late", key.step, key.index, attempt, at, worker, started, finished]
            return [*row, aside.put(output), _error(error) if error else None]
        case StepReplanned(key, attempt, at, version, reason, before, to, why):
            row = ["plan", key.step, key.index, attempt, at, version, reason]
            return [*row, dict(before), dict(to), why]
        case StepWaiting(key, at, until, message, event):
            return ["wait", key.step, key.index, at, until, message, event]
        case _:
            return _row_of_run(record, aside)


def _error(error: StepError) -> list[Any]:
    return [error.code, error.message, error.retryable, error.category]


def _row_of_run(record: RunRecord, aside: _Aside) -> list[Any]:
    match record:
        case RunFinished(at, phase, reason, message, result):
            return ["end", at, phase, reason, message, aside.put(result)]
        case RunEnding(at, phase, reason, message, result):
            return ["exit", at, phase, reason, message, aside.put(result)]
        case RunCompensating(at, cause, why):
            return ["undo", at, cause.step, cause.index, why]
        case RunStarted(at):
            return ["start", at]
        case RunForked(at, run, checkpoint, taken, again):
            return ["fork", at, run, checkpoint, taken, again]
        case RunCheckpointed(at, number, name, size, ratio, revision):
            return ["check", at, number, name, size, ratio, revision]
        case RunAdjusted(at, suspend, parallelism, priority):
            return ["adjust", at, suspend, parallelism, priority]
        case RunHeld(at, reason, message):
            return ["held", at, reason, message]
        case ApprovalGiven(step, at, decision):
            return ["decide", step, at, decision.decision, decision.by, decision.comment]
        case EventReceived(name, identity, at, by, payload):
            return ["event", name, identity, at, by, aside.put(payload)]
        case RunRestored(revision, recent, seen, completed):
            shown = [[k.step, k.index, told, why] for k, told, why in recent]
            return ["snap", revision, shown, seen, [[k.step, k.index, n] for k, n in completed]]


def _succeeded(row: list[Any], values: _Values) -> Record:
    _, step, index, attempt, at, worker, started, finished, output = row
    key = StepKey(step, index)
    return StepSucceeded(key, attempt, at, worker, started, finished, values.get(output))


def _anticipated(row: list[Any], values: _Values) -> Record:
    _, step, index, attempt, at, worker, started, finished, output = row
    key = StepKey(step, index)
    return StepAnticipated(key, attempt, at, worker, started, finished, values.get(output))


def _reported(row: list[Any], values: _Values) -> Record:
    _, step, index, attempt, at, worker, started, finished, output, why = row
    times = (at, worker, started, finished)
    error = StepError(*why) if why else None
    return StepReported(StepKey(step, index), attempt, *times, values.get(output), error)


def _repeated(row: list[Any], values: _Values) -> Record:
    _, step, index, attempt, at, worker, started, finished, output, iteration, next_at = row
    times = (at, worker, started, finished)
    given = values.get(output)
    return StepRepeated(StepKey(step, index), attempt, *times, given, iteration, next_at)


def _scheduled(row: list[Any], values: _Values) -> Record:
    _, step, index, attempt, at, kind, pool, timeout, inputs, program = row
    given = None if inputs is None else values.get(inputs)
    code = None if program is None else values.get(program)
    return StepScheduled(StepKey(step, index), attempt, at, kind, pool, timeout, given, code)


def _failed(row: list[Any], _: _Values) -> Record:
    _, step, index, attempt, at, worker, started, finished, why, *then = row
    key = StepKey(step, index)
    return StepFailed(key, attempt, at, worker, started, finished, StepError(*why), *then)


def _restored(row: list[Any], _: _Values) -> Record:
    recent = tuple((StepKey(s, i), told, why) for s, i, told, why in row[2])
    seen, completed = (*row[3:], (), ())[:2]
    # A version that knew of no iterations did not write their numbers.
    done = tuple((StepKey(each[0], each[1]), each[2] if each[2:] else -1) for each in completed)
    return RunRestored(row[1], recent, tuple(seen), done)


_READERS: dict[str, Callable[[list[Any], _Values], Record]] = {
    "ok": _succeeded,
    "go": _scheduled,
    "no": _failed,
    "skip": lambda row, _: StepSkipped(StepKey(row[1], row[2]), *row[3:]),
    "again": _repeated,
    "early": _anticipated,
    "late": _reported,
    "plan": lambda row, _: StepReplanned(StepKey(row[1], row[2]), *row[3:]),
    "wait": lambda row, _: StepWaiting(StepKey(row[1], row[2]), *row[3:]),
    "decide": lambda row, _: ApprovalGiven(row[1], row[2], Decision(*row[3:])),
    "event": lambda row, values: EventReceived(row[1], row[2], row[3], row[4], values.get(row[5])),
    "each": lambda row, values: StepExpanded(row[1], row[2], values.get(row[3]), *row[4:]),
    "start": lambda row, _: RunStarted(row[1]),
    "fork": lambda row, _: RunForked(*row[1:]),
    "check": lambda row, _: RunCheckpointed(*row[1:]),
    "adjust": lambda row, _: RunAdjusted(*row[1:]),
    "held": lambda row, _: RunHeld(row[1], row[2], row[3]),
    "snap": _restored,
    "undo": lambda row, _: RunCompensating(row[1], StepKey(row[2], row[3]), *row[4:]),
    "exit": lambda row, values: RunEnding(row[1], row[2], row[3], row[4], values.get(row[5])),
    "end": lambda row, values: RunFinished(row[1], row[2], row[3], row[4], values.get(row[5])),
}


class Encoded(Struct, frozen=True):
    """Records as bytes, and the large values they refer to, by digest."""

    data: bytes
    values: Mapping[str, bytes]


def encode_records(records: Sequence[Record]) -> Encoded:
    """Records in the form that goes into the journal."""
    aside = _Aside()
    rows = [_row(record, aside) for record in records]
    return Encoded(orjson.dumps([VERSION, rows]), aside.values)


def decode_records(data: bytes, values: Mapping[str, bytes] | None = None) -> list[Record]:
    """Records from the journal.

    Args:
        data: as `encode_records` made it.
        values: the large values, at least those that `missing_values` names.

    Raises:
        InvalidError: the data is not of a version that this code knows, or a value is missing.
    """
    records, missing = read_records(data, values or {})
    if missing:
        raise InvalidError("journal", f"value {min(missing)} is missing")
    return records


def read_records(data: bytes, values: Mapping[str, bytes]) -> tuple[list[Record], set[str]]:
    """Records, whole where nothing is missing, and the digests of the values that are."""
    known = _Values(values)
    return list(_read(data, known)), known.missing


def missing_values(data: bytes) -> set[str]:
    """Digests of the large values that the records refer to."""
    return read_records(data, {})[1]


def _read(data: bytes, values: _Values) -> Iterable[Record]:
    try:
        version, rows = orjson.loads(data)
    except ValueError as error:
        raise InvalidError("journal", f"expected records in JSON: {error}") from error
    if version != VERSION:
        raise InvalidError("journal", f"version {version} is not known, expected {VERSION}")
    for row in rows:
        yield _READERS[row[0]](row, values)
