"""Items that take much longer than the others of their step: which are started a second time.

The second start is the same attempt under the same idempotency key, so nothing is journalled: whichever
result comes first counts, and the other one is not awaited any more. Times run from the moment in which
an item was put into its queue, for all alike, so that items which wait for a worker are no stragglers.
A new owner of a partition has seen no times yet; it judges when enough items have ended under it.
"""

from __future__ import annotations

import statistics
from bisect import insort

from seedbed.crds.base import seconds
from seedbed.crds.messages import StepKey
from seedbed.runtime.workflow.journal import LiveRun
from seedbed.runtime.workflow.units import Unit

MOST_TIMES = 1001
"""Times of one step that are kept; with more the median hardly moves."""


def learn(run: LiveRun, key: StepKey, taken: float) -> None:
    """An item has succeeded `taken` seconds after it was put into its queue."""
    run.doubled.pop(key, None)
    times = run.times.setdefault(key.step, [])
    if len(times) < MOST_TIMES:
        insort(times, taken)


def limit(run: LiveRun, step: str) -> float | None:
    """Seconds after which an item of a step straggles; None while too few have ended."""
    policy, times = run.state.graph.nodes[step].step.stragglers, run.times.get(step, ())
    if policy is None or len(times) < policy.after:
        return None
    return max(seconds(policy.at_least), policy.slower_than * statistics.median(times))


def stragglers(run: LiveRun, now: float) -> list[Unit]:
    """Items that are to be started a second time now; each attempt is told of once."""
    limits = {step: found for step in run.times if (found := limit(run, step)) is not None}
    late = []
    for unit in run.state.scheduled.values() if limits else ():
        bound = limits.get(unit.key.step)
        attempt, since = run.handed.get(unit.key, (0, now))
        if bound is None or attempt != unit.attempt or now <= since + bound:
            continue
        if run.doubled.get(unit.key) != unit.attempt:
            run.doubled[unit.key] = unit.attempt
            late.append(unit)
    return late
