"""The guide to events does what it says."""

from __future__ import annotations

import asyncio
import re
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import yaml

from seedbed.cli.event_settings import EventsSetting
from seedbed.crds.messages import RunSummary
from seedbed.crds.workflow_status import Phase
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.worker.adapters import PythonAdapter
from seedbed.runtime.workflow.telling import tell_end
from tests.conftest import run_async

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "events.md").read_text()
PYTHON = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
VALUES = re.findall(r"```yaml\n(nats:.*?)```", GUIDE, re.DOTALL)


def run(code: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(code, "events.md", "exec"), names)
    return names


def test_the_follower_of_the_guide_hears_of_every_run_that_ends() -> None:
    async def body() -> None:
        names = run(PYTHON[1])
        sent: list[str] = []
        bus = MemoryBus()
        following = asyncio.create_task(names["follow_all"](bus, sent))
        for number in range(20):
            phase: Phase = "Failed" if number == 7 else "Succeeded"
            tell_end(bus.events, RunSummary(f"run-{number}", "team", f"w{number}", 1, phase, ""))
        while len(sent) < 20:
            await asyncio.sleep(0)
        following.cancel()
        assert sorted(sent) == sorted(
            f"team/w{number}: {'Failed' if number == 7 else 'Succeeded'}" for number in range(20)
        )
        await bus.close()

    run_async(body())


def test_the_step_of_the_guide_gives_its_items_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    async def body() -> None:
        module = types.ModuleType("stories")
        vars(module).update(run(PYTHON[0]))
        monkeypatch.setitem(sys.modules, "stories", module)
        told: list[Any] = []

        async def tell(item: Any) -> None:
            told.append(item)

        workflow = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)[0])
        call = workflow["spec"]["steps"][0]["call"]
        output = await PythonAdapter().call(call["entry"], call["args"], "key", tell)
        assert output == told == [f"A seed, chapter {number}" for number in (1, 2, 3)]

    run_async(body())


def test_the_values_of_the_guide_are_the_defaults() -> None:
    (text,) = VALUES
    assert EventsSetting.model_validate(yaml.safe_load(text)["nats"]["events"]) == EventsSetting()
