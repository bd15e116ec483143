"""A run's state: the fold of its records, and the decision what comes next. Pure: no I/O, no clock.

`apply` takes a record in, the same for a live and a resumed run. `advance` decides, applies what it
decided and returns it for the journal; nothing may act on it before the journal holds it. Work per event
does not grow with the run: steps count the needs they still wait for, units that are ready stand in
lanes, one for each Pool or Agent, and a lane that is blocked is left alone.
"""

from __future__ import annotations

import hashlib
import heapq
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import orjson

from seedbed.crds.base import seconds
from seedbed.crds.errors import InvalidError
from seedbed.crds.expressions import Scope
from seedbed.crds.graph import Graph, Node
from seedbed.crds.messages import (
    VALUE_LIMIT,
    RunRequest,
    StepError,
    StepKey,
    StepResult,
    StepTask,
)
from seedbed.crds.workflow import Retry, WorkflowSpec
from seedbed.runtime.workflow.records import (
    Record,
    RunAdjusted,
    RunFinished,
    RunHeld,
    RunStarted,
    StepExpanded,
    StepFailed,
    StepScheduled,
    StepSkipped,
    StepSucceeded,
)
from seedbed.runtime.workflow.world import Blocked, Hands, World

MAX_ITEMS = 100_000
JITTER = 0.2

UnitStatus = Literal["Ready", "Scheduled", "Retrying", "Succeeded", "Failed", "Skipped"]
ENDED = ("Succeeded", "Failed", "Skipped")


@dataclass(slots=True)
class Unit:
    """One execution unit: a step, or one item of a forEach step."""

    key: StepKey
    status: UnitStatus = "Ready"
    attempt: int = 0
    task: StepScheduled | None = None
    output: Any = None
    error: StepError | None = None


@dataclass(slots=True)
class StepState:
    """A step with its units; `items` is None where the step has no forEach."""

    node: Node
    waits_for: int
    items: list[Any] | None = None
    units: list[Unit] = field(default_factory=list)
    open: int = 0
    settled: bool = False


class RunState:
    """One run.

    Args:
        hands: counts the steps that each Pool, by namespace and name, has in hand; shared by all runs.
    """

    def __init__(self, request: RunRequest, hands: Hands | None = None) -> None:
        self.request = request
        self._hands: Hands = Counter() if hands is None else hands
        self.spec = WorkflowSpec.model_validate(request.spec)
        self.graph = Graph.build(self.spec)
        self.revision = 0
        self.started: float | None = None
        self.finished: RunFinished | None = None
        self.held: RunHeld | None = None
        self.suspended = self.spec.suspend
        self.parallelism = self.spec.parallelism
        self.counts: dict[str, int] = dict.fromkeys(("total", "running", *map(str.lower, ENDED)), 0)
        self.recent: deque[tuple[StepKey, str, str]] = deque(maxlen=5)
        self.scheduled: dict[StepKey, Unit] = {}
        self.steps = {
            name: StepState(node, len(node.needs)) for name, node in self.graph.nodes.items()
        }
        self._told: dict[str, dict[str, Any]] = {}
        self._startable: deque[str] = deque(self.graph.roots)
        self._lanes: dict[tuple[str, str], deque[StepKey]] = {}
        self._retries: list[tuple[float, str, int]] = []
        self._unsettled = len(self.steps)
        self._failed: StepKey | None = None
        self._deadline = seconds(self.spec.deadline) if self.spec.deadline else None
        run = {"id": request.run, "namespace": request.namespace, "workflow": request.workflow}
        self._scope = Scope(params=self.spec.params, steps=self._told, run=run)

    # What has happened

    def apply(self, record: Record) -> None:
        """Take a record in."""
        self.revision += 1
        match record:
            case StepSucceeded(key, output=output):
                self._end(self._unit(key), "Succeeded", output=output)
            case StepScheduled(key):
                self._scheduled(self._unit(key), record)
            case StepFailed(key):
                self._failure(self._unit(key), record)
            case StepSkipped(key):
                self._end(self._unit(key), "Skipped")
            case StepExpanded(step, _, items):
                self._expanded(self.steps[step], items)
            case RunStarted(at):
                self.started = at
            case RunAdjusted(_, suspend, parallelism):
                self.suspended, self.parallelism = suspend, parallelism
            case RunHeld():
                self.held = record if record.reason else None
            case RunFinished():
                self.finished = record
                for unit in list(self.scheduled.values()):
                    self._leave(unit)

    def _unit(self, key: StepKey) -> Unit:
        step = self.steps[key.step]
        if key.index < 0 and not step.units:
            self._open(step, [Unit(StepKey(key.step))])
        return step.units[max(key.index, 0)]

    def _open(self, step: StepState, units: list[Unit]) -> None:
        step.units = units
        step.open = len(units)
        self.counts["total"] += len(units)

    def _expanded(self, step: StepState, items: list[Any]) -> None:
        step.items = items
        name = step.node.name
        self._open(step, [Unit(StepKey(name, at)) for at in range(len(items))])
        if not items:
            self._settle(step)

    def _scheduled(self, unit: Unit, record: StepScheduled) -> None:
        before = unit.task
        if before is not None and (record.inputs is None or record.program is None):
            record = _completed(record, before)
        unit.status, unit.attempt, unit.task = "Scheduled", record.attempt, record
        self.counts["running"] += 1
        self.scheduled[unit.key] = unit
        self._hands[self.request.namespace, record.pool] += 1
        self._note(unit, "Running")

    def _failure(self, unit: Unit, record: StepFailed) -> None:
        unit.error, unit.attempt = record.error, record.attempt
        if record.retry_at is None:
            self._end(unit, "Failed", error=record.error)
            if not self.steps[unit.key.step].node.step.allow_failure:
                self._failed = self._failed or unit.key
            return
        self._leave(unit)
        unit.status = "Retrying"
        heapq.heappush(self._retries, (record.retry_at, unit.key.step, unit.key.index))
        self._note(unit, "Retrying", record.error.message)

    def _leave(self, unit: Unit) -> None:
        if self.scheduled.pop(unit.key, None) is not None:
            assert unit.task is not None
            self.counts["running"] -= 1
            self._hands[self.request.namespace, unit.task.pool] -= 1

    def _end(
        self, unit: Unit, status: UnitStatus, *, output: Any = None, error: StepError | None = None
    ) -> None:
        self._leave(unit)
        unit.status, unit.output, unit.error, unit.task = status, output, error, None
        self.counts[status.lower()] += 1
        self._note(unit, status, error.message if error else "")
        step = self.steps[unit.key.step]
        step.open -= 1
        if step.open == 0:
            self._settle(step)

    def _note(self, unit: Unit, state: str, message: str = "") -> None:
        self.recent.appendleft((unit.key, state, message))

    def _settle(self, step: StepState) -> None:
        step.settled = True
        self._unsettled -= 1
        self._told[step.node.name] = _told(step)
        for name in self.graph.dependents[step.node.name]:
            dependent = self.steps[name]
            dependent.waits_for -= 1
            if dependent.waits_for == 0:
                self._startable.append(name)

    # What comes next

    def accept(self, result: StepResult, now: float) -> list[Record]:
        """Take a worker's result in; nothing where this attempt is not awaited any more."""
        unit = self.scheduled.get(result.key)
        if self.finished or unit is None or unit.attempt != result.attempt:
            return []
        error = result.error or _too_large(result.output)
        times = (now, result.worker, result.started, result.finished)
        record: Record
        if error is None:
            record = StepSucceeded(result.key, result.attempt, *times, result.output)
        else:
            retry_at = self._retry_at(result.key, result.attempt, error, now)
            record = StepFailed(result.key, result.attempt, *times, error, retry_at)
        self.apply(record)
        return [record]

    def adjust(self, suspend: bool, parallelism: int, now: float) -> list[Record]:  # noqa: FBT001 -- the message has it so
        """Take over what may change while a run goes on."""
        if self.finished or (suspend, parallelism) == (self.suspended, self.parallelism):
            return []
        record = RunAdjusted(now, suspend, parallelism)
        self.apply(record)
        return [record]

    def cancel(self, reason: str, now: float) -> list[Record]:
        """End the run as failed."""
        return [] if self.finished else self._finish(now, "Failed", "Cancelled", reason)

    def _finish(
        self,
        now: float,
        phase: Literal["Succeeded", "Failed"],
        reason: str,
        message: str,
        result: Any = None,
    ) -> list[Record]:
        record = RunFinished(now, phase, reason, message, result)
        self.apply(record)
        return [record]

    def advance(self, now: float, world: World) -> list[Record]:
        """Decide and apply what follows from the state; returned for the journal."""
        made: list[Record] = []
        if self.finished:
            return made
        if self.started is None:
            started = RunStarted(now)
            self.apply(started)
            made.append(started)
        assert self.started is not None
        if self._deadline is not None and now >= self.started + self._deadline:
            message = f"not finished within {self.spec.deadline}"
            return [*made, *self._finish(now, "Failed", "DeadlineExceeded", message)]
        if not self.suspended:
            made += self._start_all(now, world)
        if self._failed is not None:
            error = self._unit(self._failed).error
            message = f"step {self._failed} failed: {error.message if error else ''}"
            return [*made, *self._finish(now, "Failed", "StepFailed", message)]
        if self._unsettled == 0:
            made += self._complete(now)
        return made

    def catch_up(self) -> None:
        """After a replay: what waits is what the journal has not started yet."""
        self._startable = deque(name for name in self._startable if not self.steps[name].units)
        self._retries = [
            each for each in self._retries if self._unit(StepKey(*each[1:])).status == "Retrying"
        ]
        heapq.heapify(self._retries)
        for step in self.steps.values():
            for unit in step.units:
                if unit.status == "Ready":
                    self._queue(unit.key)

    def due(self) -> float | None:
        """When something will have to be decided although nothing happens."""
        times = [self._retries[0][0]] if self._retries else []
        if self._deadline is not None and self.started is not None:
            times.append(self.started + self._deadline)
        return min(times) if times else None

    def _start_all(self, now: float, world: World) -> list[Record]:
        scope = self._scope_in(world)
        made: list[Record] = []
        while self._retries and self._retries[0][0] <= now:
            _, step, index = heapq.heappop(self._retries)
            self._queue(StepKey(step, index))
        blocked: Blocked | None = None
        progress = True
        while progress and self._failed is None:
            before = len(made)
            while self._startable and self._failed is None:
                made += self._open_step(self.steps[self._startable.popleft()], scope, now)
            for lane in list(self._lanes):
                blocked = self._drain(lane, scope, now, world, made) or blocked
            progress = len(made) > before and bool(self._startable)
        return [*made, *self._hold(blocked, now)]

    def _scope_in(self, world: World) -> Scope:
        scope, namespace = self._scope, self.request.namespace

        def flag(name: str, subject: str | None) -> bool:
            return world.flag(namespace, name, subject)

        return Scope(params=scope.params, steps=scope.steps, run=scope.run, flag=flag)

    def _open_step(self, step: StepState, scope: Scope, now: float) -> list[Record]:
        key = StepKey(step.node.name)
        if step.node.for_each is None:
            self._queue(key)
            return []
        try:
            items = step.node.for_each.evaluate(scope)
            if not isinstance(items, list):
                raise InvalidError(step.node.for_each.field, "must give a list")
            if len(items) > MAX_ITEMS:
                raise InvalidError(step.node.for_each.field, f"gives more than {MAX_ITEMS} items")
        except InvalidError as error:
            return self._cannot_start(key, error, now)
        record = StepExpanded(key.step, now, items)
        self.apply(record)
        for unit in step.units:
            self._queue(unit.key)
        return [record]

    def _queue(self, key: StepKey) -> None:
        self._lanes.setdefault(self._lane(key.step), deque()).append(key)

    def _lane(self, name: str) -> tuple[str, str]:
        step = self.steps[name].node.step
        if step.container:
            return "container", ""
        if step.agent and not step.pool:
            return "agent", step.agent.name
        pool = (step.pool or self.spec.pool).name
        return (f"agent/{step.agent.name}" if step.agent else "pool"), pool

    def _drain(
        self, lane: tuple[str, str], scope: Scope, now: float, world: World, made: list[Record]
    ) -> Blocked | None:
        """Start units of a lane until it is empty or blocked; says what blocks it for lack of a thing."""
        waiting = self._lanes[lane]
        while waiting and self._failed is None:
            if self.counts["running"] >= self.parallelism:
                return None
            step = self.steps[waiting[0].step].node.step
            place = world.place(self.request.namespace, step, self.spec)
            if isinstance(place, Blocked):
                return place if place.missing else None
            key = waiting.popleft()
            records = self._start(key, scope, now, place.pool, place.program, place.timeout)
            made += records
        if not waiting:
            self._lanes.pop(lane, None)
        return None

    def _start(
        self,
        key: StepKey,
        scope: Scope,
        now: float,
        pool: str,
        program: dict[str, Any],
        timeout: float,
    ) -> list[Record]:
        step = self.steps[key.step]
        node, unit = step.node, self._unit(key)
        if step.items is not None:
            scope = scope.at(key.index, step.items[key.index])
        try:
            if unit.attempt == 0 and node.when is not None and not _truth(node, scope):
                record: Record = StepSkipped(key, now)
                self.apply(record)
                return [record]
            again = unit.task is not None
            inputs = None if again else node.body.render(scope)
        except InvalidError as error:
            return self._cannot_start(key, error, now)
        kind: Literal["agent", "call", "container"] = (
            "agent" if node.step.agent else "call" if node.step.call else "container"
        )
        if kind == "container" and inputs is not None:
            program, inputs = {**program, **inputs}, {}
        same = unit.task is not None and (kind == "container" or unit.task.program == program)
        record = StepScheduled(
            key, unit.attempt + 1, now, kind, pool, timeout, inputs, None if same else program
        )
        self.apply(record)
        return [record]

    def _cannot_start(self, key: StepKey, error: InvalidError, now: float) -> list[Record]:
        failure = StepError(error.code, error.message, retryable=False)
        record = StepFailed(key, 0, now, "", now, now, failure, None)
        self.apply(record)
        return [record]

    def _hold(self, blocked: Blocked | None, now: float) -> list[Record]:
        reason, message = (blocked.reason, blocked.message) if blocked else ("", "")
        current = (self.held.reason, self.held.message) if self.held else ("", "")
        if (reason, message) == current:
            return []
        record = RunHeld(now, reason, message)
        self.apply(record)
        return [record]

    def _complete(self, now: float) -> list[Record]:
        try:
            result = self._result()
        except InvalidError as error:
            return self._finish(now, "Failed", "ResultInvalid", str(error))
        ended = self.counts["total"]
        return self._finish(now, "Succeeded", "Succeeded", f"all {ended} steps ended", result)

    def _result(self) -> Any:
        if self.graph.result is not None:
            return self.graph.result.evaluate(self._scope)
        leaves = self.graph.leaves
        if len(leaves) == 1:
            return self._told[leaves[0]]["output"]
        return {name: self._told[name]["output"] for name in leaves}

    def _retry_at(self, key: StepKey, attempt: int, error: StepError, now: float) -> float | None:
        policy = self.steps[key.step].node.step.retry or self.spec.retry
        if not error.retryable or attempt >= policy.attempts:
            return None
        return now + backoff(policy, f"{self.request.run}/{key}/{attempt}", attempt)

    def task(self, unit: Unit) -> StepTask:
        """The message to a worker for a scheduled unit."""
        record = unit.task
        assert record is not None
        assert record.kind != "container"
        end = None
        if self._deadline is not None and self.started is not None:
            end = self.started + self._deadline
        return StepTask(
            self.request.run,
            self.request.namespace,
            self.request.workflow,
            unit.key,
            unit.attempt,
            record.kind,
            record.program or {},
            record.inputs or {},
            record.timeout,
            end,
            self.request.traceparent,
        )

    def containers(self) -> Iterator[Unit]:
        """Scheduled units that want a Pod."""
        for unit in self.scheduled.values():
            if unit.task is not None and unit.task.kind == "container":
                yield unit


def backoff(policy: Retry, seed: str, attempt: int) -> float:
    """Seconds to wait after a failed attempt: doubled each time, bounded, with a jitter of 20 %.

    The jitter depends on the seed only, so that a resumed run decides the same.
    """
    wait = min(seconds(policy.backoff) * 2.0 ** (attempt - 1), seconds(policy.max_backoff))
    share = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big") / 2**32
    return wait * (1 - JITTER + 2 * JITTER * share)


def _completed(record: StepScheduled, before: StepScheduled) -> StepScheduled:
    inputs = before.inputs if record.inputs is None else record.inputs
    program = before.program if record.program is None else record.program
    return StepScheduled(
        record.key,
        record.attempt,
        record.at,
        record.kind,
        record.pool,
        record.timeout,
        inputs,
        program,
    )


def _told(step: StepState) -> dict[str, Any]:
    """What expressions see of a step that has ended."""
    errors = [
        None if u.error is None else {"code": u.error.code, "message": u.error.message}
        for u in step.units
    ]
    if step.items is not None:
        failed = any(unit.status == "Failed" for unit in step.units)
        outputs = [unit.output for unit in step.units]
        return {"output": outputs, "error": errors, "state": "Failed" if failed else "Succeeded"}
    unit = step.units[0]
    return {"output": unit.output, "error": errors[0], "state": unit.status}


def _truth(node: Node, scope: Scope) -> bool:
    assert node.when is not None
    value = node.when.evaluate(scope)
    if not isinstance(value, bool):
        raise InvalidError(node.when.field, "must give true or false")
    return value


def _too_large(output: Any) -> StepError | None:
    size = len(orjson.dumps(output, option=orjson.OPT_NON_STR_KEYS))
    if size <= VALUE_LIMIT:
        return None
    return StepError(
        "value_too_large", f"output has {size} bytes, at most {VALUE_LIMIT}", retryable=False
    )
