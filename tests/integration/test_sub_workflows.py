"""Workflows as steps, between engines: nothing is lost or run twice whatever is killed or unheard."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from seedbed.crds.addresses import PARTITIONS
from seedbed.crds.engine_requests import Adjust, Cancel, Report, Submit, decode_request
from seedbed.crds.errors import NotFoundError
from seedbed.crds.messages import RunRequest, RunSummary
from seedbed.crds.wire import decode
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.workflow import children
from seedbed.runtime.workflow.record_of_runs import quantile, runs_told, statistics
from tests.conftest import run_async
from tests.small_engine import NAMESPACE, a_store, ask, serving, until

OUTER = RunRequest("uid-1-abcdef12", NAMESPACE, "outer", {})


def noting(folder: Path, name: str, label: str, wait: float = 0.0, **more: Any) -> dict[str, Any]:
    args = {"folder": str(folder), "label": label, "wait": wait}
    return {"name": name, "call": {"entry": "tests.steps:note", "args": args}, **more}


def template(folder: Path, wait: float = 0.02) -> dict[str, Any]:
    steps = [
        noting(folder, "one", "${params.label}-1", wait),
        noting(folder, "two", "${steps.one.output}-2", wait),
    ]
    types = {"label": {"type": "string", "required": True}}
    return {"steps": steps, "paramTypes": types, "result": "steps.two.output"}


def outer(*labels: str, **spec: Any) -> RunRequest:
    each = {
        "name": "each",
        "forEach": "params.labels",
        "workflow": {"name": "inner", "params": {"label": "${item}"}},
    }
    said = {"steps": [each], "params": {"labels": list(labels)}, **spec}
    return RunRequest(OUTER.run, NAMESPACE, "outer", said)


async def inner_runs(store: SqlStore) -> list[RunSummary]:
    return [decode(RunSummary, row.summary) for row in await store.runs(NAMESPACE, "inner")]


def executed(folder: Path) -> Counter[str]:
    """How often each unit was executed, by idempotency key."""
    return Counter((folder / "executed").read_text().split())


@pytest.mark.req("DSX-45")
def test_each_item_is_a_run_of_its_own_that_tells_whose(tmp_path: Path) -> None:
    async def body() -> None:
        async with a_store(tmp_path) as store:
            async with serving(store, templates={"inner": template(tmp_path)}) as bus:
                await ask(bus, OUTER.run, Submit(outer("a", "b", "c")))
                found = await until(bus, OUTER.run)
            assert found.result == ["a-1-2", "b-1-2", "c-1-2"]
            runs = await inner_runs(store)
            assert {run.parent for run in runs} == {OUTER.run}
            assert sorted(run.parent_step for run in runs) == ["each[0]", "each[1]", "each[2]"]
            assert set(executed(tmp_path).values()) == {1}
            (told,) = (await runs_told(store, NAMESPACE, "outer"))["runs"]
            assert [child["step"] for child in told["runs"]] == ["each[0]", "each[1]", "each[2]"]
            figures = await statistics(store, NAMESPACE, "inner")
            assert (figures["runs"]["count"], figures["runs"]["successRate"]) == (3, 1.0)
            assert {step["name"]: step["count"] for step in figures["steps"]} == {
                "one": 3,
                "two": 3,
            }
            assert all(
                0 < (step["p50Seconds"] or 0) <= (step["p95Seconds"] or 0)
                for step in figures["steps"]
            )

    run_async(body())


def test_engines_killed_at_any_moment_lose_nothing_and_run_nothing_twice(tmp_path: Path) -> None:
    labels = [f"l{n}" for n in range(6)]

    async def body() -> None:
        killed = 0
        async with a_store(tmp_path) as store:
            for start in range(12):
                async with serving(store, start, {"inner": template(tmp_path)}) as bus:
                    await ask(bus, OUTER.run, Submit(outer(*labels)))
                    try:
                        async with asyncio.timeout(0.02 + 0.02 * start):
                            await until(bus, OUTER.run)
                    except TimeoutError:
                        killed += 1
                        continue
                    break
            assert killed > 1
            async with serving(store, 100, {"inner": template(tmp_path)}) as bus:
                found = await until(bus, OUTER.run)
            assert found.phase == "Succeeded", found
            assert found.result == [f"{label}-1-2" for label in labels]
            runs = await inner_runs(store)
            assert len(runs) == len(labels), "one run for each item, whatever was asked again"
            assert {run.phase for run in runs} == {"Succeeded"}
            # A step in hand when everything was killed may be executed again, under the same key.
            assert len(executed(tmp_path)) == 2 * len(labels)

    run_async(body())


def test_runs_inside_of_runs_survive_engines_that_come_and_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("seedbed.runtime.workflow.engine.LOOK_EVERY", 0.03)
    caplog.set_level("INFO", "seedbed.runtime.workflow.partition")
    labels = [f"l{n}" for n in range(40)]
    waits = (0.05 + 0.37 * n % 0.3 for n in itertools.count())

    async def body() -> None:
        async with a_store(tmp_path) as store:
            inner = {"inner": template(tmp_path, wait=0.1)}
            async with serving(store, templates=inner, engines=1, others=waits) as bus:
                await ask(bus, OUTER.run, Submit(outer(*labels)))
                found = await until(bus, OUTER.run)
            assert found.result == [f"{label}-1-2" for label in labels], found
            runs = await inner_runs(store)
            assert len(runs) == len(labels)
            assert {run.phase for run in runs} == {"Succeeded"}
            assert len(executed(tmp_path)) == 2 * len(labels)

    run_async(body())
    taken = sum("owned" in record.message for record in caplog.records)
    assert taken > 2 * PARTITIONS, "partitions moved while the runs went on"


def test_an_end_that_nobody_heard_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(children, "ASK_EVERY", 0.1)
    monkeypatch.setattr("seedbed.runtime.workflow.partition.LOOK_EVERY", 0.1)

    async def body() -> None:
        async with a_store(tmp_path) as store:
            async with serving(store, templates={"inner": template(tmp_path)}) as bus:
                lost = _losing(bus, Report)
                await ask(bus, OUTER.run, Submit(outer("a")))
                found = await until(bus, OUTER.run)
            assert lost
            assert found.result == ["a-1-2"]
            assert set(executed(tmp_path).values()) == {1}

    run_async(body())


@pytest.mark.parametrize("heard", [True, False])
def test_cancel_and_suspend_reach_the_runs_inside(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, heard: bool
) -> None:
    monkeypatch.setattr(children, "ASK_EVERY", 0.1)
    monkeypatch.setattr("seedbed.runtime.workflow.partition.LOOK_EVERY", 0.1)

    async def body() -> None:
        async with a_store(tmp_path) as store:
            async with serving(store, templates={"inner": template(tmp_path, wait=0.5)}) as bus:
                await ask(bus, OUTER.run, Submit(outer("a")))
                while not (runs := await inner_runs(store)) or not runs[0].started:
                    await asyncio.sleep(0.02)
                inner = runs[0].run
                if not heard:
                    _losing(bus, Cancel, Adjust, spare=OUTER.run)
                await ask(bus, OUTER.run, Adjust(OUTER.run, suspend=True, parallelism=100))
                await until(bus, inner, lambda told: told.suspended)
                await ask(bus, OUTER.run, Adjust(OUTER.run, suspend=False, parallelism=100))
                await until(bus, inner, lambda told: not told.suspended)
                await ask(bus, OUTER.run, Cancel(OUTER.run, "enough"))
                ended = await until(bus, inner)
            assert (ended.phase, ended.reason) == ("Failed", "Cancelled")

    run_async(body())


def test_a_run_inside_that_fails_fails_its_step_and_is_retried_as_another_run(
    tmp_path: Path,
) -> None:
    async def body() -> None:
        broken = {"steps": [{"name": "bad", "call": {"entry": "tests.steps:broken"}}]}
        retry = {"attempts": 2, "backoff": "10ms"}
        async with a_store(tmp_path) as store:
            async with serving(store, templates={"inner": broken}) as bus:
                await ask(bus, OUTER.run, Submit(outer("a", retry=retry)))
                found = await until(bus, OUTER.run)
            assert found.phase == "Failed"
            assert "inner ended as StepFailed: step bad failed" in found.message
            assert len(await inner_runs(store)) == 2
            figures = await statistics(store, NAMESPACE, "inner")
            assert (figures["runs"]["failed"], figures["runs"]["successRate"]) == (2, 0.0)
            with pytest.raises(NotFoundError):
                await statistics(store, "other-namespace", "inner")

    run_async(body())


def _losing(bus: MemoryBus, *forms: type, spare: str = "") -> list[Any]:
    """Have the bus lose requests of these forms, but those about one run; gives what it lost."""
    lost: list[Any] = []
    send = bus.request

    async def request(address: str, payload: bytes, *, wait: float = 5.0) -> bytes:
        message = decode_request(payload)
        inside = isinstance(message, Report) and message.result.worker.startswith("run ")
        about_child = isinstance(message, Cancel | Adjust) and message.run != spare
        if isinstance(message, forms) and (inside or about_child):
            lost.append(message)
            return b"{}"
        return await send(address, payload, wait=wait)

    bus.request = request  # type: ignore[method-assign]  # stands for a network that loses
    return lost


def test_quantiles_are_values_that_were_measured() -> None:
    values = [float(n) for n in range(1, 21)]
    assert [quantile(values, share) for share in (0.5, 0.95, 1.0)] == [10.0, 19.0, 20.0]
    assert quantile([3.0], 0.5) == 3.0
    assert quantile([], 0.5) is None
