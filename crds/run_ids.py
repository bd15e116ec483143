"""Ids of runs, and of the attempts within them.

A run is one execution of a Workflow's plan. Its id is the Workflow's UID with a digest of the plan,
so that submitting twice is harmless and an edited plan is another run.
"""

from __future__ import annotations

import hashlib

import orjson

from seedbed.crds.messages import StepKey
from seedbed.crds.workflow import WorkflowSpec

# Fields of a Workflow's spec that may change while a run goes on; all others make another run.
LIVE_FIELDS = ("suspend", "parallelism", "priority", "checkpoint", "approvals", "budget")
_PLAN_DIGITS = 8


def run_id(uid: str, spec: WorkflowSpec, document: str = "") -> str:
    """Id of the run of this plan: `UID-digest`, with eight hexadecimal digits of the plan.

    Fields that say what holds without them do not count, so that a version with new fields finds the
    runs of the one before it.

    Args:
        uid: the Workflow's.
        spec: the plan.
        document: text with the steps, where they come from a ConfigMap.
    """
    plan = spec.model_dump(
        mode="json", by_alias=True, exclude=set(LIVE_FIELDS), exclude_defaults=True
    )
    canonical = orjson.dumps(plan, option=orjson.OPT_SORT_KEYS)
    return f"{uid}-{hashlib.sha256(canonical + document.encode()).hexdigest()[:_PLAN_DIGITS]}"


def is_own(run: str) -> bool:
    """Whether a run carries out a Workflow's own plan, and not a step of it; told from its id."""
    return len(run.rpartition("-")[2]) == _PLAN_DIGITS


def child_id(parent: str, key: StepKey, attempt: int) -> str:
    """Id of the run that does the work of one attempt of a `workflow` step.

    It begins with the UID of the Workflow, as all ids do, and is the same whenever it is asked for, so
    that asking twice is harmless.
    """
    name = f"{parent}/{key}/{attempt}"
    return f"{parent.rpartition('-')[0]}-{hashlib.sha256(name.encode()).hexdigest()[:24]}"


def attempt_id(run: str, key: StepKey, attempt: int) -> str:
    """Names one attempt of one execution unit."""
    return f"{run}/{key}/{attempt}"


def trace_of(run: str) -> str:
    """The W3C trace context, as a `traceparent` header, of everything that is done for a run.

    It follows from the id, so that all hops agree without asking. Runs that do the work of a step
    carry the context of the outermost one.
    """
    digits = hashlib.sha256(run.encode()).hexdigest()
    return f"00-{digits[:32]}-{digits[32:48]}-01"
