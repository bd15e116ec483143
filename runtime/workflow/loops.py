"""Steps that run again after they have gone well. Pure.

Loops do until a condition over their own output holds. A goal that is executed does so once: first a
worker makes the tree, which is journalled as the output of the first iteration; then a run of its own
does the leaves, however often that is tried.
"""

from __future__ import annotations

from msgspec.structs import replace

from seedbed.crds.base import seconds
from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import StepError, StepResult
from seedbed.runtime.workflow.failures import failed
from seedbed.runtime.workflow.opening import seen_by
from seedbed.runtime.workflow.records import Record, StepRepeated, StepSucceeded
from seedbed.runtime.workflow.state import RunState, made


def turned(state: RunState, result: StepResult, now: float) -> list[Record]:
    """An iteration has gone well: the step has ended, or runs again."""
    key, output = result.key, result.output
    times = (now, result.worker, result.started, result.finished)
    node = state.steps[key.step].node
    repeat = node.step.repeat
    if repeat is None:
        if key in state.loops:
            return made(state, StepSucceeded(key, result.attempt, *times, output))
        return made(state, StepRepeated(key, result.attempt, *times, output, 0, now))
    assert node.until is not None
    loop = state.loops.get(key)
    iteration = loop.iteration if loop else 0
    scope = replace(
        seen_by(state, node, state.scope),
        output=output,
        iteration=iteration,
        previous=loop.previous if loop else None,
    )
    items = state.steps[key.step].items
    if items is not None:
        scope = replace(scope, index=key.index, item=items[key.index])
    try:
        over = node.until.holds(scope)
    except InvalidError as error:
        wrong = StepError(error.code, error.message, retryable=False)
        return failed(state, key, result.attempt, times, wrong)
    last = iteration + 1 >= repeat.max
    if over or (last and repeat.exhausted == "continue"):
        return made(state, StepSucceeded(key, result.attempt, *times, output))
    if last:
        message = f"the condition does not hold after {repeat.max} iterations"
        exhausted = StepError("loop_exhausted", message, retryable=False)
        return failed(state, key, result.attempt, times, exhausted)
    again = now + (seconds(repeat.delay) if repeat.delay else 0.0)
    return made(state, StepRepeated(key, result.attempt, *times, output, iteration, again))
