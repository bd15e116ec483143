"""What operator, engine and workers tell each other. JSON on the wire, frozen objects inside.

A run is one execution of a Workflow's plan. Its id is the Workflow's UID with a digest of the plan,
so that submitting twice is harmless and an edited plan is another run. A step's key is
`(run, step, index)`; effects on the outside world receive it, results are accepted by it.

What each step makes is a struct, which takes a fifth of a frozen dataclass's time to make and to hash,
and which the garbage collector need not look at, since JSON has no cycles.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, TypeVar, cast

import msgspec
import orjson
from msgspec import Struct

from seedbed.crds.errors import InvalidError
from seedbed.crds.failure import class_of
from seedbed.crds.workflow import WorkflowSpec
from seedbed.crds.workflow_status import Phase

PARTITIONS = 16
INLINE_LIMIT = 64 * 1024
"""Bytes up to which a value travels and is journalled inline."""
VALUE_LIMIT = 4 * 1024 * 1024
"""Bytes that one step's output may have."""
RESULT_PREVIEW_LIMIT = 4 * 1024
"""Bytes up to which a run's result stands in the Workflow's status."""

# Fields of a Workflow's spec that may change while a run goes on; all others make another run.
LIVE_FIELDS = ("suspend", "parallelism", "priority", "checkpoint", "approvals", "budget")

_PLAN_DIGITS = 8

_T = TypeVar("_T")


def run_id(uid: str, spec: WorkflowSpec, document: str = "") -> str:
    """Id of the run of this plan: `UID-digest`, with eight hexadecimal digits of the plan.

    Fields that say what holds without them do not count, so that a version with new fields finds the
    runs of the one before it.

    Args:
        uid: the Workflow's.
        spec: the plan.
        document: text with the steps, where they come from a ConfigMap.
    """
    plan = spec.model_dump(
        mode="json", by_alias=True, exclude=set(LIVE_FIELDS), exclude_defaults=True
    )
    canonical = orjson.dumps(plan, option=orjson.OPT_SORT_KEYS)
    return f"{uid}-{hashlib.sha256(canonical + document.encode()).hexdigest()[:_PLAN_DIGITS]}"


def is_own(run: str) -> bool:
    """Whether a run carries out a Workflow's own plan, and not a step of it; told from its id."""
    return len(run.rpartition("-")[2]) == _PLAN_DIGITS


def child_id(parent: str, key: StepKey, attempt: int) -> str:
    """Id of the run that does the work of one attempt of a `workflow` step.

    It begins with the UID of the Workflow, as all ids do, and is the same whenever it is asked for, so
    that asking twice is harmless.
    """
    name = f"{parent}/{key}/{attempt}"
    return f"{parent.rpartition('-')[0]}-{hashlib.sha256(name.encode()).hexdigest()[:24]}"


@lru_cache(maxsize=4096)
def partition_of(run: str) -> int:
    """The partition, 0 to 15, that a run belongs to for ever."""
    return int.from_bytes(hashlib.sha256(run.encode()).digest()[:4], "big") % PARTITIONS


def work_queue(namespace: str, pool: str) -> str:
    """Name of the work queue that the workers of a Pool pull from."""
    return f"{namespace}.{pool}"


def engine_address(partition: int) -> str:
    """Where the owner of a partition takes requests."""
    return f"engine.{partition}"


def unwanted_topic(namespace: str) -> str:
    """Where engines tell the workers of a namespace which attempts are `Unwanted`."""
    return f"unwanted.{namespace}"


def attempt_id(run: str, key: StepKey, attempt: int) -> str:
    """Names one attempt of one execution unit."""
    return f"{run}/{key}/{attempt}"


def summaries_topic(partition: int) -> str:
    """Where the owner of a partition publishes a RunSummary after each change."""
    return f"runs.{partition}"


SETTING_PREFIXES = ("agents/", "flags/", "pools/", "seedlayers/", "templates/", "workflows/")
"""Where the live settings of Agents, FeatureFlags, Pools, SeedLayers, templates and Workflows stand."""


def worker_address(worker: str) -> str:
    """Where a worker answers a `StepTask` at once with its `StepResult`, beside the queue of its Pool."""
    return f"worker.{worker}"


def agent_setting(namespace: str, name: str = "") -> str:
    """Key of the live setting that holds an Agent's spec; the prefix of all where no name is given."""
    return f"agents/{namespace}/{name}"


def flag_setting(namespace: str, name: str = "") -> str:
    """Key of the live setting that holds a FeatureFlag's spec."""
    return f"flags/{namespace}/{name}"


def template_setting(namespace: str, name: str = "") -> str:
    """Key of the live setting that holds the spec of a Workflow that is a template."""
    return f"templates/{namespace}/{name}"


def pool_setting(namespace: str, name: str = "") -> str:
    """Key of the live setting that holds a Pool's spec."""
    return f"pools/{namespace}/{name}"


class StepKey(Struct, frozen=True, gc=False):
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


# What the engine is asked, as `{"op": ..., ...}`; each answer is a JSON object, `{"error": {...}}`
# with code and message where it was refused.


@dataclass(frozen=True, slots=True)
class Submit:
    """Run a plan; answered with its RunSummary. Submitting the same run again changes nothing.

    Attributes:
        document: text with the steps, where the spec takes them from a ConfigMap.
        packed: whether the text is Base64 of bytes.
    """

    request: RunRequest
    document: str = ""
    packed: bool = False
    op: Literal["submit"] = "submit"


@dataclass(frozen=True, slots=True)
class Adjust:
    """Change what may change while a run goes on; answered with the RunSummary.

    Attributes:
        approvals: decisions, by step; those about steps that have ended change nothing.
        priority: None leaves it as it is.
    """

    run: str
    suspend: bool
    parallelism: int
    approvals: dict[str, Decision] = field(default_factory=dict)
    priority: int | None = None
    op: Literal["adjust"] = "adjust"


@dataclass(frozen=True, slots=True)
class Approve:
    """Decide about an approve step; answered with the RunSummary."""

    run: str
    step: str
    decision: Decision
    op: Literal["approve"] = "approve"


@dataclass(frozen=True, slots=True)
class Signal:
    """Tell a run of an event; answered with the RunSummary.

    Attributes:
        id: the sender's; an event of an id that came before counts once.
        by: who sent it.
    """

    run: str
    event: str
    id: str
    payload: Any = None
    by: str = ""
    op: Literal["signal"] = "signal"


@dataclass(frozen=True, slots=True)
class Cancel:
    """End a run; answered with the RunSummary. Unknown runs are no error."""

    run: str
    reason: str
    op: Literal["cancel"] = "cancel"


class Report(Struct, frozen=True, gc=False):
    """A step's result; answered `{}` when the result is journalled."""

    result: StepResult
    op: Literal["report"] = "report"


class ReportMany(Struct, frozen=True, gc=False):
    """Results of steps of one partition; answered as a `Reported` when they are journalled."""

    results: tuple[StepResult, ...]
    op: Literal["report_many"] = "report_many"


class Reported(Struct, frozen=True, gc=False):
    """What became of results.

    Attributes:
        again: which of them, by position, have to be sent again in a while.
        ended: runs that have ended: what is left of their steps is of no use.
    """

    again: tuple[int, ...] = ()
    ended: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Summarise:
    """Asks for a run's RunSummary; answered with it, or with the error `not_found`."""

    run: str
    op: Literal["summarise"] = "summarise"


@dataclass(frozen=True, slots=True)
class TakeCheckpoint:
    """Take a checkpoint of a run under way now; answered with it, as a TakenCheckpoint."""

    run: str
    op: Literal["checkpoint"] = "checkpoint"


@dataclass(frozen=True, slots=True)
class ListActive:
    """Asks which runs of the partition have not finished; answered `{"runs": [id, ...]}`."""

    op: Literal["active"] = "active"


EngineRequest = (
    Submit
    | Adjust
    | Approve
    | Signal
    | Cancel
    | Report
    | ReportMany
    | Summarise
    | ListActive
    | TakeCheckpoint
)


_ENCODER = msgspec.json.Encoder()
_DECODERS: dict[type, msgspec.json.Decoder[Any]] = {}


def _decoder(form: type) -> msgspec.json.Decoder[Any]:
    if form not in _DECODERS:
        _DECODERS[form] = msgspec.json.Decoder(form)
    return _DECODERS[form]


class _Op(Struct):
    op: str


def encode(message: Any) -> bytes:
    """A message as JSON."""
    try:
        return _ENCODER.encode(message)
    except TypeError:
        # Values may hold what only the other one takes, such as keys that are no text.
        return orjson.dumps(message, msgspec.structs.asdict, orjson.OPT_NON_STR_KEYS)


def decode(form: type[_T], data: bytes) -> _T:
    """A message from JSON.

    Raises:
        InvalidError: naming the first field that is not as expected.
    """
    try:
        return cast("_T", _decoder(form).decode(data))
    except msgspec.ValidationError as error:
        problem, _, where = str(error).partition(" - at `$")
        field = where.removesuffix("`").replace("[", ".").replace("]", "").strip(".")
        raise InvalidError(field or "message", problem) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidError("message", f"must be JSON: {error}") from error


_REQUESTS: dict[str, Any] = {
    "submit": Submit,
    "adjust": Adjust,
    "approve": Approve,
    "signal": Signal,
    "cancel": Cancel,
    "report": Report,
    "report_many": ReportMany,
    "summarise": Summarise,
    "active": ListActive,
    "checkpoint": TakeCheckpoint,
}


def decode_request(data: bytes) -> EngineRequest:
    """An engine request from JSON; see `decode`."""
    try:
        form = _REQUESTS[decode(_Op, data).op]
    except (InvalidError, KeyError) as error:
        raise InvalidError("op", f"expected one of {', '.join(_REQUESTS)}") from error
    return cast("EngineRequest", decode(form, data))
