"""Lanes: where units that are ready stand, one for each thing that could block them. Pure."""

from __future__ import annotations

from collections import deque

from seedbed.crds.step import Step
from seedbed.runtime.workflow.run_facts import Lane
from seedbed.runtime.workflow.shedding import Rank
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.units import Unit

EARLY = 1
"""The order of lanes with steps that may not be needed: behind all others."""


def queue(state: RunState, unit: Unit) -> None:
    """Put a unit that may start at the end of its lane."""
    lane = lane_of(state, state.step_of(unit.key))
    state.lanes.setdefault(lane, deque()).append(unit.key)


def queue_early(state: RunState, unit: Unit) -> None:
    """Put a unit whose branch has not decided behind all that is known to be needed."""
    _, who, pool = lane_of(state, state.steps[unit.key.step].node.step)
    state.lanes.setdefault((EARLY, who, pool), deque()).append(unit.key)


def rank_of(state: RunState, lane: Lane) -> Rank:
    """The rank of a lane's units among those that want a place of a Pool."""
    return state.priority, -lane[0]


def lane_of(state: RunState, step: Step) -> Lane:
    """The lane of a step's units."""
    order = -step.priority
    if step.container:
        return order, "container", ""
    if step.agent:
        return order, f"agent/{step.agent.name}", step.pool.name if step.pool else ""
    if step.workflow:
        return order, f"workflow/{step.workflow.name or ''}", ""
    return order, "call", (step.pool or state.spec.pool).name
