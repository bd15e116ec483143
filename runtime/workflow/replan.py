"""Another way for a step that has failed for good: why it failed, what may help, how far to go. Pure.

It comes after retries and, where an Agent corrects its own answers, after that; behind it stands
`onError`. What may help follows from the error:

    place   a timeout, a lost connection, a full queue   what the step names, then Pools, then models
    model   the model or its provider                    what the step names, then models
    logic   anything else that the work itself met       what the step names
    none    a decision or a limit                        nothing

A way is never tried twice for a unit, and both a unit and the run have a number of changes that they
may not pass; so a run that changes its plan ends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Literal

from seedbed.crds.graph_checks import COMPENSATE
from seedbed.crds.messages import StepError, StepKey
from seedbed.crds.step import Step
from seedbed.runtime.workflow.records import StepReplanned
from seedbed.runtime.workflow.state import BUDGET_EXCEEDED, RunState

Cause = Literal["place", "model", "logic", "none"]

_FINAL = frozenset(
    {BUDGET_EXCEEDED, "rejected", "cancelled", "join_impossible", "loop_exhausted", "anticipated"}
)
_PLACE = frozenset({"queue_full", "queue_timeout", "queue_shed"})
_MODEL = frozenset(
    {
        "model_refused",
        "model_not_found",
        "provider_refused",
        "provider_malformed",
        "provider_timeout",
        "rate_limited",
        "breaker_open",
        "answer_malformed",
    }
)
_OF_PLACE = ("timeout_error", "connection_error")
_WHY_SHOWN = 300


def cause_of(error: StepError, attempt: int) -> Cause:
    """What an error is about; attempt 0 says that the step did not even start."""
    if error.code in _FINAL:
        return "none"
    if error.code in _MODEL:
        return "model"
    if error.code in _PLACE or error.error_class in _OF_PLACE:
        return "place"
    # Inputs that cannot be made cannot be made for another way either.
    return "logic" if attempt else "none"


def another_way(
    state: RunState, key: StepKey, attempt: int, error: StepError, now: float
) -> StepReplanned | None:
    """How the plan changes now that the unit has failed for good; None where it does not."""
    cause, limits = cause_of(error, attempt), state.spec.replan
    if cause == "none" or key.step.endswith(COMPENSATE):
        return None
    revision = state.revisions.get(key)
    tried = revision.tried if revision else ()
    if len(tried) >= limits.max_per_step or len(state.replans) >= limits.max_total:
        return None
    present = _present(state, key)
    first = revision.before if revision else present
    for way in _ways(state, key, cause, tried[-1] if tried else {}):
        to = _different(way, first)
        if to and to not in tried:
            why = f"{cause}: {error.error_class} {error.code}: {error.message}"[:_WHY_SHOWN]
            at, version = state.unit(key).attempt, len(state.replans) + 2
            return StepReplanned(key, at, now, version, cause, present, to, why)
    return None


def _ways(
    state: RunState, key: StepKey, cause: Cause, last: Mapping[str, str]
) -> Iterator[dict[str, str]]:
    """What may help, the best first: the step's own ways, then the last one elsewhere."""
    limits, declared = state.spec.replan, state.steps[key.step].node.step.alternatives
    for one in declared:
        yield one.model_dump(exclude_none=True)
    step = state.step_of(key)
    if cause == "place" and (step.agent or step.call or step.goal):
        for pool in limits.pools:
            yield {**last, "pool": pool}
    if cause in ("place", "model") and step.agent:
        for model in limits.models:
            yield {**last, "model": model}


def _different(way: Mapping[str, str], first: Mapping[str, str]) -> dict[str, str]:
    """A way without what was so at first; another Agent has a model of its own."""
    return {
        name: value
        for name, value in way.items()
        if first.get(name) != value or (name == "model" and "agent" in way)
    }


def _present(state: RunState, key: StepKey) -> Mapping[str, str]:
    """How the unit was done last, in the words of an alternative."""
    step, task = state.step_of(key), state.unit(key).task
    found = _body(step)
    pool = step.pool or (None if step.agent else state.spec.pool)
    if task is not None and task.pool:
        found["pool"] = task.pool
    elif pool is not None and not step.workflow:
        found["pool"] = pool.name
    if task is not None and task.kind == "agent" and task.program:
        found["model"] = task.program["model"]["name"]
    return found


def _body(step: Step) -> dict[str, str]:
    if step.agent is not None:
        return {"agent": step.agent.name}
    if step.call is not None:
        return {"entry": step.call.entry}
    if step.workflow is not None:
        return {"workflow": step.workflow.name or ""}
    return {}
