"""Which steps start first, and how runs share a Pool that is too small for all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.crds.engine_requests import Adjust
from seedbed.crds.messages import StepResult
from seedbed.runtime.workflow.decide import accept, advance, asked
from seedbed.runtime.workflow.fairness import Shares, weight_of
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.world import World
from tests.runs import a_world, call, play, request


def test_steps_of_a_higher_priority_start_first() -> None:
    plan = request(
        call("low", priority=0), call("a"), call("high", priority=2), call("b"), parallelism=1
    )
    assert [name for name, _ in play(plan).executed] == ["high", "a", "b", "low"]


@pytest.mark.parametrize(
    ("held", "weights", "yields"),
    [
        (9, {}, False),
        (9, {"me": 2}, False),
        (4, {"other": 2}, False),
        (5, {"other": 2}, True),
        (3, {"other": 2, "third": 2}, True),
        (2, {"other": 2, "third": 2}, False),
        (6, {"other": 1}, True),
        (5, {"other": 1}, False),
        (0, {str(n): 4 for n in range(100)}, False),
        (1, {str(n): 4 for n in range(100)}, True),
    ],
)
def test_who_holds_its_share_yields_to_those_who_wait(
    held: int, weights: dict[str, int], yields: bool
) -> None:
    shares = Shares()
    for run, weight in weights.items():
        shares.wait(("team", "general"), run, weight)
    assert shares.yields(("team", "general"), "me", 2, held, 10) is yields
    assert not shares.yields(("team", "elsewhere"), "me", 2, held, 10)
    for run in weights:
        shares.leave(run)
    assert shares.waiting == {}


@given(
    st.lists(
        st.tuples(
            st.sampled_from("abc"), st.sampled_from(["x", "y"]), st.sampled_from([0, 1, 2, 4])
        )
    )
)
def test_what_waits_is_counted_as_it_comes_and_goes(steps: list[tuple[str, str, int]]) -> None:
    """A weight of 0 stands for a run that leaves."""
    shares, known = Shares(), {}
    for run, pool, weight in steps:
        if weight:
            shares.wait(("team", pool), run, weight)
            known[run, pool] = weight
        else:
            shares.leave(run)
            known = {key: each for key, each in known.items() if key[0] != run}
        for each in ("x", "y"):
            others = sum(one for (who, of), one in known.items() if of == each and who != "a")
            least = max(1, 12 // (others + 1))
            assert shares.yields(("team", each), "a", 1, least, 12) is bool(others)
            assert not shares.yields(("team", each), "a", 1, least - 1, 12)


class Unread(dict[str, int]):
    """A dict that nobody goes through."""

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("goes through all that wait")

    items = values = keys = __iter__  # type: ignore[assignment]  # none of them is used


def test_what_is_asked_for_each_step_does_not_go_through_all_that_wait() -> None:
    shares = Shares()
    for number in range(100):
        shares.wait(("team", "general"), f"run-{number}", 1)
    waiting = shares.waiting["team", "general"]
    waiting.weights = Unread(waiting.weights)
    assert shares.yields(("team", "general"), "run-1", 1, 1, 10)
    shares.wait(("team", "general"), "run-1", 2)
    shares.leave("run-1")
    assert (waiting.total, len(waiting.weights)) == (99, 99)


def run_of(name: str, world: World, **spec: Any) -> RunState:
    return RunState(request(call("each", forEach="lists.range(60)"), run=name, **spec), world.hands)


def turns(world: World, runs: list[RunState], count: int) -> None:
    """Every turn each run decides and the oldest step of each ends."""
    for now in range(count):
        for state in runs:
            advance(state, float(now), world)
        for state in runs:
            for key in list(state.scheduled)[:1]:
                attempt = state.scheduled[key].attempt
                accept(state, StepResult(state.request.run, key, attempt, "w"), float(now))


@pytest.mark.parametrize(
    ("priorities", "held"),
    [((1, 1), (6, 6)), ((2, 1), (8, 4)), ((2, 0), (9, 2)), ((0, 2), (2, 9))],
)
def test_runs_share_a_pool_by_their_priority_whoever_came_first(
    priorities: tuple[int, int], held: tuple[int, int]
) -> None:
    world = a_world(queue_limit=12)
    runs = [run_of(f"run-{n}", world, priority=p) for n, p in enumerate(priorities)]
    turns(world, runs[:1], 3)
    assert len(runs[0].scheduled) == 11
    turns(world, runs, 20)
    for state in runs:
        advance(state, 99.0, world)
    # A place may be free for a moment: each run takes its own part of a share.
    assert all(abs(len(state.scheduled) - n) <= 1 for state, n in zip(runs, held, strict=True))


def test_what_nobody_else_wants_any_more_is_free_for_all() -> None:
    world = a_world(queue_limit=12)
    runs = [run_of("run-0", world), run_of("run-1", world)]
    turns(world, runs, 10)
    asked(runs[1], Adjust("run-1", suspend=True, parallelism=100), 10.0)
    turns(world, runs, 12)
    assert len(runs[1].scheduled) == 0
    advance(runs[0], 30.0, world)
    assert len(runs[0].scheduled) == 12
    asked(runs[1], Adjust("run-1", suspend=False, parallelism=100, priority=2), 30.0)
    assert (runs[1].suspended, runs[1].priority) == (False, 2)


def test_each_step_of_priority_doubles_the_share() -> None:
    assert [weight_of(priority) for priority in range(3)] == [1, 2, 4]
