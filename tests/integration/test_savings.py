"""All that saves money, together: the same calls, once with it and once without."""

from __future__ import annotations

import pytest

from hack.bench.savings import (
    LOSS,
    OFF,
    STRONG,
    before,
    judged,
    parts,
    played,
    tolerance,
    workload,
)
from tests.conftest import run_async
from tests.providers import Json

TASKS, SEED = 50, 7
"""Of five calls each: 35 % repeat an earlier one, 10 % come as a burst of four, two of five are hard."""


def every(of: dict[str, Json]) -> Json:
    """The settings of all parts in one."""
    return {name: value for each in of.values() for name, value in each.items()}


@pytest.mark.req("COG-5.9")
@pytest.mark.timeout(120)
def test_all_parts_together_make_the_stated_workload_70_percent_cheaper_unseen_by_callers() -> None:
    """Callers ask for `default` in both passes; routing has learnt from other calls of their kind."""

    async def body() -> None:
        calls, known = workload(TASKS, SEED), before(SEED)
        loss = tolerance(known, [(each.subject, each.prompt) for each in known], LOSS)
        plain = await played(calls, every(OFF), ())
        saving = await played(calls, every(parts(loss, semantic=False)), judged(known))
        assert plain.answers == saving.answers == sum(call.times for call in calls)
        assert plain.strong_calls == plain.answers, "without them each call is paid for"
        assert saving.dollars <= 0.3 * plain.dollars
        assert saving.of_another_case == 0, "no answer is somebody else's"
        assert saving.right >= 0.95 * plain.right
        assert saving.exact, "the cache has its part"
        assert saving.weak_calls > saving.strong_calls > 0, STRONG

    run_async(body(), 100)
