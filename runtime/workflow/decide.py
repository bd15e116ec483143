"""What comes next in a run. Pure: the same state, time and world give the same records.

Each function decides, applies what it decided to the state and returns it for the journal; nothing may
act on it before the journal holds it. Units that are ready stand in lanes, one for each thing that could
block them (a Pool, an Agent), so that a blocked lane costs one look however many units stand in it.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from contextlib import suppress

from msgspec.structs import replace

from seedbed.crds.engine_requests import Adjust, Approve, Cancel, Signal
from seedbed.crds.errors import SeedbedError
from seedbed.crds.expressions import Pending, Scope
from seedbed.crds.messages import Decision, StepKey, StepResult
from seedbed.runtime.workflow.ending import cancel, complete, failing, run_out, undo
from seedbed.runtime.workflow.engine_steps import approve, expire, receive
from seedbed.runtime.workflow.failures import failed
from seedbed.runtime.workflow.fitting import check_value, unfit
from seedbed.runtime.workflow.lanes import EARLY, queue
from seedbed.runtime.workflow.loops import turned
from seedbed.runtime.workflow.opening import anticipate, open_step
from seedbed.runtime.workflow.overflow import put_off
from seedbed.runtime.workflow.records import (
    EventReceived,
    Record,
    RunAdjusted,
    RunHeld,
    RunStarted,
    StepAnticipated,
    StepSucceeded,
)
from seedbed.runtime.workflow.starting import drain, make_room
from seedbed.runtime.workflow.state import RunState, made
from seedbed.runtime.workflow.world import Blocked, World


def accept(state: RunState, result: StepResult, now: float) -> list[Record]:
    """Take a worker's result in; nothing where this attempt is not awaited any more."""
    if not state.awaits(result.key, result.attempt):
        return []
    node = state.steps[result.key.step].node
    error = result.error or unfit(result.output, followed=node.name in state.graph.followed)
    times = (now, result.worker, result.started, result.finished)
    if error is None and node.turns:
        return turned(state, result, now)
    if error is None and node.early and state.anticipates(result.key):
        return made(state, StepAnticipated(result.key, result.attempt, *times, result.output))
    if error is None:
        return made(state, StepSucceeded(result.key, result.attempt, *times, output=result.output))
    return failed(state, result.key, result.attempt, times, error)


def _take_late(state: RunState, now: float) -> list[Record]:
    """Take in what came while nobody could go on with the run, before its time limits count."""
    late, state.late = state.late, []
    decided: list[Record] = []
    for each in late:
        what = (each.worker, each.output, each.error, each.started, each.finished)
        result = StepResult(state.request.run, each.key, each.attempt, *what)
        try:
            decided += accept(state, result, now)
        except Pending:
            state.late.append(each)
    return decided


def asked(state: RunState, request: Adjust | Approve | Signal | Cancel, now: float) -> list[Record]:
    """Do what somebody asks of the run.

    Raises:
        SeedbedError: it cannot be done; nothing was changed.
    """
    match request:
        case Adjust():
            return adjust(
                state,
                suspend=request.suspend,
                parallelism=request.parallelism,
                approvals=request.approvals,
                priority=request.priority,
                now=now,
            )
        case Approve(_, step, decision):
            return approve(state, step, decision, now)
        case Signal(_, name, identity, payload, by):
            check_value(payload, "payload")
            return receive(state, EventReceived(name, identity, now, by, payload))
        case Cancel(_, reason):
            return cancel(state, reason, now)


def adjust(
    state: RunState,
    *,
    suspend: bool,
    parallelism: int,
    approvals: Mapping[str, Decision] | None = None,
    priority: int | None = None,
    now: float,
) -> list[Record]:
    """Take over what may change while a run goes on."""
    if state.finished:
        return []
    decided: list[Record] = []
    wanted = (suspend, parallelism, state.priority if priority is None else priority)
    if wanted != (state.suspended, state.parallelism, state.priority):
        decided += made(state, RunAdjusted(now, *wanted))
    for step, decision in (approvals or {}).items():
        # About steps that are not there, or have ended, nothing is left to decide.
        with suppress(SeedbedError):
            decided += approve(state, step, decision, now)
    return decided


def advance(state: RunState, now: float, world: World) -> list[Record]:
    """All that follows from the state now.

    A step that fails for good fails the run at once: no further step starts, and what running steps
    still report is not awaited, unless what was done has to be undone.
    """
    if state.starved:
        state.starved = False
        world.shares.leave(state.request.run)
    if state.finished:
        return []
    decided = [] if state.started is not None else made(state, RunStarted(now))
    if state.late:
        decided += _take_late(state, now)
    if world.shedding.asked:
        decided += put_off(state, world.shedding.asked.pop(state.request.run, {}), now)
    over = state.ends
    if over is not None and now >= over:
        decided += run_out(state, now)
    if state.is_undone:
        decided += undo(state, now)
    scope = _scope(state, world)
    if not state.suspended and state.failed is None and state.finished is None:
        decided += _start_all(state, scope, now, world)
    outcome: list[Record] = []
    if state.failed is not None:
        outcome = failing(state, now)
    elif state.unsettled == 0 and state.finished is None and not state.is_undone:
        outcome = complete(state, scope, now)
    if outcome and state.finished is None:
        return [*decided, *outcome, *advance(state, now, world)]
    return [*decided, *outcome]


def _scope(state: RunState, world: World) -> Scope:
    namespace = state.request.namespace

    def flag(name: str, subject: str | None) -> bool:
        return world.flag(namespace, name, state.request.run if subject is None else subject)

    return replace(state.scope, flag=flag)


def _start_all(state: RunState, scope: Scope, now: float, world: World) -> list[Record]:
    decided: list[Record] = []
    while state.retries and state.retries[0][0] <= now:
        at, step, index = heapq.heappop(state.retries)
        unit = state.unit(StepKey(step, index))
        if unit.retry_at != at:
            continue
        if unit.status == "Retrying":
            queue(state, unit)
        elif unit.status == "Waiting":
            decided += expire(state, unit.key, now)
    blocked: Blocked | None = None
    later: list[str] = []
    again = True
    while again and state.failed is None:
        while state.startable and state.failed is None:
            name = state.startable.popleft()
            try:
                decided += open_step(state, name, scope, now)
            except Pending:
                later.append(name)
        while state.early:
            anticipate(state, state.early.popleft())
        for lane in sorted(state.lanes):
            stopped = drain(state, lane, scope, now, world, decided)
            if stopped is not None and not stopped.missing:
                stopped = make_room(state, lane, stopped, scope, now, world, decided)
            # What may not be needed at all holds nothing up.
            if stopped is not None and stopped.missing and lane[0] != EARLY:
                blocked = blocked or stopped
        again = bool(state.startable)
    state.startable.extend(later)
    return [*decided, *_hold(state, blocked or world.left(state), now)]


def _hold(state: RunState, blocked: Blocked | None, now: float) -> list[Record]:
    """Journal what steps wait for, where that has changed."""
    told = (blocked.reason, blocked.message) if blocked else ("", "")
    if told == ((state.held.reason, state.held.message) if state.held else ("", "")):
        return []
    return made(state, RunHeld(now, *told))
