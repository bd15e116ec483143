"""Steps whose turn has come: their way is known, their items are, and their units stand in lanes. Pure.

See `decide` for what the functions do with the state.
"""

from __future__ import annotations

from collections import ChainMap
from typing import Any, cast

from msgspec.structs import replace

from seedbed.crds.errors import InvalidError
from seedbed.crds.expressions import Scope
from seedbed.crds.graph import Node
from seedbed.crds.graph_checks import FALLBACK
from seedbed.crds.messages import StepError, StepKey
from seedbed.crds.values import written
from seedbed.runtime.workflow.engine_steps import enter
from seedbed.runtime.workflow.entering import AsLeft, barred
from seedbed.runtime.workflow.failures import failed, refused
from seedbed.runtime.workflow.fitting import check_count, too_many
from seedbed.runtime.workflow.item_order import ItemOrder
from seedbed.runtime.workflow.lanes import queue, queue_early
from seedbed.runtime.workflow.records import (
    Record,
    StepAnticipated,
    StepExpanded,
    StepSkipped,
    StepSucceeded,
)
from seedbed.runtime.workflow.state import RunState, made
from seedbed.runtime.workflow.units import StepState, told_of


def open_step(state: RunState, name: str, scope: Scope, now: float) -> list[Record]:
    """Put the units of a step whose needs have ended into their lane; expand it first."""
    step = state.steps[name]
    decided: list[Record] = []
    if step.settled:
        return decided
    if step.order is not None or step.more:
        return [*_rest(state, step, now), *_queue_units(state, step, now)]
    scope = seen_by(state, step.node, scope)
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
    if not new or not goes_on or too_many(known + len(new)):
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


def anticipate(state: RunState, name: str) -> None:
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
    check_count(items, node.for_each.field)
    try:
        written(items, any_keys=True)
    except TypeError as error:
        raise InvalidError(node.for_each.field, f"cannot be written: {error}") from error
    if node.step.ordered:
        ItemOrder(items)  # what is wrong with it is found before it is journalled
    return items


def seen_by(state: RunState, node: Node, scope: Scope) -> Scope:
    """What a step sees: where it starts before all that it needs has ended, as far as that is known.

    A fallback sees the failure that it stands in for.
    """
    if node.at_least is not None:
        scope = replace(scope, steps=AsLeft(state.told, node.needs))
    gate = node.gate
    if gate is not None and gate.arm == FALLBACK and gate.step not in state.told:
        failure = {gate.step: {**told_of(state.steps[gate.step]), "state": "Failed"}}
        scope = replace(scope, steps=ChainMap(failure, cast("dict[str, Any]", scope.steps)))
    return scope
