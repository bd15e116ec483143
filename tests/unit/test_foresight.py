"""Branches that ask what earlier runs have chosen."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.crds.engine_requests import Submit
from seedbed.crds.graph_builder import graph_problems
from seedbed.crds.messages import RunRequest
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.foresight import Foresight, foretold, guess
from seedbed.runtime.workflow.plan import Start, started
from seedbed.runtime.workflow.records import StepScheduled
from seedbed.runtime.workflow.replay import records_of
from tests.conftest import run_async
from tests.small_engine import NAMESPACE, a_store, ask, serving, until

ECHO = {"entry": "tests.steps:echo"}


def plan(run: str, gate: Path, *, urgent: bool = True, **speculate: Any) -> RunRequest:
    """A judgement that waits for a file, and two arms of which both may start early."""
    judge = {
        "entry": "tests.steps:meet",
        "args": {"folder": str(gate), "name": run, "others": ["go"]},
    }
    branch = {
        "when": "steps.judge.output != '' && params.urgent",
        "then": ["page"],
        "else": ["note"],
        "speculate": speculate,
    }
    steps = [
        {"name": "judge", "call": judge},
        {"name": "urgent", "branch": branch},
        {"name": "page", "pure": True, "call": ECHO},
        {"name": "note", "pure": True, "call": ECHO},
    ]
    spec = {"steps": steps, "params": {"urgent": urgent}, "result": "steps.urgent.output"}
    return RunRequest(run, NAMESPACE, "triage", spec)


@given(st.integers(0, 60), st.integers(0, 60))
def test_the_guess_is_the_arm_of_most_runs_and_never_certain(then: int, otherwise: int) -> None:
    found = guess(Counter({"then": then, "else": otherwise}) if then + otherwise else Counter())
    if not then + otherwise:
        assert found is None
        return
    assert found is not None
    arm, confidence = found
    assert max(then, otherwise) == {"then": then, "else": otherwise}[arm]
    assert 0.5 <= confidence < 1


@pytest.mark.parametrize(
    ("outcomes", "early"),
    [
        (Counter({"then": 3}), ("page",)),
        (Counter({"else": 9, "then": 1}), ("note",)),
        (Counter({"then": 2}), ()),  # 3 of 4: not sure enough
        (Counter({"then": 5, "else": 4}), ()),
        (Counter(), ()),
    ],
)
def test_steps_of_the_arm_that_is_sure_enough_start_early(
    tmp_path: Path, outcomes: Counter[str], early: tuple[str, ...]
) -> None:
    before = started(plan("a", tmp_path)).plan
    assert before.graph.early == ()
    assert foretold(before, {"urgent": outcomes}).graph.early == early


def test_an_arm_of_which_nothing_may_start_early_is_left(tmp_path: Path) -> None:
    request = plan("a", tmp_path)
    del request.spec["steps"][2]["pure"]
    before = started(request).plan
    assert foretold(before, {"urgent": Counter({"then": 9})}) is before


@pytest.mark.parametrize(
    ("given", "missing"), [({"arm": "then"}, "confidence"), ({"confidence": 0.9}, "arm")]
)
def test_an_arm_and_its_confidence_come_together(
    tmp_path: Path, given: dict[str, Any], missing: str
) -> None:
    spec = WorkflowSpec.model_validate(plan("a", tmp_path, **given).spec)
    (problem,) = graph_problems(spec)
    assert problem.field == f"spec.steps[1].branch.speculate.{missing}"


def test_a_run_learns_from_those_before_it(tmp_path: Path) -> None:
    """After three runs the arm starts while the judgement is under way."""

    async def begins(store: Any, run: str) -> list[str]:
        return [
            record.key.step
            async for _, record in records_of(store, run)
            if isinstance(record, StepScheduled)
        ]

    async def body() -> None:
        async with asyncio.timeout(60), a_store(tmp_path) as store, serving(store) as bus:
            (tmp_path / "go").touch()
            for run in ("first", "second", "third"):
                await ask(bus, run, Submit(plan(run, tmp_path)))
                assert (await until(bus, run)).result == "then"
                assert await begins(store, run) == ["judge", "page"]
            (tmp_path / "go").unlink()
            ready = await Foresight(store).ready(Submit(plan("fourth", tmp_path)))
            assert isinstance(ready, Start)
            assert ready.plan.graph.early == ("page",)
            other = await Foresight(store).ready(
                Submit(plan("x", tmp_path, arm="else", confidence=1))
            )
            assert isinstance(other, Submit), "who names an arm is not told another"

    run_async(body())
    restarted = tmp_path / "go"

    async def again() -> None:
        async with asyncio.timeout(60), a_store(tmp_path) as store, serving(store, 1) as bus:
            await ask(bus, "fourth", Submit(plan("fourth", tmp_path)))
            await until(bus, "fourth", lambda told: told.counts.running == 1)
            while await begins(store, "fourth") != ["judge", "page"]:
                await asyncio.sleep(0.01)
            restarted.touch()
            assert (await until(bus, "fourth")).result == "then"
            assert await begins(store, "fourth") == ["judge", "page"]

    run_async(again())
