"""Units that start: from their lanes, while there is room for them, with inputs evaluated. Pure.

See `decide` for what the functions do with the state.
"""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from seedbed.crds.errors import InvalidError
from seedbed.crds.expressions import Pending, Scope
from seedbed.crds.graph import Node
from seedbed.crds.messages import StepError, StepKey
from seedbed.crds.step import Step
from seedbed.runtime.workflow.failures import failed, refused
from seedbed.runtime.workflow.fitting import check_value
from seedbed.runtime.workflow.lanes import rank_of
from seedbed.runtime.workflow.nesting import check_depth
from seedbed.runtime.workflow.opening import seen_by
from seedbed.runtime.workflow.overflow import overflowed
from seedbed.runtime.workflow.records import Record, StepKind, StepScheduled, StepSkipped
from seedbed.runtime.workflow.run_facts import Lane
from seedbed.runtime.workflow.state import RunState, made
from seedbed.runtime.workflow.units import Unit
from seedbed.runtime.workflow.world import Blocked, Place, World

_WAITING = ("Ready", "Retrying")


def drain(
    state: RunState, lane: Lane, scope: Scope, now: float, world: World, decided: list[Record]
) -> Blocked | None:
    """Start units of a lane until it is empty or nothing more may start; says what blocks it."""
    later: list[StepKey] = []
    blocked = _drain(state, lane, scope, now, world, decided, later)
    state.lanes[lane].extendleft(reversed(later))
    if not state.lanes[lane]:
        del state.lanes[lane]
    return blocked


def _drain(
    state: RunState,
    lane: Lane,
    scope: Scope,
    now: float,
    world: World,
    decided: list[Record],
    later: list[StepKey],
) -> Blocked | None:
    """As `drain`; units whose expressions are not evaluated yet are put to those for later."""
    waiting, namespace = state.lanes[lane], state.request.namespace
    while waiting and state.failed is None:
        unit = state.unit(waiting[0])
        if unit.status not in _WAITING:
            waiting.popleft()  # it started early, or was to and is not needed
            continue
        node, revision = state.steps[unit.key.step].node, state.revisions.get(unit.key)
        step = revision.step if revision else node.step
        place = world.place(namespace, step, state.spec, state.request.workflow)
        if isinstance(place, Blocked):
            if revision and place.absent:
                decided += _without(state, waiting.popleft(), place, now)
                continue
            if place.pool:
                world.wait(namespace, place.pool, state.request.run, state.priority)
            return place
        state.full_since.pop(lane, None)
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
        waiting.popleft()
        place = revision.settle(place) if revision else place
        try:
            decided += _start(state, unit, node, place, scope, now)
        except Pending as pending:
            later.append(unit.key)
            if pending.full:
                return None
    return None


def make_room(
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
        again = drain(state, lane, scope, now, world, decided)
    state.starved = state.starved or lane in state.lanes
    return again


def _without(state: RunState, key: StepKey, blocked: Blocked, now: float) -> list[Record]:
    """A unit was to be done by something that is not there, in the place of what failed."""
    return failed(state, key, 0, (now, "", now, now), StepError("unavailable", blocked.message))


def _start(
    state: RunState, unit: Unit, node: Node, place: Place, scope: Scope, now: float
) -> list[Record]:
    step, before = state.step_of(unit.key), unit.task
    if before is not None:
        return _start_again(state, unit, before, place, now)
    scope = seen_by(state, node, scope)
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
        check_value(inputs, f"spec.steps[{node.position}]")
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
    """What a compensation sees: the unit, or the iteration of it, that it undoes."""
    key, iteration = state.completed[-1]
    step, earlier = state.steps[key.step], state.iterations.get(key, {})
    output = earlier[iteration] if iteration in earlier else state.unit(key).output
    scope = replace(
        scope, output=output, iteration=max(iteration, 0), previous=earlier.get(iteration - 1)
    )
    return scope if step.items is None else scope.at(key.index, step.items[key.index])
