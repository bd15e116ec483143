"""What becomes of changed plans, for Prometheus."""

from __future__ import annotations

from collections.abc import Sequence

from seedbed.runtime.workflow.metrics import REPLANS
from seedbed.runtime.workflow.records import Record, StepFailed, StepReplanned, StepSucceeded
from seedbed.runtime.workflow.state import RunState


def count_replans(state: RunState, records: Sequence[Record]) -> None:
    """Count changes of the plan, and how the units ended for which it was changed."""
    if not state.replans:
        return
    for record in records:
        if not isinstance(record, StepReplanned | StepSucceeded | StepFailed):
            continue
        revision = state.revisions.get(record.key)
        if revision is None:
            continue
        if isinstance(record, StepReplanned):
            REPLANS.labels(record.reason, "planned").inc()
        elif isinstance(record, StepSucceeded):
            REPLANS.labels(revision.reason, "succeeded").inc()
        elif record.retry_at is None:
            REPLANS.labels(revision.reason, "failed").inc()
