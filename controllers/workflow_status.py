"""How a run is shown in its Workflow's status: conditions, counters, the last steps. Pure."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import orjson

from seedbed.controllers.conditions import (
    Verdict,
    ready,
    resting,
    shortened,
    stalled,
    timestamp,
    waiting,
)
from seedbed.controllers.plan import Raw
from seedbed.controllers.reading import status_of
from seedbed.crds.messages import (
    RESULT_PREVIEW_LIMIT,
    Advice,
    RunSummary,
    TakenCheckpoint,
    Waiting,
)
from seedbed.crds.workflow import WorkflowSpec

FINISHED = ("Succeeded", "Failed")
# Of the steps that changed last: how many, and the bytes of name and message that are shown.
_RECENT, _NAME, _MESSAGE = 5, 128, 256
_WAITING, _QUESTION, _ASKED = 5, 128, 300
_ADVICE = 512


def verdicts_of(spec: WorkflowSpec, run: RunSummary) -> dict[str, Verdict]:
    """All conditions of a Workflow whose run is known."""
    counts = run.counts
    done = counts.succeeded + counts.failed + counts.skipped
    progress = f"{done} of {counts.total} steps ended"
    message = run.message or progress
    reason = run.reason or run.phase
    made = {
        "Pending": waiting,
        "Running": waiting,
        "Suspended": resting,
        "Succeeded": ready,
        "Failed": stalled,
    }[run.phase](reason, message)
    if run.stuck:
        made = stalled(reason, message)
    return {**made, **marks(spec, run)}


def marks(spec: WorkflowSpec, run: RunSummary | None) -> dict[str, Verdict]:
    """The conditions beside Ready, Reconciling and Stalled."""
    finished = run is not None and run.phase in FINISHED
    word = run.phase if run is not None else "Pending"
    suspended = spec.suspend and not finished
    return {
        "Accepted": Verdict("True", "Valid", "the plan can be run"),
        "Finished": Verdict(
            "True" if finished else "False",
            word,
            "the run has ended" if finished else "the run has not ended",
        ),
        "Suspended": Verdict(
            "True" if suspended else "False",
            "Suspended" if suspended else "Active",
            "spec.suspend is set" if suspended else "further steps may start",
        ),
        "WaitingForApproval": _asked(run),
    }


def _asked(run: RunSummary | None) -> Verdict:
    asked = [one for one in run.waiting if one.kind == "approval"] if run is not None else []
    if not asked:
        return Verdict("False", "NothingAsked", "no step waits for a person")
    told = "; ".join(f"{one.step}: {one.message}" for one in asked)
    return Verdict("True", "ApprovalNeeded", shortened(told, _ASKED))


def as_before(workflow: Raw, spec: WorkflowSpec) -> dict[str, Verdict]:
    """The conditions that the status has, until something is heard of the run."""
    kept = {
        one["type"]: Verdict(one["status"], one["reason"], one["message"])
        for one in status_of(workflow).get("conditions") or ()
    }
    missing = {**waiting("Submitted", "the run was given to the engine"), **marks(spec, None)}
    return {**missing, **kept}


def _optimisation(advice: Advice) -> dict[str, Any]:
    return {
        "applied": advice.applied,
        "percent": round(100 * (1 - advice.after / advice.before)),
        "message": shortened(advice.message, _ADVICE),
    }


def _checkpoint(last: TakenCheckpoint) -> dict[str, Any]:
    return {
        "number": last.number,
        "id": last.id,
        "time": timestamp(datetime.fromtimestamp(last.at, UTC)),
        "sizeBytes": last.size_bytes,
        "ratio": round(last.ratio, 2),
    }


def fields_of(run: RunSummary) -> dict[str, Any]:
    """The Workflow's own part of the status; small whatever the run's size."""
    counts = run.counts
    done = counts.succeeded + counts.failed + counts.skipped
    fields: dict[str, Any] = {
        "phase": run.phase,
        "runId": run.run,
        "progress": f"{done}/{counts.total}",
        "steps": {
            "total": counts.total,
            "running": counts.running,
            "succeeded": counts.succeeded,
            "failed": counts.failed,
            "skipped": counts.skipped,
        },
        "recent": [
            {
                "name": shortened(one.name, _NAME),
                "state": one.state[:32],
                "message": shortened(one.message, _MESSAGE),
            }
            for one in run.recent[:_RECENT]
        ],
    }
    if run.waiting:
        fields["waiting"] = [_waiting_step(one) for one in run.waiting[:_WAITING]]
    if run.eta is not None:
        fields["eta"] = timestamp(datetime.fromtimestamp(round(run.eta), UTC))
    if run.advice is not None and run.advice.before > run.advice.after:
        fields["optimisation"] = _optimisation(run.advice)
    if run.replans:
        fields |= {"planVersion": run.replans + 1, "replans": run.replans}
    if run.started is not None:
        fields["startedAt"] = timestamp(datetime.fromtimestamp(run.started, UTC))
    if run.finished is not None:
        fields["finishedAt"] = timestamp(datetime.fromtimestamp(run.finished, UTC))
    if run.checkpoint is not None:
        fields["lastCheckpoint"] = _checkpoint(run.checkpoint)
    if run.origin is not None:
        fields["forkedFrom"] = asdict(run.origin)
    if run.result is not None and len(orjson.dumps(run.result)) <= RESULT_PREVIEW_LIMIT:
        fields["result"] = run.result
    return fields


def _waiting_step(one: Waiting) -> dict[str, Any]:
    told = {
        "name": shortened(one.step, _NAME),
        "kind": one.kind,
        "message": shortened(one.message, _QUESTION),
    }
    if one.until is not None:
        told["until"] = timestamp(datetime.fromtimestamp(one.until, UTC))
    return told
