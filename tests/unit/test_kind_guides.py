"""The guides of Pools, Agents and flags: what they say of their examples is so."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import yaml

from seedbed.crds.agent import AgentSpec
from seedbed.crds.feature_flag import FeatureFlagSpec
from seedbed.crds.pool import PoolSpec
from seedbed.crds.signature import Signature
from seedbed.runtime.flags.evaluate import BUCKETS, evaluate

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"


def spec(guide: str, kind: str) -> Any:
    """The spec of the first object of a kind that a guide shows."""
    blocks = re.findall(r"```yaml\n(.*?)```", (GUIDES / f"{guide}.md").read_text(), re.DOTALL)
    found = [yaml.safe_load(block) for block in blocks]
    return next(one["spec"] for one in found if one["kind"] == kind)


def test_a_pool_executes_as_many_steps_as_the_guide_says() -> None:
    pool = PoolSpec.model_validate(spec("pools", "Pool"))
    at_a_time = pool.replicas * pool.workers_per_replica * pool.concurrency
    assert f"up to {at_a_time} steps at a time" in (GUIDES / "pools.md").read_text()


def test_the_function_of_the_guide_is_one() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (GUIDES / "pools.md").read_text(), re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    assert asyncio.run(names["collect"](limit=2)) == {"letters": ["letter 0", "letter 1"]}


def test_the_workflow_of_the_guide_reads_outputs_that_its_agent_has() -> None:
    agent = AgentSpec.model_validate(spec("agents", "Agent"))
    signature = Signature.parse(agent.signature).with_strategy(agent.strategy)
    assert "topic" in [field.name for field in signature.outputs]
    assert "reasoning" in [field.name for field in signature.outputs]
    (step,) = spec("agents", "Workflow")["steps"]
    assert set(step["agent"]["inputs"]) == {field.name for field in signature.inputs}


def test_the_flag_of_the_guide_decides_in_the_order_that_it_says() -> None:
    flag = FeatureFlagSpec.model_validate(spec("feature-flags", "FeatureFlag"))
    key = "team-a/careful-prompt"
    assert evaluate(flag, key, "team-legal").value
    assert not evaluate(flag, key, "team-audit").value
    assert not evaluate(flag, key, None).value
    on = sum(evaluate(flag, key, f"subject-{n}").value for n in range(4_000))
    assert 0.22 < on / 4_000 < 0.28
    assert f"{BUCKETS:,} buckets" in (GUIDES / "feature-flags.md").read_text()
