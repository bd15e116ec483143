"""Runs that wait for people and events, and that undo what they did: through the engine and its store."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from seedbed.crds.engine_requests import Approve, Signal
from seedbed.crds.errors import ConflictError, NotFoundError
from seedbed.crds.messages import Decision, RunSummary
from seedbed.runtime.workflow.history import StoredHistory
from seedbed.runtime.workflow.records import ApprovalGiven, EventReceived, StepWaiting
from seedbed.runtime.workflow.replay import records_of
from tests.conftest import run_async
from tests.integration.test_workflow_engine import embedded, engine, running, step, workers

YES = Decision("approve", "kim", "figures checked")


def waits_for(name: str) -> Any:
    def condition(summary: RunSummary) -> bool:
        return name in [one.step for one in summary.waiting]

    return condition


def test_a_run_waits_for_a_person_and_an_event_over_a_restart_of_its_engine(tmp_path: Path) -> None:
    async def body() -> None:
        async with embedded(tmp_path) as at:
            await at.pool()
            request = at.request(
                step("draft", "echo", args={"n": 3}),
                {"name": "ok", "approve": {"message": "Send ${steps.draft.output.n}?"}},
                {"name": "paid", "wait": {"event": "paid"}, "needs": ["ok"]},
                {"name": "pause", "wait": {"duration": "50ms"}, "needs": ["paid"]},
                step("send", "echo", args={"sum": "${steps.paid.output.sum}"}, needs=["pause"]),
                result="steps.send.output",
            )
            run = request.run
            async with workers(at):
                async with engine(at, "first"):
                    await at.submit(request)
                    asked = await at.until(run, waits_for("ok"))
                    assert (asked.reason, asked.message) == ("WaitingForApproval", "ok: Send 3?")
                    # It comes before its step waits, and twice.
                    for _ in range(2):
                        await at.ask(run, Signal(run, "paid", "id-1", {"sum": 12}, "shop"))
                async with engine(at, "second"):
                    assert waits_for("ok")(await at.summary(run))
                    with pytest.raises(NotFoundError):
                        await at.ask(run, Approve(run, "nothing", YES))
                    await at.ask(run, Approve(run, "ok", YES))
                    summary = await at.ended(run)
                    assert (summary.phase, summary.result) == ("Succeeded", {"sum": 12})
                    with pytest.raises(ConflictError):
                        await at.ask(run, Approve(run, "ok", YES))
            records = [record async for _, record in records_of(at.store, run)]
            given = [record for record in records if isinstance(record, ApprovalGiven)]
            assert [record.decision for record in given] == [YES]
            assert len([one for one in records if isinstance(one, EventReceived)]) == 1
            waited = [str(one.key) for one in records if isinstance(one, StepWaiting)]
            assert waited == ["ok", "paid", "pause"]

    run_async(body())


def test_what_was_done_is_undone_by_workers_and_the_log_tells(tmp_path: Path) -> None:
    folder = {"folder": str(tmp_path)}
    undo = {"entry": "tests.steps:note", "args": {**folder, "label": "${output}"}}

    async def body() -> None:
        async with running(lambda: embedded(tmp_path)) as at:
            request = at.request(
                step("a", "note", args={**folder, "label": "one"}, compensate=undo),
                step("b", "note", args={**folder, "label": "two"}, compensate=undo, needs=["a"]),
                step("c", "broken", needs=["b"], onError={"action": "compensate"}),
                step("last", "note", args={**folder, "label": "${run.reason}"}),
                onExit=["last"],
            )
            await at.submit(request)
            summary = await at.ended(request.run)
            assert (summary.phase, summary.reason) == ("Failed", "Compensated")
            executed = (tmp_path / "executed").read_text().split()
            keys = [line.removeprefix(f"{request.run}/") for line in executed]
            assert keys == ["a", "b", "b:compensate", "a:compensate", "last"]
            log = await StoredHistory(at.store).steps(request.run)
            told = {line["name"]: line.get("output") for line in log}
            assert (told["a:compensate"], told["last"]) == ("one", "Compensated")

    run_async(body())


def test_a_loop_and_a_branch_through_workers(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(lambda: embedded(tmp_path)) as at:
            request = at.request(
                step(
                    "grow",
                    "echo",
                    args={"n": "${previous == null ? 1 : previous.n * 2}"},
                    repeat={"until": "output.n >= 8", "max": 10},
                ),
                {
                    "name": "size",
                    "branch": {
                        "when": "steps.grow.output.n > 5",
                        "then": ["big"],
                        "else": ["small"],
                    },
                },
                step("big", "echo", args={"way": "big"}),
                step("small", "echo", args={"way": "small"}),
                step("end", "echo", needs=["big", "small"], args={"way": "${steps.size.output}"}),
                result="[steps.grow.output.n, steps.end.output.way]",
            )
            await at.submit(request)
            summary = await at.ended(request.run)
            assert summary.result == [8, "then"]
            assert summary.counts.skipped == 1

    run_async(body())


@pytest.mark.req("SNK-23")
@pytest.mark.parametrize(
    ("on", "phase"), [("connection_error", "Succeeded"), ("timeout_error", "Failed")]
)
def test_workers_tell_the_class_of_an_error_and_only_that_is_retried(
    tmp_path: Path, on: str, phase: str
) -> None:
    async def body() -> None:
        async with running(lambda: embedded(tmp_path)) as at:
            request = at.request(
                step(
                    "flaky",
                    "flaky",
                    args={"folder": str(tmp_path), "failures": 2},
                    retry={"attempts": 3, "backoff": "20ms", "on": [on]},
                )
            )
            await at.submit(request)
            assert (await at.ended(request.run)).phase == phase
            log = await StoredHistory(at.store).steps(request.run)
            assert {line["class"] for line in log if "class" in line} == {"connection_error"}

    run_async(body())
