"""When a run will end, as the engine tells beside its turns; plans that are run shorter."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, cast

import pytest

from seedbed.crds.messages import StepKey
from seedbed.crds.wire import encode
from seedbed.runtime.store.port import Entry, Store
from seedbed.runtime.workflow.plan import reopened, started
from seedbed.runtime.workflow.planning.earlier_times import EarlierTimes
from seedbed.runtime.workflow.planning.forecast import EVERY, FIRST, Forecaster
from seedbed.runtime.workflow.record_form import encode_records
from seedbed.runtime.workflow.records import Record, StepScheduled, StepSucceeded
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.summary import summarise
from tests.conftest import run_async
from tests.runs import Clockwork, a_world, call, request


class Earlier:
    """A store with one earlier run."""

    def __init__(self, records: Sequence[Record] = ()) -> None:
        self._records = records
        self.asked = 0
        self.told: list[str] = []

    async def ended(self, namespace: str, workflow: str, most: int) -> list[str]:
        self.asked += 1
        return ["old"] if self._records else []

    async def journal(self, run: str, after: int = 0, *, limit: int = 0) -> list[Entry]:
        assert run == "old"
        return [] if after else [Entry("old", 1, encode_records(self._records).data)]


def went(step: str, seconds: float) -> list[Record]:
    key = StepKey(step)
    return [
        StepScheduled(key, 1, 0.0, "call", "general", 60.0, {}, {}),
        StepSucceeded(key, 1, seconds, "w", 0.0, seconds, None),
    ]


def begun(*steps: dict[str, Any], **spec: Any) -> Clockwork:
    world = a_world()
    clockwork = Clockwork(RunState(request(*steps, **spec), world.hands), world, lambda _: None)
    clockwork.advance()
    return clockwork


def forecaster(state: RunState, store: Earlier) -> Forecaster:
    async def tell(run: str) -> None:
        store.told.append(run)

    return Forecaster(0, lambda: {"run-1": state}, EarlierTimes(cast("Store", store)), tell)


def test_the_end_is_told_from_history_estimates_and_what_runs() -> None:
    clockwork = begun(
        call("first", estimate="50s"),
        call("second", needs=["first"], estimate="7s"),
        call("third", needs=["second"]),
    )
    state, store = clockwork.state, Earlier([*went("first", 10.0), *went("third", 4.0)])
    looks = forecaster(state, store)
    run_async(looks.look(1000.0 + FIRST - 0.1))
    assert state.eta is None
    # `first` has run for FIRST seconds of ten; `second` is declared, `third` took four before.
    run_async(looks.look(1000.0 + FIRST))
    assert state.eta == pytest.approx(1000.0 + 10.0 + 7.0 + 4.0)
    assert summarise(state).eta == state.eta
    clockwork.now = 1000.0 + FIRST + 1
    clockwork.execute(StepKey("first"))
    clockwork.advance()
    run_async(looks.look(1000.0 + FIRST + 2))
    assert state.eta == pytest.approx(1021.0)
    # It ended sooner than expected: that is seen with the next look.
    run_async(looks.look(1000.0 + FIRST + EVERY))
    assert state.eta == pytest.approx(1000.0 + FIRST + 1 + 7.0 + 4.0)
    assert store.asked == 1
    # Everybody is told when the forecast moved, and only then.
    assert store.told == ["run-1", "run-1"]
    run_async(looks.look(1000.0 + FIRST + EVERY + 0.5))
    assert store.told == ["run-1", "run-1"]


def test_units_of_which_nothing_is_known_take_as_long_as_the_others_did() -> None:
    clockwork = begun(
        call("list"),
        {**call("each"), "forEach": "params.all"},
        params={"all": list(range(100))},
        parallelism=11,
    )
    state = clockwork.state
    looks = forecaster(state, Earlier())
    clockwork.execute(StepKey("list"))
    clockwork.advance()
    for at in range(1, 21):
        # Ten units run at a time and one ends every second: ten seconds each.
        clockwork.now = 1000.0 + at
        run_async(looks.look(clockwork.now))
        clockwork.execute(next(iter(state.scheduled)))
        clockwork.advance()
    run_async(looks.look(1025.0))
    assert state.eta is not None
    assert 1060 < state.eta < 1130


def test_a_suspended_run_has_no_end_in_sight_and_a_finished_one_tells_none() -> None:
    clockwork = begun(call("only"))
    state = clockwork.state
    looks = forecaster(state, Earlier())
    run_async(looks.look(1010.0))
    assert state.eta is not None
    state.suspended = True
    run_async(looks.look(1100.0))
    assert state.eta is None
    state.suspended = False
    run_async(looks.look(1200.0))
    assert state.eta is not None
    clockwork.to_the_end()
    assert summarise(state).eta is None


def test_a_defect_ends_the_forecasts_of_one_run_and_nothing_else() -> None:
    class Broken(Earlier):
        async def ended(self, namespace: str, workflow: str, most: int) -> list[str]:
            self.asked += 1
            raise RuntimeError("a defect")

    state, store = begun(call("only")).state, Broken()
    looks = forecaster(state, store)
    for now in (1010.0, 1100.0, 1200.0):
        run_async(looks.look(now))
    assert (state.eta, store.asked) == (None, 1)


def test_forecasts_end_with_their_context() -> None:
    async def body() -> None:
        async with forecaster(begun(call("only")).state, Earlier()).running():
            await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    run_async(body())


LONGER = (
    call("slow", estimate="9s"),
    call("quick", estimate="1s"),
    call("read", needs=["slow"], pure=True, args={"x": "${steps.quick.output}"}),
    call("write", args={"x": "${steps.read.output}"}),
)


@pytest.mark.req("COG-4.2.3")
def test_what_would_shorten_a_plan_is_told_and_nothing_is_changed() -> None:
    state = begun(*LONGER).state
    run_async(forecaster(state, Earlier()).look(1010.0))
    assert state.advice is not None
    assert (state.advice.applied, state.advice.before, state.advice.after) == (False, 11.0, 10.0)
    assert "needs of pure steps dropped: 1" in state.advice.message
    assert state.graph.nodes["read"].needs == ("slow", "quick")
    off = begun(*LONGER, optimise="Off").state
    run_async(forecaster(off, Earlier()).look(1010.0))
    assert off.advice is None


@pytest.mark.req("COG-4.2.3")
def test_the_shorter_plan_is_run_where_the_user_says_so_and_again_after_a_restart() -> None:
    start = started(request(*LONGER, optimise="Apply"))
    assert start.plan.graph.nodes["read"].needs == ("quick",)
    assert start.plan.graph.nodes["write"].needs == ("slow", "read")
    assert start.request.advice is not None
    assert start.request.advice.applied
    (data,) = start.values.values()
    again = run_async(reopened(start.request, data))
    assert {name: node.needs for name, node in again.graph.nodes.items()} == {
        name: node.needs for name, node in start.plan.graph.nodes.items()
    }
    state = RunState(start.request, a_world().hands, start.plan)
    assert summarise(state).advice == start.request.advice
    assert b"shorter" in encode(summarise(state))


def test_a_plan_that_cannot_be_shorter_is_run_as_it_is() -> None:
    start = started(request(call("a"), call("b", needs=["a"]), optimise="Apply"))
    assert not start.values
    assert start.request.advice is not None
    assert start.request.advice.message == ""
