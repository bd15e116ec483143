"""Whatever a plan says that is accepted, its run ends: no step waits for what cannot come."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.crds.graph_builder import graph_problems
from seedbed.crds.graph_checks import FALLBACK, Gate, ended, order_needs
from seedbed.crds.messages import StepError, StepTask
from seedbed.crds.ordering import find_cycle
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.record_form import decode_records, encode_records
from seedbed.runtime.workflow.snapshot import shortest
from seedbed.runtime.workflow.state import RunState
from tests.runs import Clockwork, a_world, call, request

ACTIONS = ("fail", "continue", "skip", "abort", "compensate", "fallback")


@st.composite
def plans(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Steps with all that says who waits for whom; many of them cannot be, and are left out."""
    count = draw(st.integers(2, 8))
    names = [f"s{at}" for at in range(count)]
    steps: list[dict[str, Any]] = []
    for at, name in enumerate(names):
        # Mostly backwards, so that most plans have no cycle.
        near = names[:at] if draw(st.integers(0, 5)) else names
        needs = draw(st.lists(st.sampled_from(near), max_size=3, unique=True)) if near else []
        step = call(name, needs=needs)
        kind = draw(st.integers(0, 9))
        if kind == 0:
            some = draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
            cut = draw(st.integers(0, len(some)))
            when = draw(st.sampled_from(["true", "false"]))
            del step["call"]
            step["branch"] = {"when": when, "then": some[:cut], "else": some[cut:]}
        elif kind == 1:
            del step["call"]
            step["approve"] = {"message": "?", "deadline": "1m"}
        elif kind == 2:  # one of the kinds
            step["forEach"] = draw(st.sampled_from(["[]", "[1, 2]"]))
        elif kind == 3:
            step["repeat"] = {"until": "iteration == 1", "max": 2}
        if draw(st.booleans()):
            action = draw(st.sampled_from(ACTIONS))
            step["onError"] = {"action": action}
            if action == "fallback":
                step["onError"]["step"] = draw(st.sampled_from(names))
        if needs and draw(st.integers(0, 3)) == 0:
            step["join"] = draw(st.sampled_from(["any", 1, len(needs)]))
        if "call" in step and draw(st.integers(0, 3)) == 0:
            step["compensate"] = {"entry": "steps:undo"}
        if draw(st.integers(0, 6)) == 0:
            step["when"] = draw(st.sampled_from(["true", "false"]))
        steps.append(step)
    return steps


@pytest.mark.req("DSX-43")
@settings(max_examples=100, deadline=None)
@given(plans(), st.lists(st.integers(0, 20), min_size=1, max_size=9), st.data())
def test_every_plan_that_is_accepted_ends(
    steps: list[dict[str, Any]], order: list[int], data: st.DataObject
) -> None:
    if graph_problems(WorkflowSpec.model_validate({"steps": steps})):
        return
    failing = data.draw(st.sets(st.sampled_from([step["name"] for step in steps])))

    def behave(task: StepTask) -> Any:
        broken = task.key.step in failing
        return StepError("broken", "it broke", retryable=False) if broken else str(task.key)

    world, plan = a_world(), request(*steps)
    run = Clockwork(RunState(plan, world.hands), world, behave)
    for turn in range(300):
        run.advance()
        if run.state.finished:
            break
        if run.state.scheduled:
            keys = sorted(run.state.scheduled, key=str)
            run.execute(keys[order[turn % len(order)] % len(keys)])
        else:
            due = run.state.due()
            assert due is not None, "nothing runs, and no time is waited for"
            run.now = max(run.now, due)
        encoded = encode_records(shortest(run.state))
        again = RunState(plan)
        for record in decode_records(encoded.data, encoded.values):
            again.apply(record)
        assert again.counts == run.state.counts
        assert again.told == run.state.told
        assert again.scheduled.keys() == run.state.scheduled.keys()
        assert again.unsettled == run.state.unsettled
    assert run.state.finished is not None
    assert not world.hands.total()
    counts = run.state.counts
    if run.state.finished.phase == "Succeeded":
        assert counts["succeeded"] + counts["failed"] + counts["skipped"] == counts["total"]


def test_the_edges_of_a_plan_stay_few_however_many_wait_for_a_long_chain_of_fallbacks() -> None:
    names = [f"s{at}" for at in range(300)]
    gates = {behind: Gate(name, FALLBACK) for name, behind in pairwise(names)}
    needs = {name: (gates[name].step,) if name in gates else () for name in names}
    needs |= {f"e{at}": (names[0],) for at in range(300)}
    ordered = order_needs(needs, gates)
    assert sum(map(len, ordered.values())) < 5 * len(needs)
    assert find_cycle(ordered) == []
    cycle = find_cycle(order_needs({**needs, names[-1]: (names[-2], "e7")}, gates))
    assert {names[-1], "e7"} <= set(ended(cycle))
