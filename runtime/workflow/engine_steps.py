"""Steps that the engine carries out itself: branches, approvals, waits. Pure.

A step that waits costs nothing but its place in the heap of times. Whatever ends the wait is journalled
with its outcome in one group: a decision, an event, or that its time is over.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from seedbed.crds.base import seconds
from seedbed.crds.errors import ConflictError, InvalidError, NotFoundError, QueueFullError
from seedbed.crds.expressions import Scope
from seedbed.crds.graph import Node
from seedbed.crds.messages import Decision, StepError, StepKey
from seedbed.runtime.workflow.failures import failed, refused
from seedbed.runtime.workflow.records import (
    ApprovalGiven,
    EventReceived,
    Record,
    StepSkipped,
    StepSucceeded,
    StepWaiting,
)
from seedbed.runtime.workflow.state import RunState, made

ENGINE = "engine"
"""Who ends a step that no worker executes."""


def enter(state: RunState, node: Node, scope: Scope, now: float) -> list[Record]:
    """Begin a step whose turn has come."""
    key = StepKey(node.name)
    unit = state.unit(key)
    if unit.status != "Ready":
        return []
    try:
        if node.when is not None and not node.when.holds(scope):
            return made(state, StepSkipped(key, now))
        if node.choice is not None:
            arm = "then" if node.choice.holds(scope) else "else"
            return _succeed(state, key, now, now, arm)
        if node.step.approve is not None:
            return _ask(state, node, scope, now)
        return _wait(state, node, scope, now)
    except InvalidError as error:
        return refused(state, key, error, now)


def expire(state: RunState, key: StepKey, now: float) -> list[Record]:
    """The time of a step that waits is over."""
    step, wait = state.steps[key.step].node.step, state.inbox.waiting[key]
    if step.approve is not None:
        return _decided(state, key, Decision(step.approve.default, comment="nobody decided"), now)
    if wait.event:
        message = f"no event {wait.event!r} came in time"
        return _fail(state, key, wait.at, now, StepError("timeout", message, retryable=False))
    return _succeed(state, key, wait.at, now, None)


def approve(state: RunState, step: str, decision: Decision, now: float) -> list[Record]:
    """Take a person's decision in; one that comes before the step waits counts when it does.

    Raises:
        NotFoundError: there is no such step.
        InvalidError: it is no approve step.
        ConflictError: it has been decided, its time is over, or it will not come to its turn.
    """
    known = state.steps.get(step)
    if known is None:
        raise NotFoundError("step", step)
    if known.node.step.approve is None:
        raise InvalidError(f"step {step}", "is no approve step")
    decided = known.units and known.units[0].status not in ("Ready", "Waiting")
    if known.settled or decided or state.finished is not None:
        raise ConflictError(f"step {step} has been decided already")
    if (state.undoing or state.ending) and step not in state.graph.exits:
        raise ConflictError(f"the run ends: nothing follows a decision about step {step} any more")
    wait = state.inbox.waiting.get(StepKey(step))
    if wait is not None and _is_over(wait, now):
        raise ConflictError(f"the time to decide about step {step} is over")
    if state.inbox.approvals.get(step) == decision:
        return []
    records = made(state, ApprovalGiven(step, now, decision))
    if wait is not None:
        records += _decided(state, StepKey(step), decision, now)
    return records


def receive(state: RunState, event: EventReceived) -> list[Record]:
    """Take an event in: every step that waits for it ends; else it is kept for the next that will.

    Raises:
        ConflictError: the run has ended.
        QueueFullError: too many events are kept.
    """
    if state.inbox.knows(event):
        return []
    if state.finished is not None:
        raise ConflictError(f"run {state.request.run} has ended")
    waiting = [
        key
        for key in state.inbox.waiting_for(event.name)
        if not _is_over(state.inbox.waiting[key], event.at)
    ]
    if not waiting and state.inbox.is_full:
        raise QueueFullError(f"events of {state.request.run}", state.inbox.kept)
    records = made(state, event)
    for key in waiting:
        began = state.inbox.waiting[key].at
        records += _succeed(state, key, began, event.at, event.payload)
    return records


def _ask(state: RunState, node: Node, scope: Scope, now: float) -> list[Record]:
    asked = node.step.approve
    assert asked is not None
    key = StepKey(node.name)
    message = str(node.body.render(scope)["message"])
    until = now + seconds(asked.deadline) if asked.deadline else None
    records = made(state, StepWaiting(key, now, until, message))
    decision = state.inbox.approvals.get(node.name)
    return records if decision is None else [*records, *_decided(state, key, decision, now)]


def _wait(state: RunState, node: Node, scope: Scope, now: float) -> list[Record]:
    wait = node.step.wait
    assert wait is not None
    key = StepKey(node.name)
    if wait.event is not None:
        until = now + seconds(wait.timeout) if wait.timeout else None
        message = f"waits for the event {wait.event}"
        records = made(state, StepWaiting(key, now, until, message, wait.event))
        event = state.inbox.next(wait.event)
        return (
            records if event is None else [*records, *_succeed(state, key, now, now, event.payload)]
        )
    if wait.duration is not None:
        until = now + seconds(wait.duration)
    else:
        assert node.until is not None
        until = _time(node.until.evaluate(scope), node.until.field)
    told = datetime.fromtimestamp(until, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return made(state, StepWaiting(key, now, until, f"waits until {told}"))


def _time(value: Any, field: str) -> float:
    """Unix time of what an expression gave: a timestamp, or text of one."""
    try:
        found = datetime.fromisoformat(value)
        if found.tzinfo is None:
            raise InvalidError(field, f"must give a time with its zone, such as {value}Z")
        return found.astimezone(UTC).timestamp()
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidError(field, f"must give a time, not {value!r:.60}") from error


def _is_over(wait: StepWaiting, now: float) -> bool:
    """Whether a wait has ended by itself, also where nobody has looked since, as while suspended."""
    return wait.until is not None and now >= wait.until


def _decided(state: RunState, key: StepKey, decision: Decision, now: float) -> list[Record]:
    began = state.inbox.waiting[key].at
    if decision.decision == "approve":
        told = {"decision": "approve", "by": decision.by, "comment": decision.comment}
        return _succeed(state, key, began, now, told)
    by = f" by {decision.by}" if decision.by else ""
    why = f": {decision.comment}" if decision.comment else ""
    error = StepError("rejected", f"rejected{by}{why}", retryable=False)
    return _fail(state, key, began, now, error)


def _succeed(state: RunState, key: StepKey, began: float, now: float, output: Any) -> list[Record]:
    return made(state, StepSucceeded(key, 1, now, ENGINE, began, now, output))


def _fail(
    state: RunState, key: StepKey, began: float, now: float, error: StepError
) -> list[Record]:
    return failed(state, key, 0, (now, ENGINE, began, now), error)
