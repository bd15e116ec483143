"""The RunSummary of a run: what the operator and the user are told."""

from __future__ import annotations

import heapq
import math
from itertools import islice
from typing import Any, Literal

import orjson

from seedbed.crds.messages import (
    RESULT_PREVIEW_LIMIT,
    ContainerTask,
    Counts,
    Origin,
    Recent,
    RunSummary,
    TakenCheckpoint,
    Waiting,
)
from seedbed.crds.workflow_status import Phase
from seedbed.runtime.workflow.records import StepWaiting
from seedbed.runtime.workflow.state import RunState

CONTAINERS_TOLD = 100
WAITING_TOLD = 20


def summarise(state: RunState) -> RunSummary:
    """The summary of a run as it stands."""
    phase, reason, message = _phase(state)
    size, preview = _result(state)
    return RunSummary(
        run=state.request.run,
        namespace=state.request.namespace,
        workflow=state.request.workflow,
        revision=state.revision,
        phase=phase,
        reason=reason,
        message=message,
        parallelism=state.parallelism,
        suspended=state.suspended,
        priority=state.priority,
        counts=Counts(**state.counts),
        recent=tuple(Recent(str(key), told, text[:512]) for key, told, text in state.recent),
        started=state.started,
        finished=state.finished.at if state.finished else None,
        result=preview,
        result_bytes=size,
        containers=tuple(_containers(state)),
        waiting=tuple(_waiting(state)) if state.finished is None else (),
        checkpoint=_checkpoint(state),
        origin=_origin(state),
        parent=state.request.parent.run if state.request.parent else "",
        parent_step=str(state.request.parent.key) if state.request.parent else "",
        eta=state.eta if state.finished is None else None,
        advice=state.advice,
        replans=len(state.replans),
    )


def _phase(state: RunState) -> tuple[Phase, str, str]:
    if state.finished is not None:
        return state.finished.phase, state.finished.reason, state.finished.message[:1000]
    if state.started is None:
        return "Pending", "Accepted", ""
    if state.suspended:
        return "Suspended", "Suspended", "starts no further step"
    if state.ending is not None:
        outcome = f"the run ends as {state.ending.phase}, onExit steps run"
        return "Running", "OnExit", outcome if state.held is None else state.held.message
    if state.held is not None:
        return "Running", state.held.reason, state.held.message
    if state.undoing is not None:
        why = state.undoing.why or f"{state.undoing.cause} failed"
        return "Running", "Compensating", f"undoes what was done: {why}"
    if state.inbox.waiting and not state.scheduled:
        first = _waiting(state)[0]
        reason = "WaitingForApproval" if first.kind == "approval" else "Waiting"
        return "Running", reason, f"{first.step}: {first.message}"[:1000]
    if state.full_since and not state.scheduled:
        _, why = next(iter(state.full_since.values()))
        return "Running", "QueueFull", f"{why}; {sum(map(len, state.lanes.values()))} steps wait"
    return "Running", "Running", ""


def _result(state: RunState) -> tuple[int, Any]:
    if state.finished is None or state.finished.result is None:
        return 0, None
    data = orjson.dumps(state.finished.result, option=orjson.OPT_NON_STR_KEYS)
    return len(data), state.finished.result if len(data) <= RESULT_PREVIEW_LIMIT else None


def _checkpoint(state: RunState) -> TakenCheckpoint | None:
    last = state.checkpoint
    if last is None:
        return None
    return TakenCheckpoint(last.number, last.id, last.at, last.size_bytes, last.ratio)


def _origin(state: RunState) -> Origin | None:
    began = state.origin
    if began is None:
        return None
    return Origin(began.run, began.checkpoint, began.taken, began.again)


def _waiting(state: RunState) -> list[Waiting]:
    """The steps that wait, approvals first, then those whose wait ends first."""
    told = [
        Waiting(str(key), _kind(state, record), record.message[:512], record.until)
        for key, record in state.inbox.waiting.items()
    ]
    order = ("approval", "event", "time")
    return heapq.nsmallest(
        WAITING_TOLD,
        told,
        key=lambda one: (order.index(one.kind), one.until or math.inf, one.step),
    )


def _kind(state: RunState, record: StepWaiting) -> Literal["approval", "event", "time"]:
    if record.event:
        return "event"
    return "approval" if state.steps[record.key.step].node.step.approve else "time"


def _containers(state: RunState) -> list[ContainerTask]:
    told = []
    for unit in islice(state.pods.values(), CONTAINERS_TOLD):
        assert unit.task is not None
        told.append(
            ContainerTask(unit.key, unit.attempt, unit.task.program or {}, unit.task.timeout)
        )
    return told
