"""Steps that failed for good and are done in another way: through the engine, its store and workers."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import REGISTRY

from seedbed.crds.addresses import template_setting
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.history import StoredHistory
from tests.conftest import run_async
from tests.integration.test_workflow_engine import embedded, engine, running, step, workers


@pytest.mark.req("COG-4.4.1")
def test_a_step_goes_to_another_pool_over_a_restart_of_the_engine(tmp_path: Path) -> None:
    folder = {"folder": str(tmp_path)}

    async def body() -> None:
        async with embedded(tmp_path) as at:
            await at.pool()
            await at.pool("spare")
            request = at.request(
                step("kept", "note", args={**folder, "label": "one"}),
                step("moved", "flaky", args={**folder, "failures": 1}, needs=["kept"]),
                replan={"pools": ["general", "spare"]},
                result="steps.moved.output",
            )
            run = request.run
            async with workers(at):
                async with engine(at, "first"):
                    await at.submit(request)
                    await at.until(run, lambda summary: summary.replans == 1)
                async with engine(at, "second"), workers(at, pool="spare"):
                    summary = await at.ended(run)
            assert (summary.phase, summary.result, summary.replans) == ("Succeeded", 2, 1)
            # What had been done before was not done again.
            executed = (tmp_path / "executed").read_text().split()
            assert executed == [f"{run}/kept"]
            log = await StoredHistory(at.store).steps(run)
            assert [(line["name"], line["state"]) for line in log] == [
                ("kept", "Succeeded"),
                ("moved", "Retrying"),
                ("moved", "Replanned"),
                ("moved", "Succeeded"),
            ]
            assert "pool spare" in log[2]["error"]
            assert "connection_error" in log[2]["error"]

    run_async(body())


@pytest.mark.req("COG-4.4.1")
def test_a_sub_tree_and_another_entry_take_the_place_of_what_is_broken(tmp_path: Path) -> None:
    def counted(outcome: str) -> float:
        labels = {"reason": "logic", "outcome": outcome}
        return REGISTRY.get_sample_value("seedbed_engine_replans_total", labels) or 0.0

    async def body() -> None:
        before = counted("planned"), counted("succeeded")
        async with running(lambda: embedded(tmp_path)) as at:
            tree = WorkflowSpec.model_validate(
                {
                    "template": True,
                    "steps": [
                        step("one", "echo", args={"n": 1}),
                        step("two", "echo", args={"n": "${steps.one.output.n + 1}"}),
                    ],
                    "result": "steps.two.output.n",
                }
            )
            template = tree.model_dump_json(by_alias=True, exclude_none=True).encode()
            await at.coordinator.put(template_setting(at.namespace, "by-hand"), template)
            request = at.request(
                step("tree", "broken", alternatives=[{"workflow": "by-hand"}]),
                step("entry", "broken", alternatives=[{"entry": "tests.steps:echo"}]),
                step("lost", "broken", alternatives=[{"pool": "general"}], allowFailure=True),
                result="[steps.tree.output, steps.entry.output, steps.lost.error.code]",
            )
            await at.submit(request)
            summary = await at.ended(request.run)
            assert (summary.phase, summary.replans) == ("Succeeded", 2)
            assert summary.result == [2, {}, "entry_failed"]
        assert (counted("planned"), counted("succeeded")) == (before[0] + 2, before[1] + 2)

    run_async(body())
