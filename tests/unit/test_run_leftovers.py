"""When a run has its outcome, what workers and inner runs still do for it is stopped."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from seedbed.crds.engine_requests import Cancel, Submit
from seedbed.crds.messages import Parent, StepKey
from seedbed.crds.run_ids import run_id
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.workflow.children import ASK_EVERY, Children
from seedbed.runtime.workflow.journal import LiveRun
from seedbed.runtime.workflow.state import RunState
from tests.conftest import run_async
from tests.runs import call, request
from tests.small_engine import a_store, ask, serving, until


def stuck(folder: Path, name: str = "stuck") -> dict[str, Any]:
    """A step that never ends by itself, and leaves a trace when it is stopped."""
    args = {"folder": str(folder), "item": 1, "stuck": 1}
    return {"name": name, "call": {"entry": "tests.steps:stopped_once", "args": args}}


def waiting(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "wait": {"event": "never"}, **more}


async def comes(path: Path) -> None:
    while not await asyncio.to_thread(path.exists):
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("then", [[], ["last"]])
def test_what_a_cancelled_run_has_on_workers_is_stopped(
    tmp_path: Path, then: list[str], *, inside: bool
) -> None:
    """Also while its onExit steps go on, and also what runs inside of it."""
    work = stuck(tmp_path)
    if inside:
        work = {"name": "inner", "workflow": {"steps": [work]}}
    last = [waiting("last")] if then else []
    plan = request(work, *last, onExit=then, run="uid-1-abcdef12")

    async def body() -> None:
        async with asyncio.timeout(30), a_store(tmp_path) as store, serving(store) as bus:
            await ask(bus, plan.run, Submit(plan))
            await comes(tmp_path / "item-1")
            await ask(bus, plan.run, Cancel(plan.run, "the Workflow was deleted"))
            await comes(tmp_path / "stopped-1")
            found = await until(bus, plan.run, lambda told: bool(then))
            assert found.reason == ("OnExit" if then else "Cancelled")

    run_async(body())


def test_what_a_run_that_fails_has_on_workers_is_stopped(tmp_path: Path) -> None:
    trace = {"trace": str(tmp_path / "item-1")}
    fails = {"name": "fails", "call": {"entry": "tests.steps:fail_after", "args": trace}}
    plan = request(stuck(tmp_path), fails)

    async def body() -> None:
        async with asyncio.timeout(30), a_store(tmp_path) as store, serving(store) as bus:
            await ask(bus, plan.run, Submit(plan))
            await comes(tmp_path / "stopped-1")
            assert (await until(bus, plan.run)).reason == "StepFailed"

    run_async(body())


@pytest.mark.parametrize("field", ["suspend", "parallelism", "priority"])
def test_what_may_change_while_a_run_goes_on_makes_no_other_run(field: str) -> None:
    plan = {"steps": [call("a")]}
    changed = {**plan, field: {"suspend": True, "parallelism": 3, "priority": 2}[field]}
    before, after = (run_id("uid", WorkflowSpec.model_validate(one)) for one in (plan, changed))
    assert before == after


def test_runs_that_were_asked_for_long_ago_are_not_remembered(tmp_path: Path) -> None:
    """Thousands of runs come and go: what is known of them must not grow with their number."""

    async def body() -> None:
        async with a_store(tmp_path) as store:
            bus = MemoryBus()
            live: dict[str, LiveRun] = {}

            async def own(_: Any) -> bytes:
                return b"{}"

            async with Children(bus, store, live, own) as some:
                for number in range(100):
                    parent = Parent(f"uid-{number}-parent00", StepKey("a"), 1, ("outer",), None)
                    plan = replace(request(call("a"), run=f"uid-{number}"), parent=parent)
                    some.look(LiveRun(RunState(plan)), number * 2 * ASK_EVERY)
                    assert len(some._asked) <= 1
                    await asyncio.sleep(0)
            await bus.close()

    run_async(body())
