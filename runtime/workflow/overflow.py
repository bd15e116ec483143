"""What becomes of units for which their Pool's queue has no room: the Pool's policy. Pure.

Under Wait they stay with the run, in the order in which they became ready; the journal has them, so
nothing is held in memory that could be lost. A queue that stays full too long, or that is to refuse,
fails them before they start: there is no attempt to repeat, so their `onError` decides.
"""

from __future__ import annotations

from seedbed.crds.messages import StepError
from seedbed.runtime.workflow.failures import failed
from seedbed.runtime.workflow.records import Record
from seedbed.runtime.workflow.state import Lane, RunState
from seedbed.runtime.workflow.world import Blocked

QUEUE_FULL = "queue_full"
QUEUE_TIMEOUT = "queue_timeout"
CODES = frozenset({QUEUE_FULL, QUEUE_TIMEOUT})


def overflowed(state: RunState, lane: Lane, blocked: Blocked, now: float) -> list[Record]:
    """What follows for a lane that a full queue blocks."""
    if blocked.policy == "Reject":
        return _fail_all(state, lane, StepError(QUEUE_FULL, blocked.message), now)
    since = state.full_since.setdefault(lane, now)
    if blocked.patience is None or now < since + blocked.patience:
        return []
    message = f"{blocked.message}, and none of them ended within {blocked.patience:g} s"
    return _fail_all(state, lane, StepError(QUEUE_TIMEOUT, message), now)


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
