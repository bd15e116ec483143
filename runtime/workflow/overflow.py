"""What becomes of units for which their Pool's queue has no room: the Pool's policy. Pure.

Under Wait they stay with the run, in the order in which they became ready; the journal has them, so
nothing is held in memory that could be lost. A queue that stays full too long, or that is to refuse,
fails them before they start: there is no attempt to repeat, so their `onError` decides. Under ShedLow
they wait too, but steps of a lower rank give their place up: their attempt has failed, so their `retry`
decides.
"""

from __future__ import annotations

from seedbed.crds.messages import StepError, StepKey
from seedbed.runtime.workflow.failures import failed
from seedbed.runtime.workflow.lanes import rank_of
from seedbed.runtime.workflow.records import Record
from seedbed.runtime.workflow.run_facts import Lane
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.world import Blocked, World

QUEUE_FULL = "queue_full"
QUEUE_TIMEOUT = "queue_timeout"
QUEUE_SHED = "queue_shed"
CODES = frozenset({QUEUE_FULL, QUEUE_TIMEOUT, QUEUE_SHED})


def overflowed(
    state: RunState, lane: Lane, blocked: Blocked, now: float, world: World
) -> list[Record]:
    """What follows for a lane that a full queue blocks."""
    if blocked.policy == "ShedLow" and (room := _make_room(state, lane, blocked, now, world)):
        return room
    if blocked.policy == "Reject":
        return _fail_all(state, lane, StepError(QUEUE_FULL, blocked.message), now)
    since, _ = state.full_since.setdefault(lane, (now, blocked.message))
    if blocked.patience is None or now < since + blocked.patience:
        return []
    message = f"{blocked.message}, and none of them ended within {blocked.patience:g} s"
    return _fail_all(state, lane, StepError(QUEUE_TIMEOUT, message), now)


def put_off(state: RunState, asked: dict[StepKey, int], now: float) -> list[Record]:
    """Give places up that others want more, as far as these attempts still hold them."""
    decided: list[Record] = []
    for key, attempt in asked.items():
        if not state.awaits(key, attempt) or state.undoing or state.ending:
            continue
        task = state.scheduled[key].task
        assert task is not None
        message = f"Pool {task.pool!r} is full, and a step of a higher priority wants the place"
        error = StepError(QUEUE_SHED, message)
        decided += failed(state, key, attempt, (now, "", task.at, now), error)
    return decided


def _make_room(
    state: RunState, lane: Lane, blocked: Blocked, now: float, world: World
) -> list[Record]:
    """Have steps of a lower rank give their places up; gives the records of those of this run."""
    pool, rank = (state.request.namespace, blocked.pool), rank_of(state, lane)
    count = min(len(state.lanes[lane]), state.parallelism - state.counts["running"])
    own = world.shedding.room_for(pool, state, rank, count, now)
    return put_off(state, {unit.key: unit.attempt for unit in own}, now)


def _fail_all(state: RunState, lane: Lane, error: StepError, now: float) -> list[Record]:
    decided: list[Record] = []
    waiting = state.lanes[lane]
    while waiting and state.failed is None:
        unit = state.unit(waiting.popleft())
        if unit.status in ("Ready", "Retrying"):
            decided += failed(state, unit.key, 0, (now, "", now, now), error)
    if not waiting:
        state.lanes.pop(lane, None)
    state.full_since.pop(lane, None)
    return decided
