"""What a run's journal holds: one record for each transition, and their form on disk.

A run's state is the fold of its records and nothing else, so a resumed run is the same as one that
was never disturbed. On disk a group of records is `[VERSION, [[TAG, field, ...], ...]]` in JSON.

Values (outputs, inputs, items, programs, results) stand inline up to a limit. Larger ones are put
aside under the SHA-256 of their JSON, to be committed together with the records, and the record
keeps the digest; equal values are kept once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import INLINE_LIMIT, Decision, StepError, StepKey
from seedbed.crds.workflow import Phase

VERSION = 1
PROGRAM_INLINE_LIMIT = 512
"""Bytes up to which a program stands inline; a run's many steps share few programs."""

StepKind = Literal["agent", "call", "container", "workflow"]


@dataclass(frozen=True, slots=True)
class RunStarted:
    """The run exists. First record of every journal."""

    at: float


@dataclass(frozen=True, slots=True)
class RunAdjusted:
    """What may change while a run goes on has changed."""

    at: float
    suspend: bool
    parallelism: int
    priority: int = 1


@dataclass(frozen=True, slots=True)
class RunHeld:
    """Steps wait for something that is not there, such as a Pool; an empty reason: no longer."""

    at: float
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class StepExpanded:
    """A forEach step's list is known: one execution unit for each item."""

    step: str
    at: float
    items: list[Any]


@dataclass(frozen=True, slots=True)
class StepScheduled:
    """An attempt may now be handed to a worker.

    Attributes:
        pool: whose workers take it; empty for a container step.
        timeout: seconds for this attempt.
        inputs: None where they are those of the attempt before.
        program: None where it is that of the attempt before.
    """

    key: StepKey
    attempt: int
    at: float
    kind: StepKind
    pool: str
    timeout: float
    inputs: dict[str, Any] | None
    program: dict[str, Any] | None


@dataclass(frozen=True, slots=True)
class StepSucceeded:
    """An attempt's output counts."""

    key: StepKey
    attempt: int
    at: float
    worker: str
    started: float
    finished: float
    output: Any


@dataclass(frozen=True, slots=True)
class StepFailed:
    """An attempt failed; the step too, where `retry_at` is None. Attempt 0: it could not start.

    Attributes:
        then: what follows: `retry`, or the policy's action; see crds.failure.
    """

    key: StepKey
    attempt: int
    at: float
    worker: str
    started: float
    finished: float
    error: StepError
    retry_at: float | None
    then: str = ""


@dataclass(frozen=True, slots=True)
class StepRepeated:
    """An iteration of a step that repeats has ended well; the next one begins at `next_at`."""

    key: StepKey
    attempt: int
    at: float
    worker: str
    started: float
    finished: float
    output: Any
    iteration: int
    next_at: float


@dataclass(frozen=True, slots=True)
class StepSkipped:
    """The step does not run.

    Attributes:
        reason: why the way to the step was not taken; empty where its own condition is false.
    """

    key: StepKey
    at: float
    reason: str = ""


@dataclass(frozen=True, slots=True)
class StepWaiting:
    """A step waits for a person, an event or a time.

    Attributes:
        until: Unix time when the wait ends by itself, or None.
        message: what it waits for, for people.
        event: name of the event, or empty.
    """

    key: StepKey
    at: float
    until: float | None
    message: str
    event: str = ""


@dataclass(frozen=True, slots=True)
class ApprovalGiven:
    """A person has decided about a step, which may not have come to its turn yet."""

    step: str
    at: float
    decision: Decision


@dataclass(frozen=True, slots=True)
class EventReceived:
    """An event came; `id` and `by` are the sender's."""

    name: str
    id: str
    at: float
    by: str
    payload: Any


@dataclass(frozen=True, slots=True)
class RunCompensating:
    """A step failed and what was done is undone; `cause` is that step. Nothing else starts."""

    at: float
    cause: StepKey


@dataclass(frozen=True, slots=True)
class RunEnding:
    """The outcome is known, the onExit steps run; the fields are those of RunFinished."""

    at: float
    phase: Phase
    reason: str
    message: str
    result: Any


@dataclass(frozen=True, slots=True)
class RunFinished:
    """The run is over. Last record of every journal."""

    at: float
    phase: Phase
    reason: str
    message: str
    result: Any


@dataclass(frozen=True, slots=True)
class RunRestored:
    """Last record of a snapshot: what its other records, the shortest that lead there, cannot tell.

    Attributes:
        recent: what changed last, newest first: key, state, message.
        seen: ids of the events that came last.
        completed: units that can be undone, in the order in which they succeeded.
    """

    revision: int
    recent: tuple[tuple[StepKey, str, str], ...]
    seen: tuple[str, ...] = ()
    completed: tuple[StepKey, ...] = ()


@dataclass(frozen=True, slots=True)
class RunForked:
    """The run begins with results of an earlier one, which the records that follow hold.

    Attributes:
        run: the earlier run.
        checkpoint: the number of its checkpoint; 0 for its state at this moment.
        taken: steps taken over.
        again: steps that had ended there and are executed again.
    """

    at: float
    run: str
    checkpoint: int
    taken: int
    again: int


@dataclass(frozen=True, slots=True)
class RunCheckpointed:
    """A checkpoint of the run is kept.

    Attributes:
        revision: where the run stands when nothing but this has happened since.
    """

    at: float
    number: int
    id: str
    size_bytes: int
    ratio: float
    revision: int


StepRecord = (
    StepExpanded
    | StepScheduled
    | StepSucceeded
    | StepRepeated
    | StepFailed
    | StepSkipped
    | StepWaiting
)
RunRecord = (
    RunStarted
    | RunForked
    | RunCheckpointed
    | RunRestored
    | RunAdjusted
    | RunHeld
    | ApprovalGiven
    | EventReceived
    | RunCompensating
    | RunEnding
    | RunFinished
)
Record = StepRecord | RunRecord


def digest_of(data: bytes) -> str:
    """The content hash under which a value is kept."""
    return hashlib.sha256(data).hexdigest()


class _Aside:
    """Puts large values aside while records are encoded."""

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    def put(self, value: Any, limit: int = INLINE_LIMIT) -> Any:
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


def _optional(aside: _Aside, value: Any, limit: int = INLINE_LIMIT) -> Any:
    return None if value is None else aside.put(value, limit)


def _row(record: Record, aside: _Aside) -> list[Any]:
    match record:
        case StepSucceeded(key, attempt, at, worker, started, finished, output):
            value = aside.put(output)
            return ["ok", key.step, key.index, attempt, at, worker, started, finished, value]
        case StepScheduled(key, attempt, at, kind, pool, timeout, inputs, program):
            given = _optional(aside, inputs)
            code = _optional(aside, program, PROGRAM_INLINE_LIMIT)
            return ["go", key.step, key.index, attempt, at, kind, pool, timeout, given, code]
        case StepFailed(key, attempt, at, worker, started, finished, error, retry_at, then):
            why = [error.code, error.message, error.retryable, error.category]
            times = [at, worker, started, finished]
            return ["no", key.step, key.index, attempt, *times, why, retry_at, then]
        case StepSkipped(key, at, reason):
            return ["skip", key.step, key.index, at, reason]
        case StepExpanded(step, at, items):
            return ["each", step, at, aside.put(items)]
        case StepRepeated(key, attempt, at, worker, started, finished, output, iteration, then_at):
            row = ["again", key.step, key.index, attempt, at, worker, started, finished]
            return [*row, aside.put(output), iteration, then_at]
        case StepWaiting(key, at, until, message, event):
            return ["wait", key.step, key.index, at, until, message, event]
        case _:
            return _row_of_run(record, aside)


def _row_of_run(record: RunRecord, aside: _Aside) -> list[Any]:
    match record:
        case RunFinished(at, phase, reason, message, result):
            return ["end", at, phase, reason, message, aside.put(result)]
        case RunEnding(at, phase, reason, message, result):
            return ["exit", at, phase, reason, message, aside.put(result)]
        case RunCompensating(at, cause):
            return ["undo", at, cause.step, cause.index]
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
            return ["snap", revision, shown, seen, [[k.step, k.index] for k in completed]]


def _succeeded(row: list[Any], values: _Values) -> Record:
    _, step, index, attempt, at, worker, started, finished, output = row
    key = StepKey(step, index)
    return StepSucceeded(key, attempt, at, worker, started, finished, values.get(output))


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
    return RunRestored(row[1], recent, tuple(seen), tuple(StepKey(*key) for key in completed))


_READERS: dict[str, Callable[[list[Any], _Values], Record]] = {
    "ok": _succeeded,
    "go": _scheduled,
    "no": _failed,
    "skip": lambda row, _: StepSkipped(StepKey(row[1], row[2]), *row[3:]),
    "again": _repeated,
    "wait": lambda row, _: StepWaiting(StepKey(row[1], row[2]), *row[3:]),
    "decide": lambda row, _: ApprovalGiven(row[1], row[2], Decision(*row[3:])),
    "event": lambda row, values: EventReceived(row[1], row[2], row[3], row[4], values.get(row[5])),
    "each": lambda row, values: StepExpanded(row[1], row[2], values.get(row[3])),
    "start": lambda row, _: RunStarted(row[1]),
    "fork": lambda row, _: RunForked(*row[1:]),
    "check": lambda row, _: RunCheckpointed(*row[1:]),
    "adjust": lambda row, _: RunAdjusted(*row[1:]),
    "held": lambda row, _: RunHeld(row[1], row[2], row[3]),
    "snap": _restored,
    "undo": lambda row, _: RunCompensating(row[1], StepKey(row[2], row[3])),
    "exit": lambda row, values: RunEnding(row[1], row[2], row[3], row[4], values.get(row[5])),
    "end": lambda row, values: RunFinished(row[1], row[2], row[3], row[4], values.get(row[5])),
}


@dataclass(frozen=True, slots=True)
class Encoded:
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
    known = _Values(values or {})
    records = list(_read(data, known))
    if known.missing:
        raise InvalidError("journal", f"value {min(known.missing)} is missing")
    return records


def missing_values(data: bytes) -> set[str]:
    """Digests of the large values that the records refer to."""
    known = _Values({})
    for _ in _read(data, known):
        pass
    return known.missing


def _read(data: bytes, values: _Values) -> Iterable[Record]:
    try:
        version, rows = orjson.loads(data)
    except ValueError as error:
        raise InvalidError("journal", f"expected records in JSON: {error}") from error
    if version != VERSION:
        raise InvalidError("journal", f"version {version} is not known, expected {VERSION}")
    for row in rows:
        yield _READERS[row[0]](row, values)
