"""Full queues at their bounds: how long is too long, and what is said meanwhile."""

from __future__ import annotations

import pytest

from seedbed.crds.messages import StepKey, StepResult
from seedbed.runtime.coordination.port import Change
from seedbed.runtime.workflow.decide import accept, adjust, advance
from seedbed.runtime.workflow.records import StepFailed
from seedbed.runtime.workflow.snapshot import shortest
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.summary import summarise
from seedbed.runtime.workflow.world import World
from tests.runs import a_world, call, request, set_pool


def a_run(name: str, world: World, items: int, **spec: object) -> RunState:
    return RunState(
        request(call("each", forEach=f"lists.range({items})"), run=name, **spec), world.hands
    )


def one_behind_another(world: World, *, items: int) -> tuple[RunState, RunState]:
    """A run that has one step in hand, and one that comes after it."""
    other, run = a_run("other", world, 1), a_run("mine", world, items)
    advance(other, 0.0, world)
    advance(run, 0.0, world)
    return other, run


def finish(state: RunState, at: int, now: float) -> None:
    accept(state, StepResult(state.request.run, StepKey("each", at), 1, "w", at), now)


def timed_out(state: RunState, now: float, world: World) -> bool:
    made = advance(state, now, world)
    return any(isinstance(one, StepFailed) and one.error.code == "queue_timeout" for one in made)


@pytest.mark.req("DSX-32")
def test_a_queue_that_had_room_meanwhile_was_not_full_all_the_time() -> None:
    world = a_world(queue_limit=2, queue_timeout="30s")
    other, run = one_behind_another(world, items=3)
    assert len(run.scheduled) == 1
    # There is room, but the run may not take it; then others do.
    adjust(run, suspend=False, parallelism=1, now=20.0)
    finish(other, 0, 20.0)
    assert not timed_out(run, 20.0, world)
    late = a_run("late", world, 1)
    advance(late, 21.0, world)
    adjust(run, suspend=False, parallelism=9, now=31.0)
    assert not timed_out(run, 31.0, world)
    assert timed_out(run, 61.0, world)


@pytest.mark.req("DSX-32")
def test_time_for_which_a_run_is_suspended_is_no_wait_for_a_queue() -> None:
    world = a_world(queue_limit=1, queue_timeout="30s")
    _, run = one_behind_another(world, items=1)
    adjust(run, suspend=True, parallelism=9, now=1.0)
    advance(run, 1.0, world)
    adjust(run, suspend=False, parallelism=9, now=100.0)
    assert not timed_out(run, 100.0, world)
    assert timed_out(run, 130.0, world)


@pytest.mark.req("DSX-32")
def test_a_run_that_only_waits_for_a_full_queue_says_so() -> None:
    world = a_world(queue_limit=1)
    other, run = one_behind_another(world, items=2)
    told = summarise(run)
    assert (told.phase, told.reason) == ("Running", "QueueFull")
    assert told.message == "Pool 'general' has its 1 steps in hand; 2 steps wait"
    finish(other, 0, 1.0)
    advance(other, 1.0, world)
    advance(run, 1.0, world)
    assert (summarise(run).reason, summarise(run).message) == ("Running", "")


def test_steps_in_the_hands_of_a_pool_that_is_deleted_say_so_until_it_is_back() -> None:
    world = a_world()
    run = a_run("mine", world, 2)
    advance(run, 0.0, world)
    world.change(Change("pools/team/general", None))
    advance(run, 1.0, world)
    said = "Pool 'general' does not exist: the steps that it has in hand wait for it"
    assert (summarise(run).reason, summarise(run).message) == ("PoolNotFound", said)
    assert advance(run, 2.0, world) == [], "it is said once"
    # An engine that was not there when the Pool was deleted.
    later = World()
    again = RunState(run.request, later.hands)
    for record in shortest(run):
        again.apply(record)
    later.resumed(again)
    advance(again, 3.0, later)
    assert summarise(again).message == said
    for one, there in ((run, world), (again, later)):
        set_pool(there, "general")
        advance(one, 4.0, there)
        assert summarise(one).reason == "Running"
        assert len(one.scheduled) == 2
