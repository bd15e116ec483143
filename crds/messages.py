"""What operator, engine and workers tell each other. JSON on the wire, frozen objects inside.

A step's key is `(run, step, index)`; effects on the outside world receive it, results are accepted by
it. What the engine is asked stands in `engine_requests`, ids of runs in `run_ids`.

What each step makes is a struct, which takes a fifth of a frozen dataclass's time to make and to hash,
and which the garbage collector need not look at, since JSON has no cycles.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from msgspec import Struct

from seedbed.crds.failure import class_of
from seedbed.crds.workflow_status import Phase

INLINE_LIMIT = 64 * 1024
"""Bytes up to which a value travels and is journalled inline."""
VALUE_LIMIT = 4 * 1024 * 1024
"""Bytes that one step's output may have."""
RESULT_PREVIEW_LIMIT = 4 * 1024
"""Bytes up to which a run's result stands in the Workflow's status."""


class StepKey(Struct, frozen=True, gc=False, cache_hash=True):
    """Identifies one execution unit: a step, or one item of a forEach step (`index` from 0)."""

    step: str
    index: int = -1

    def __str__(self) -> str:
        return self.step if self.index < 0 else f"{self.step}[{self.index}]"


@dataclass(frozen=True, slots=True)
class StepError:
    """Why an attempt failed.

    Attributes:
        code: stable.
        retryable: whether another attempt may help.
        category: the error's class where it is not the one of its code; see `error_class`.
    """

    code: str
    message: str
    retryable: bool = True
    category: str = ""

    @property
    def error_class(self) -> str:
        """One of `CLASSES` in crds.failure."""
        return self.category or class_of(self.code)


class StepTask(Struct, frozen=True, gc=False):
    """Work for a worker: one attempt of one step.

    Attributes:
        workflow: the outermost one, whose budget the step spends.
        program: for `agent` the AgentSpec as JSON with its name under `agentName`; for `call` the
            entry point under `entry`.
        inputs: values, with every expression evaluated.
        timeout: seconds for this attempt, from when the worker takes it.
        deadline: Unix time at which the whole run is over, or None.
        traceparent: W3C trace context.
        iteration: of a step that repeats, from 0.
    """

    run: str
    namespace: str
    workflow: str
    key: StepKey
    attempt: int
    kind: Literal["agent", "call"]
    program: dict[str, Any]
    inputs: dict[str, Any]
    timeout: float
    deadline: float | None = None
    traceparent: str = ""
    iteration: int = 0

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of the step: what effects on the outside receive."""
        again = f"#{self.iteration}" if self.iteration else ""
        return f"{self.run}/{self.key}{again}"


class StepResult(Struct, frozen=True, gc=False):
    """What became of one attempt. Exactly one of `error` and (any, also null) `output` counts."""

    run: str
    key: StepKey
    attempt: int
    worker: str
    output: Any = None
    error: StepError | None = None
    started: float = 0.0
    finished: float = 0.0


@dataclass(frozen=True, slots=True)
class Unwanted:
    """Attempts whose results nobody awaits any more, by `attempt_id`: workers stop or drop them."""

    attempts: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ContainerTask:
    """A container step that waits for its Pod; the operator makes the Pod and reports its end."""

    key: StepKey
    attempt: int
    container: dict[str, Any]
    timeout: float


@dataclass(frozen=True, slots=True)
class Parent:
    """The step that a run is the work of.

    Attributes:
        run: the run of that step.
        chain: names of the Workflows around, the outermost first.
        deadline: Unix time at which the step's time is over, or None.
    """

    run: str
    key: StepKey
    attempt: int
    chain: tuple[str, ...]
    deadline: float | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """What the optimiser found: simulated seconds of the plan as written and of the shorter one."""

    applied: bool
    before: float
    after: float
    message: str


@dataclass(frozen=True, slots=True)
class RunRequest:
    """Asks the engine to run a plan.

    Attributes:
        spec: a WorkflowSpec as JSON.
        steps: digest under which the store keeps the steps, where `spec` does not hold them; set by
            the engine.
        parent: for whom it runs; None for the run of an object.
        advice: what the optimiser did to its plan; set by the engine.
    """

    run: str
    namespace: str
    workflow: str
    spec: dict[str, Any]
    traceparent: str = ""
    steps: str = ""
    parent: Parent | None = None

    @property
    def outermost(self) -> str:
        """Name of the Workflow whose object this run is for, whatever it is nested in."""
        return self.parent.chain[0] if self.parent is not None else self.workflow

    advice: Advice | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Execution units by state."""

    total: int = 0
    running: int = 0
    succeeded: int = 0
    failed: int = 0
    skipped: int = 0


@dataclass(frozen=True, slots=True)
class Recent:
    """A step that changed lately."""

    name: str
    state: str
    message: str = ""


@dataclass(frozen=True, slots=True)
class TakenCheckpoint:
    """A checkpoint of a run: its number, UUID, Unix time, stored bytes and compression ratio."""

    number: int
    id: str
    at: float
    size_bytes: int
    ratio: float


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a run began: an earlier run and its checkpoint, or 0; steps taken over and done again."""

    run: str
    checkpoint: int
    taken: int
    again: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A step that waits for a person, an event or a time; `until` is Unix time."""

    step: str
    kind: Literal["approval", "event", "time"]
    message: str
    until: float | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What a person has decided about an approve step, who and why."""

    decision: Literal["approve", "reject"]
    by: str = ""
    comment: str = ""


@dataclass(frozen=True, slots=True)
class RunSummary:
    """All that the operator needs to know of a run; a few KiB whatever the run's size.

    Attributes:
        revision: grows with each change of the run; an older summary never replaces a newer one.
        reason: one word for the phase, such as `StepFailed` or `DeadlineExceeded`.
        parallelism: what the run is held to now; 0 where not told.
        suspended: whether it starts no further step now.
        result: the run's result where it has at most 4 KiB, else None; `result_bytes` tells its size.
        containers: container steps that want a Pod now, at most 100.
        waiting: steps that wait for a person, an event or a time; at most 20, approvals first.
        priority: its share of a Pool that is wanted by several, as it is now.
        eta: Unix time at which it is expected to end; None while nobody knows.
        replans: how often its plan was changed after a failure.
        parent: the run that this one does the work of a step for; empty for the run of an object.
        parent_step: that step, with the index of its item.
        stuck: whether its owner cannot go on with it, since it cannot be read.
    """

    run: str
    namespace: str
    workflow: str
    revision: int
    phase: Phase
    reason: str
    message: str = ""
    parallelism: int = 0
    suspended: bool = False
    counts: Counts = field(default_factory=Counts)
    recent: tuple[Recent, ...] = ()
    started: float | None = None
    finished: float | None = None
    result: Any = None
    result_bytes: int = 0
    containers: tuple[ContainerTask, ...] = ()
    waiting: tuple[Waiting, ...] = ()
    priority: int = 1
    checkpoint: TakenCheckpoint | None = None
    origin: Origin | None = None
    parent: str = ""
    parent_step: str = ""
    eta: float | None = None
    advice: Advice | None = None
    replans: int = 0
    stuck: bool = False
