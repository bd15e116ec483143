"""Steps that do not need each other run at the same time, and what fails takes nothing with it."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from seedbed.crds.engine_requests import Submit
from tests.conftest import run_async
from tests.runs import request
from tests.small_engine import NAMESPACE, a_store, ask, serving, until

FETCHES = ["one", "two", "three", "four"]


@pytest.mark.req("DSX-21")
def test_independent_steps_run_at_once_and_a_crash_leaves_the_others_their_results(
    tmp_path: Path,
) -> None:
    """Each fetch ends only if all run at the same time; one more step crashes beside them."""

    def fetch(name: str) -> dict[str, Any]:
        args = {"folder": str(tmp_path), "name": name, "others": FETCHES}
        return {"name": name, "call": {"entry": "tests.steps:meet", "args": args}}

    broken = {"name": "broken", "call": {"entry": "tests.steps:broken"}, "allowFailure": True}
    outputs = {name: f"${{steps.{name}.output}}" for name in (*FETCHES, "broken")}
    after = {
        "name": "after",
        "needs": ["broken", *FETCHES],
        "call": {"entry": "tests.steps:echo", "args": outputs},
    }
    plan = request(broken, *map(fetch, FETCHES), after, result="steps.after.output")

    async def body() -> None:
        async with asyncio.timeout(60), a_store(tmp_path) as store, serving(store) as bus:
            await ask(bus, plan.run, Submit(plan))
            found = await until(bus, plan.run)
        assert found.phase == "Succeeded"
        assert found.result == {name: name for name in FETCHES} | {"broken": None}
        assert (found.counts.succeeded, found.counts.failed) == (5, 1)

    run_async(body())


def test_what_a_pool_has_in_hand_is_told_to_autoscalers(tmp_path: Path) -> None:
    def held(name: str) -> dict[str, Any]:
        args = {"folder": str(tmp_path), "name": name, "others": ["go"]}
        return {"name": name, "call": {"entry": "tests.steps:meet", "args": args}}

    plan = request(*map(held, ["one", "two", "three"]))
    labels = {"namespace": NAMESPACE, "pool": "general"}

    async def told(count: float) -> None:
        while REGISTRY.get_sample_value("seedbed_engine_pool_steps", labels) != count:
            await asyncio.sleep(0.01)

    async def body() -> None:
        async with asyncio.timeout(60), a_store(tmp_path) as store, serving(store) as bus:
            await ask(bus, plan.run, Submit(plan))
            await told(3)
            (tmp_path / "go").touch()
            await told(0)
            assert (await until(bus, plan.run)).phase == "Succeeded"

    run_async(body())
