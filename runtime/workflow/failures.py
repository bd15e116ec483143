"""What follows from a failed attempt: another one, or what the step's policy says. Pure."""

from __future__ import annotations

import hashlib

from seedbed.crds.base import seconds
from seedbed.crds.errors import InvalidError
from seedbed.crds.failure import Action, Retry
from seedbed.crds.graph_checks import COMPENSATE
from seedbed.crds.messages import StepError, StepKey
from seedbed.crds.step import Step
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.records import Record, StepFailed
from seedbed.runtime.workflow.replan import another_way
from seedbed.runtime.workflow.state import BUDGET_EXCEEDED, LATER, REPLAN, RunState, made

JITTER = 0.25
BUDGET_WAIT = 2.0
"""Seconds after which a call that no budget pays for may be made again, where one pays then."""


def failed(
    state: RunState,
    key: StepKey,
    attempt: int,
    times: tuple[float, str, float, float],
    error: StepError,
) -> list[Record]:
    """Take a failed attempt in.

    Args:
        state: the run.
        key: whose attempt.
        attempt: its number; 0 where the step could not start.
        times: now, the worker, and when the attempt began and ended.
        error: why.
    """
    step = state.steps[key.step].node.step
    again = retry_at(state, key, attempt, error, times[0]) if attempt else None
    then: str = "retry" if again is not None else action_of(step, state.spec)
    if state.is_undone and not key.step.endswith(COMPENSATE):
        # It was running when another step failed: nothing follows but what undoes the rest.
        again, then = None, "continue"
    if state.anticipates(key):
        again, then = None, LATER
    change = None
    if again is None and then != LATER and not state.is_undone:
        change = another_way(state, key, attempt, error, times[0])
        again, then = (None, then) if change is None else (times[0], REPLAN)
    decided = made(state, StepFailed(key, attempt, *times, error, again, then))
    return decided if change is None else [*decided, *made(state, change)]


def refused(state: RunState, key: StepKey, error: InvalidError, now: float) -> list[Record]:
    """A step that cannot start because an expression does not fit the values."""
    failure = StepError(error.code, error.message, retryable=False)
    return failed(state, key, 0, (now, "", now, now), failure)


def action_of(step: Step, spec: WorkflowSpec) -> Action:
    """What becomes of the run when the step has failed for good."""
    if step.on_error is not None:
        return step.on_error.action
    if step.allow_failure:
        return "continue"
    return spec.on_error.action if spec.on_error is not None else "fail"


def retry_at(
    state: RunState, key: StepKey, attempt: int, error: StepError, now: float
) -> float | None:
    """When a failed attempt is followed by another; None where it is the last."""
    policy = state.steps[key.step].node.step.retry or state.spec.retry
    if error.code == BUDGET_EXCEEDED:
        # No fault of the step: it is held until the budget is raised, see `world`.
        return now + BUDGET_WAIT
    attempt -= state.unit(key).excused
    attempt -= _earlier(state, key)
    if not error.retryable or attempt >= policy.attempts:
        return None
    if policy.on and error.code not in policy.on and error.error_class not in policy.on:
        return None
    return now + backoff(policy, f"{state.request.run}/{key}/{attempt}", attempt)


def _earlier(state: RunState, key: StepKey) -> int:
    """Attempts that belong to earlier iterations, or to an earlier version of the plan."""
    before = state.loops[key].attempts if key in state.loops else 0
    return max(before, state.revisions[key].attempts) if key in state.revisions else before


def backoff(policy: Retry, seed: str, attempt: int) -> float:
    """Seconds to wait after a failed attempt: doubled each time, up to a quarter more, bounded.

    The share of the quarter depends on the seed only, so that a resumed run decides the same.
    """
    share = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big") / 2**32
    # Beyond 2**60 every limit is reached, and floats would overflow.
    wait = seconds(policy.backoff) * 2.0 ** min(attempt - 1, 60) * (1 + JITTER * share)
    return min(wait, seconds(policy.max_backoff))
