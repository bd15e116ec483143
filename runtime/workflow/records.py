"""What a run's journal holds: one record for each transition.

A run's state is the fold of its records and nothing else, so a resumed run is the same as one that
was never disturbed. How they stand on disk: `record_form`. Structs, because each step makes several and a
frozen dataclass takes five times as long to make; without a place in the garbage collector's lists,
because values from JSON form no cycles.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from seedbed.crds.messages import Decision, StepError, StepKey
from seedbed.crds.workflow_status import Phase

StepKind = Literal["agent", "call", "container", "workflow"]


class RunStarted(Struct, frozen=True, gc=False):
    """The run exists. First record of every journal."""

    at: float


class RunAdjusted(Struct, frozen=True, gc=False):
    """What may change while a run goes on has changed."""

    at: float
    suspend: bool
    parallelism: int
    priority: int = 1


class RunHeld(Struct, frozen=True, gc=False):
    """Steps wait for something that is not there, such as a Pool; an empty reason: no longer."""

    at: float
    reason: str
    message: str


class StepExpanded(Struct, frozen=True, gc=False):
    """A forEach step's list is known: one execution unit for each item.

    Attributes:
        items: those that were not known yet.
        more: whether others may follow, since the step that yields them goes on.
    """

    step: str
    at: float
    items: list[Any]
    more: bool = False


class StepScheduled(Struct, frozen=True, gc=False):
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


class StepSucceeded(Struct, frozen=True, gc=False):
    """An attempt's output counts."""

    key: StepKey
    attempt: int
    at: float
    worker: str
    started: float
    finished: float
    output: Any


class StepFailed(Struct, frozen=True, gc=False):
    """An attempt failed; the step too, where `retry_at` is None. Attempt 0: it could not start.

    Attributes:
        then: what follows: `retry`, `replan`, or the policy's action; see crds.failure.
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


class StepReplanned(Struct, frozen=True, gc=False):
    """A unit that failed for good is done in another way: a new version of the run's graph.

    Attributes:
        attempt: its last attempt so far.
        version: of the graph, from 2 on.
        reason: what the error was about; see `replan`.
        before: how it was done: `pool`, `entry`, `agent`, `workflow`, `model`.
        to: what of these is now other than the Workflow says.
        why: the error, for people.
    """

    key: StepKey
    attempt: int
    at: float
    version: int
    reason: str
    before: Mapping[str, str]
    to: Mapping[str, str]
    why: str


class StepRepeated(Struct, frozen=True, gc=False):
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


class StepAnticipated(Struct, frozen=True, gc=False):
    """The result of a step that started before its branch decided; nobody sees it until then."""

    key: StepKey
    attempt: int
    at: float
    worker: str
    started: float
    finished: float
    output: Any


class StepReported(Struct, frozen=True, gc=False):
    """A result that came while the run's owner could not go on with it; it counts once somebody does."""

    key: StepKey
    attempt: int
    at: float
    worker: str
    started: float
    finished: float
    output: Any
    error: StepError | None


class StepSkipped(Struct, frozen=True, gc=False):
    """The step does not run.

    Attributes:
        reason: why the way to the step was not taken; empty where its own condition is false.
    """

    key: StepKey
    at: float
    reason: str = ""


class StepWaiting(Struct, frozen=True, gc=False):
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


class ApprovalGiven(Struct, frozen=True, gc=False):
    """A person has decided about a step, which may not have come to its turn yet."""

    step: str
    at: float
    decision: Decision


class EventReceived(Struct, frozen=True, gc=False):
    """An event came; `id` and `by` are the sender's."""

    name: str
    id: str
    at: float
    by: str
    payload: Any


class RunCompensating(Struct, frozen=True, gc=False):
    """What was done is undone: `cause` is the step that failed, or `why` says why. Nothing else starts."""

    at: float
    cause: StepKey
    why: str = ""


class RunEnding(Struct, frozen=True, gc=False):
    """The outcome is known, the onExit steps run; the fields are those of RunFinished."""

    at: float
    phase: Phase
    reason: str
    message: str
    result: Any


class RunFinished(Struct, frozen=True, gc=False):
    """The run is over. Last record of every journal."""

    at: float
    phase: Phase
    reason: str
    message: str
    result: Any


class RunRestored(Struct, frozen=True, gc=False):
    """Last record of a snapshot: what its other records, the shortest that lead there, cannot tell.

    Attributes:
        recent: what changed last, newest first: key, state, message.
        seen: ids of the events that came last.
        completed: what can be undone, in the order in which it succeeded: units, each with the number
            of its iteration, or -1.
    """

    revision: int
    recent: tuple[tuple[StepKey, str, str], ...]
    seen: tuple[str, ...] = ()
    completed: tuple[tuple[StepKey, int], ...] = ()


class RunForked(Struct, frozen=True, gc=False):
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


class RunCheckpointed(Struct, frozen=True, gc=False):
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
    | StepAnticipated
    | StepReported
    | StepFailed
    | StepReplanned
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
