"""Steps that started for a branch which then chose otherwise: nothing of them is left."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from seedbed.crds.engine_requests import Cancel, Signal, Submit
from seedbed.crds.messages import RunRequest, StepKey
from seedbed.runtime.workflow.decide import asked
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.summary import summarise
from tests.conftest import run_async
from tests.runs import Clockwork, a_world, call, request, set_pool
from tests.small_engine import a_store, ask, serving, until


def guessing(early: dict[str, Any], *steps: dict[str, Any], choose: str) -> RunRequest:
    """A branch behind the event `judged`, of which `early` is expected to be needed."""
    guess = {"arm": "then", "confidence": 0.9}
    chosen = {"when": choose, "then": [early["name"]], "else": ["other"], "speculate": guess}
    return request(
        {"name": "judge", "wait": {"event": "judged"}},
        {"name": "choose", "needs": ["judge"], "branch": chosen},
        {**early, "pure": True},
        call("other"),
        *steps,
    )


@pytest.mark.req("COG-2.2.2")
def test_a_worker_drops_what_a_branch_has_not_chosen(tmp_path: Path) -> None:
    args = {"folder": str(tmp_path), "item": 0, "stuck": 0}
    early = {"name": "early", "call": {"entry": "tests.steps:stopped_once", "args": args}}
    plan = guessing(early, {"name": "last", "wait": {"event": "end"}}, choose="false")
    plan.spec["steps"][3]["call"] = {"entry": "tests.steps:echo", "args": {"x": 1}}

    async def body() -> None:
        async with asyncio.timeout(40), a_store(tmp_path) as store, serving(store) as bus:
            await ask(bus, plan.run, Submit(plan))
            while not traces(tmp_path, "item-*"):
                await asyncio.sleep(0.01)
            await ask(bus, plan.run, Signal(plan.run, "judged", "1", None, "tester"))
            # Not only when the run ends, which has another step to wait for.
            while not traces(tmp_path, "stopped-*"):
                await asyncio.sleep(0.01)
            found = await until(bus, plan.run, lambda told: told.counts.succeeded == 3)
            assert (found.phase, found.counts.running, found.counts.skipped) == ("Running", 0, 1)
            await ask(bus, plan.run, Cancel(plan.run, "seen enough"))

    run_async(body())


def test_what_cannot_start_early_holds_nothing_up_and_leaves_no_trace() -> None:
    early = call("early", pool={"name": "gone"})
    last = {"name": "last", "wait": {"event": "end"}}
    for choose in ("true", "false"):
        world = a_world()
        plan = guessing(early, last, choose=choose)
        run = Clockwork(RunState(plan, world.hands), world, lambda task: task.inputs)
        run.advance()
        assert summarise(run.state).reason == "Waiting", "it may not be needed at all"
        run.journal += decided(run, "judged")
        run.turn()
        needed = choose == "true"
        assert (summarise(run.state).reason == "PoolNotFound") is needed
        run.turn()
        run.advance()
        assert bool(run.state.lanes) is needed
        if needed:
            set_pool(world, "gone")
            run.advance()
            assert StepKey("early") in run.state.scheduled


def traces(folder: Path, pattern: str) -> list[Path]:
    return list(folder.glob(pattern))


def decided(run: Clockwork, event: str) -> list[Any]:
    return asked(run.state, Signal("run-1", event, "1", None, "tester"), run.now)
