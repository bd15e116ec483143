"""What comes next in a run. Pure: the same state, time and world give the same records.

Each function decides, applies what it decided to the state and returns it for the journal; nothing may
act on it before the journal holds it. Units that are ready stand in lanes, one for each thing that could
block them (a Pool, an Agent), so that a blocked lane costs one look however many units stand in it.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from msgspec.structs import replace

from seedbed.crds.errors import InvalidError, SeedbedError
from seedbed.crds.expressions import Scope
from seedbed.crds.graph import Node
from seedbed.crds.messages import (
    VALUE_LIMIT,
    Adjust,
    Approve,
    Cancel,
    Decision,
    Signal,
    StepError,
    StepKey,
    StepResult,
)
from seedbed.crds.values import written
from seedbed.crds.workflow import Step
from seedbed.runtime.workflow.ending import cancel, complete, failing, run_out, undo
from seedbed.runtime.workflow.engine_steps import approve, enter, expire, receive
from seedbed.runtime.workflow.entering import AsLeft, barred
from seedbed.runtime.workflow.failures import failed, refused
from seedbed.runtime.workflow.item_order import ItemOrder
from seedbed.runtime.workflow.lanes import queue, queue_early, rank_of
from seedbed.runtime.workflow.loops import turned
from seedbed.runtime.workflow.nesting import check_depth
from seedbed.runtime.workflow.overflow import overflowed, put_off
from seedbed.runtime.workflow.records import (
    EventReceived,
    Record,
    RunAdjusted,
    RunHeld,
    RunStarted,
    StepAnticipated,
    StepExpanded,
    StepKind,
    StepScheduled,
    StepSkipped,
    StepSucceeded,
)
from seedbed.runtime.workflow.state import Lane, RunState, made
from seedbed.runtime.workflow.units import StepState, Unit
from seedbed.runtime.workflow.world import Blocked, Place, World

MAX_ITEMS = 100_000
"""Items that one forEach may have."""
_WAITING = ("Ready", "Retrying")


def accept(state: RunState, result: StepResult, now: float) -> list[Record]:
    """Take a worker's result in; nothing where this attempt is not awaited any more."""
    if not state.awaits(result.key, result.attempt):
        return []
    node = state.steps[result.key.step].node
    error = result.error or _unfit(result.output, followed=node.name in state.graph.followed)
    times = (now, result.worker, result.started, result.finished)
    if error is None and node.turns:
        return turned(state, result, now)
    if error is None and node.early and state.anticipates(result.key):
        return made(state, StepAnticipated(result.key, result.attempt, *times, result.output))
    if error is None:
        return made(state, StepSucceeded(result.key, result.attempt, *times, output=result.output))
    return failed(state, result.key, result.attempt, times, error)


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
            _check_value(payload, "payload")
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
    if world.shedding.asked:
        decided += put_off(state, world.shedding.asked.pop(state.request.run, {}), now)
    over = state.ends
    if over is not None and now >= over:
        decided += run_out(state, now)
    elif state.is_undone:
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
    again = True
    while again and state.failed is None:
        while state.startable and state.failed is None:
            decided += _open(state, state.startable.popleft(), scope, now)
        while state.early:
            _anticipate(state, state.early.popleft())
        for lane in sorted(state.lanes):
            stopped = _drain(state, lane, scope, now, world, decided)
            if stopped is not None and not stopped.missing:
                stopped = _overflow(state, lane, stopped, scope, now, world, decided)
            blocked = blocked or (stopped if stopped and stopped.missing else None)
        again = bool(state.startable)
    return [*decided, *_hold(state, blocked, now)]


def _open(state: RunState, name: str, scope: Scope, now: float) -> list[Record]:
    """Put the units of a step whose needs have ended into their lane; expand it first."""
    step = state.steps[name]
    decided: list[Record] = []
    if step.settled:
        return decided
    if step.order is not None or step.more:
        return [*_rest(state, step, now), *_queue_units(state, step, now)]
    if step.join is not None:
        scope = _early(state, step.node, scope)
    way = _way(state, step, now)
    if way is not None:
        return way
    if step.node.by_engine:
        return enter(state, step.node, scope, now)
    if step.node.for_each is not None and step.items is None:
        try:
            items = _items(step.node, scope) if _is_yielded(state, step.node) else []
        except InvalidError as error:
            return refused(state, StepKey(name), error, now)
        decided = made(state, StepExpanded(name, now, items))
    elif not step.units:
        state.unit(StepKey(name))
    return [*decided, *_queue_units(state, step, now)]


def _queue_units(state: RunState, step: StepState, now: float) -> list[Record]:
    """Put the units into their lane that have nothing to wait for any more."""
    decided: list[Record] = []
    units = step.units
    if step.order is not None:
        units = [units[place] for place in step.order.take()]
    elif step.node.follows:
        units, step.queued = units[step.queued :], len(units)
    for unit in units:
        if unit.status == "Ready":
            queue(state, unit)
        elif unit.status == "Held":
            decided += _commit(state, state.kept[unit.key], now)
    return decided


def arrived(
    state: RunState, name: str, attempt: int, first: int, items: list[Any], now: float
) -> list[Record]:
    """Take items in for a step that follows another, whose attempt has yielded them from `first` on.

    An item counts by its number: those that are known already are left out.
    """
    step = state.steps[name]
    if step.settled or step.waits_for != 1 or state.failed or state.undoing or state.ending:
        return []
    known = len(step.items or ())
    new = items[known - first :] if first <= known else []
    goes_on = state.awaits(StepKey(step.node.follows), attempt)
    if not new or not goes_on or known + len(new) > MAX_ITEMS:
        return []
    if barred(step.node, state.told, state.dead):
        return []
    return made(state, StepExpanded(name, now, new, more=True))


def _rest(state: RunState, step: StepState, now: float) -> list[Record]:
    """The items that had not come when the step which yields them ended; they are the last."""
    if not step.more or step.waits_for:
        return []
    all_items = state.told[step.node.follows]["output"] if _is_yielded(state, step.node) else []
    items = all_items[len(step.items or ()) :] if isinstance(all_items, list) else []
    return made(state, StepExpanded(step.node.name, now, items))


def _is_yielded(state: RunState, node: Node) -> bool:
    """Whether all items have been yielded that a step follows.

    Not where the step that yields them has failed and the run goes on: then those that came are all.
    """
    return not node.follows or bool(state.told[node.follows]["state"] == "Succeeded")


def _anticipate(state: RunState, name: str) -> None:
    """Let a step start whose branch has not decided, once."""
    unit = state.unit(StepKey(name))
    if unit.status == "Ready" and not unit.attempt and state.anticipates(unit.key):
        queue_early(state, unit)


def _commit(state: RunState, early: StepAnticipated, now: float) -> list[Record]:
    """The branch has chosen the step: the result that it has already counts."""
    times = (now, early.worker, early.started, early.finished)
    return made(state, StepSucceeded(early.key, early.attempt, *times, early.output))


def _way(state: RunState, step: StepState, now: float) -> list[Record] | None:
    """What becomes of a step to which no way leads; None where one does."""
    node = step.node
    if node.gate is None and node.at_least is None and not state.dead:
        return None
    reason = barred(node, state.told, state.dead)
    if reason:
        return made(state, StepSkipped(StepKey(node.name), now, reason))
    if step.join is not None and step.join.impossible:
        error = StepError(
            "join_impossible",
            f"{node.at_least} of its needs had to succeed, too few have",
            retryable=False,
        )
        return failed(state, StepKey(node.name), 0, (now, "", now, now), error)
    return None


def _items(node: Node, scope: Scope) -> list[Any]:
    assert node.for_each is not None
    items = node.for_each.evaluate(scope)
    if not isinstance(items, list):
        raise InvalidError(node.for_each.field, "must give a list")
    _check_count(items, node.for_each.field)
    try:
        written(items, any_keys=True)
    except TypeError as error:
        raise InvalidError(node.for_each.field, f"cannot be written: {error}") from error
    if node.step.ordered:
        ItemOrder(items)  # what is wrong with it is found before it is journalled
    return items


def _drain(
    state: RunState, lane: Lane, scope: Scope, now: float, world: World, decided: list[Record]
) -> Blocked | None:
    """Start units of a lane until it is empty or nothing more may start; says what blocks it."""
    waiting, namespace = state.lanes[lane], state.request.namespace
    while waiting and state.failed is None:
        node, revision = state.steps[waiting[0].step].node, state.revisions.get(waiting[0])
        step = revision.step if revision else node.step
        place = world.place(namespace, step, state.spec, state.request.workflow)
        if isinstance(place, Blocked):
            if revision and place.absent:
                decided += _without(state, waiting.popleft(), place, now)
                continue
            if place.pool:
                world.wait(namespace, place.pool, state.request.run, state.priority)
            return place
        if state.counts["running"] >= state.parallelism:
            return None
        if world.shares.waiting and world.yields(
            namespace, place.pool, state.request.run, state.priority, state.counts["running"]
        ):
            state.starved = True
            return None
        if place.sheds and not world.shedding.enter(
            (namespace, place.pool), state, rank_of(state, lane), now
        ):
            state.starved = True
            return None
        unit = state.unit(waiting.popleft())
        if unit.status in _WAITING:
            place = revision.settle(place) if revision else place
            decided += _start(state, unit, node, place, scope, now)
            state.full_since.pop(lane, None)
    if not waiting:
        del state.lanes[lane]
    return None


def _overflow(
    state: RunState,
    lane: Lane,
    stopped: Blocked,
    scope: Scope,
    now: float,
    world: World,
    decided: list[Record],
) -> Blocked | None:
    """What the policy of a full queue does; where it makes room, the lane goes on."""
    followed = overflowed(state, lane, stopped, now, world)
    decided += followed
    again: Blocked | None = stopped
    if followed and stopped.policy == "ShedLow" and lane in state.lanes:
        again = _drain(state, lane, scope, now, world, decided)
    state.starved = state.starved or lane in state.lanes
    return again


def _without(state: RunState, key: StepKey, blocked: Blocked, now: float) -> list[Record]:
    """A unit was to be done by something that is not there, in the place of what failed."""
    if state.unit(key).status not in _WAITING:
        return []
    return failed(state, key, 0, (now, "", now, now), StepError("unavailable", blocked.message))


def _start(
    state: RunState, unit: Unit, node: Node, place: Place, scope: Scope, now: float
) -> list[Record]:
    step, before = state.step_of(unit.key), unit.task
    if before is not None:
        return _start_again(state, unit, before, place, now)
    if node.at_least is not None:
        scope = _early(state, node, scope)
    items = state.steps[unit.key.step].items
    if items is not None:
        scope = scope.at(unit.key.index, items[unit.key.index])
        if step.ordered and "previous" in node.reads:
            scope = replace(scope, previous=_came_before(state, unit.key))
    elif state.is_undone:
        scope = _undoing(state, scope)
    try:
        if node.when is not None and not unit.attempt and not node.when.holds(scope):
            return made(state, StepSkipped(unit.key, now))
        if state.loops and unit.key in state.loops:
            loop = state.loops[unit.key]
            scope = replace(scope, iteration=loop.iteration, previous=loop.previous)
        inputs, program = node.body.render(scope), place.program
        if step.workflow is not None:
            check_depth(state, f"spec.steps[{node.position}].workflow")
            if node.step.goal is not None:
                tree = state.loops[unit.key].previous
                inputs = {"goal": tree["goal"], "leaves": tree["leaves"]}
        _check_value(inputs, f"spec.steps[{node.position}]")
    except InvalidError as error:
        return refused(state, unit.key, error, now)
    kind = _kind(step)
    if kind == "container":
        inputs, program = {}, {**program, **inputs}
    return made(
        state,
        StepScheduled(
            unit.key, unit.attempt + 1, now, kind, place.pool, place.timeout, inputs, program
        ),
    )


def _came_before(state: RunState, key: StepKey) -> list[Any]:
    """The outputs of the items that an item comes after."""
    step = state.steps[key.step]
    assert step.order is not None
    return [step.units[place].output for place in step.order.before(key.index)]


def _start_again(
    state: RunState, unit: Unit, before: StepScheduled, place: Place, now: float
) -> list[Record]:
    """Another attempt, with the inputs of the one before."""
    kind = _kind(state.step_of(unit.key))
    if kind == "workflow" and before.kind != kind:
        position = state.steps[unit.key.step].node.position
        try:
            check_depth(state, f"spec.steps[{position}].alternatives")
        except InvalidError as error:
            return refused(state, unit.key, error, now)
    known = before.kind == "container" or before.program == place.program
    program = None if known else place.program
    of = (now, kind, place.pool, place.timeout)
    return made(state, StepScheduled(unit.key, unit.attempt + 1, *of, inputs=None, program=program))


def _kind(step: Step) -> StepKind:
    if step.agent:
        return "agent"
    if step.call or step.goal:
        return "call"
    return "workflow" if step.workflow else "container"


def _undoing(state: RunState, scope: Scope) -> Scope:
    """What a compensation sees: the unit that it undoes."""
    key = state.completed[-1]
    step, unit = state.steps[key.step], state.unit(key)
    scope = replace(scope, output=unit.output)
    return scope if step.items is None else scope.at(key.index, step.items[key.index])


def _early(state: RunState, node: Node, scope: Scope) -> Scope:
    """What a step sees that starts before all that it needs has ended."""
    return replace(scope, steps=AsLeft(state.told, node.needs))


def _hold(state: RunState, blocked: Blocked | None, now: float) -> list[Record]:
    """Journal what steps wait for, where that has changed."""
    told = (blocked.reason, blocked.message) if blocked else ("", "")
    if told == ((state.held.reason, state.held.message) if state.held else ("", "")):
        return []
    return made(state, RunHeld(now, *told))


def _check_value(value: Any, field: str) -> None:
    """Pass where a value can be kept: JSON, not too deep, not too large."""
    if value is None or value == {}:
        return  # what most steps take and give; it need not be encoded to be small
    try:
        size = len(written(value, any_keys=True))
    except TypeError as error:
        raise InvalidError(field, f"cannot be written: {error}") from error
    if size > VALUE_LIMIT:
        raise InvalidError(field, f"has {size} bytes, at most {VALUE_LIMIT} are possible")


def _unfit(output: Any, *, followed: bool) -> StepError | None:
    """Why an output cannot be taken; one whose items others follow has no more than they may have."""
    try:
        _check_value(output, "output")
        if followed and isinstance(output, list):
            _check_count(output, "output")
    except InvalidError as error:
        return StepError("value_too_large", error.message, retryable=False)
    return None


def _check_count(items: list[Any], field: str) -> None:
    if len(items) > MAX_ITEMS:
        raise InvalidError(field, f"gives {len(items)} items, at most {MAX_ITEMS} are possible")
