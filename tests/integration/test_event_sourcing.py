"""The journal is the truth: one writer wins each version, and what it holds leads to the live state."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from seedbed.crds.engine_requests import Adjust
from seedbed.crds.errors import ConflictError
from seedbed.crds.messages import RunRequest, StepError, StepTask
from seedbed.crds.wire import encode
from seedbed.runtime.store.port import Commit, Entry, RunRow
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.workflow.record_form import encode_records
from seedbed.runtime.workflow.replay import resume
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.summary import summarise
from tests.conftest import run_async
from tests.integration.test_checkpoints import Place, opened
from tests.runs import Clockwork, a_world, call, request

WRITERS = 8
VERSIONS = 5


def row(plan: RunRequest) -> RunRow:
    return RunRow(plan.run, 0, "team", "plan", encode(plan), b"{}", finished=False)


@pytest.mark.req("COG-2.5.1")
def test_of_writers_at_once_exactly_one_wins_each_version(store_url: str) -> None:
    async def body() -> None:
        store = SqlStore.open(store_url)
        try:
            await store.migrate()
            await store.claim(0, 1)
            await store.commit(0, 1, Commit(runs=[row(request(call("a")))]))

            async def write(writer: int, version: int) -> bool:
                try:
                    entry = Entry("run-1", version, f"{writer}".encode())
                    await store.commit(0, 1, Commit(entries=[entry]))
                except ConflictError:
                    return False
                return True

            for version in range(1, VERSIONS + 1):
                won = await asyncio.gather(*(write(at, version) for at in range(WRITERS)))
                assert Counter(won) == {True: 1, False: WRITERS - 1}
                journal = await store.journal("run-1")
                assert [entry.seq for entry in journal] == list(range(1, version + 1))
                assert journal[-1].records == str(won.index(True)).encode()
        finally:
            await store.close()

    run_async(body())


def behave(task: StepTask) -> Any:
    """Some attempts fail, one output is too large to stand in the journal."""
    if task.key.step == "flaky" and task.attempt < 3:
        return StepError("broken", "not yet")
    if task.key.step == "large":
        return "x" * 100_000
    return {"of": str(task.key), "got": task.inputs}


@pytest.mark.req("COG-2.5.1")
def test_the_journal_leads_to_the_live_state_at_every_version(store_url: str) -> None:
    plan = request(
        call("each", forEach="lists.range(4)", when="index != 2", args={"n": "${item}"}),
        call("flaky", retry={"attempts": 3, "backoff": "1s"}),
        call("large", needs=["flaky"]),
        call("all", args={"n": "${size(steps.large.output)}", "each": "${steps.each.output}"}),
    )

    async def body() -> None:
        store = SqlStore.open(store_url)
        try:
            await store.migrate()
            await store.claim(0, 1)
            await store.commit(0, 1, Commit(runs=[row(plan)]))
            world = a_world()
            live = Clockwork(RunState(plan, world.hands), world, behave)
            written, going, seq = 0, True, 0
            while going:
                going = live.turn()
                fresh, written = live.journal[written:], len(live.journal)
                if not fresh:
                    continue
                encoded, seq = encode_records(fresh), seq + 1
                entries = [Entry("run-1", seq, encoded.data)]
                await store.commit(0, 1, Commit(entries=entries, values=encoded.values))
                rebuilt, last = await resume(store, row(plan), Counter())
                assert last == seq
                assert summarise(rebuilt) == summarise(live.state)
                assert rebuilt.told == live.state.told
                for name, step in live.state.steps.items():
                    assert rebuilt.steps[name].units == step.units
            assert live.state.finished is not None
            assert live.state.finished.phase == "Succeeded"
            assert seq > 8
        finally:
            await store.close()

    run_async(body())


@pytest.mark.req("COG-3.1.2")
def test_suspending_loses_no_result_of_a_running_step(tmp_path: Path, store_url: str) -> None:
    async def suspended(place: Place, run: str, *, suspend: bool) -> None:
        await place.ask(run, Adjust(run, suspend=suspend, parallelism=4))

    async def body() -> None:
        async with opened(tmp_path, store_url) as place, place.serving():
            plan = place.plan()
            plan.spec["steps"][0]["call"]["args"]["wait"] = 0.3
            await place.submit(plan)
            await place.until(plan.run, lambda one: one.counts.running == 1)
            await suspended(place, plan.run, suspend=True)
            found = await place.until(plan.run, lambda one: one.counts.succeeded == 1)
            # Its result is there; what needs it does not start.
            assert (found.phase, found.counts.running) == ("Suspended", 0)
            assert place.executed() == ["first"]
            await suspended(place, plan.run, suspend=False)
            found = await place.ended(plan.run)
            assert found.result == "second-a-aside-last"
            assert Counter(place.executed()) == dict.fromkeys(
                ("first", "second", "aside", "last"), 1
            )

    run_async(body())
