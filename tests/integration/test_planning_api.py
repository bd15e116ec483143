"""The analysis of runs over HTTP, from a real store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from seedbed.crds.messages import RunRequest, RunSummary, StepKey
from seedbed.crds.wire import encode
from seedbed.crds.workflow_status import Phase
from seedbed.runtime.store.port import Commit, Entry, RunRow, Store
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.workflow.record_form import encode_records
from seedbed.runtime.workflow.records import Record, StepScheduled, StepSucceeded
from tests.api_service import serving_api
from tests.conftest import run_async
from tests.runs import call, request

BASE = "/api/v3/workflows/team/plan"


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[tuple[Store, Any]]:
    """A store, and `await get(path)` on an API over it: (status, body)."""
    store = SqlStore.open(f"sqlite:///{folder / 'runs.db'}")
    await store.migrate()
    try:
        async with serving_api(store) as url, aiohttp.ClientSession(url) as http:

            async def get(path: str) -> tuple[int, Any]:
                async with http.get(path, headers={"Authorization": "Bearer any"}) as answer:
                    if answer.content_type == "application/json":
                        return answer.status, await answer.json()
                    return answer.status, await answer.text()

            yield store, get
    finally:
        await store.close()


def went(step: str, began: float, seconds: float) -> list[Record]:
    key = StepKey(step)
    return [
        StepScheduled(key, 1, began, "call", "general", 60.0, {}, {}),
        StepSucceeded(key, 1, began + seconds, "w", began, began + seconds, None),
    ]


async def keep(
    store: Store, plan: RunRequest, records: Sequence[Record], *, finished: float | None = None
) -> None:
    """Put a run into the store as the engine leaves it."""
    phase: Phase = "Running" if finished is None else "Succeeded"
    summary = encode(
        RunSummary(
            plan.run,
            plan.namespace,
            plan.workflow,
            1,
            phase,
            phase,
            parallelism=2,
            started=1000.0,
            finished=finished,
        )
    )
    of = (plan.run, 0, plan.namespace, plan.workflow)
    row = RunRow(*of, encode(plan), summary, finished is not None)
    entry = Entry(plan.run, 1, encode_records(records).data)
    await store.claim(0, 1)
    await store.commit(
        0,
        1,
        Commit(runs=[row], entries=[entry], summaries={plan.run: (summary, finished is not None)}),
    )


STEPS = (
    call("collect"),
    call("short", needs=["collect"]),
    call("long", needs=["collect"]),
    call("report", needs=["short", "long"], estimate="5s"),
)


@pytest.mark.req("COG-4.2.2")
def test_critical_path_and_bottlenecks_of_a_run_with_a_history(tmp_path: Path) -> None:
    async def body() -> None:
        async with serving(tmp_path) as (store, get):
            old = [
                *went("collect", 1000, 9),
                *went("short", 1009, 2),
                *went("long", 1009, 20),
            ]
            await keep(store, request(*STEPS, run="old"), old, finished=1029.0)
            new = [
                *went("collect", 1000, 4),
                StepScheduled(StepKey("long"), 1, 1004.0, "call", "general", 60.0, {}, {}),
            ]
            await keep(store, request(*STEPS, run="new"), new)
            status, told = await get(f"{BASE}/critical-path")
            assert status == 200
            assert told["run"] == "new"
            assert told["phase"] == "Running"
            # It has run for long already: what it took so far counts, not the 20 s of the run before.
            path = {step["name"]: step for step in told["path"]}
            assert list(path) == ["collect", "long", "report"]
            assert (path["collect"]["seconds"], path["collect"]["source"]) == (4.0, "measured")
            assert path["long"]["state"] == "Running"
            assert path["long"]["source"] == "history"
            assert path["long"]["seconds"] > 20.0
            assert (path["report"]["seconds"], path["report"]["source"]) == (5.0, "declared")
            slack = {step["name"]: step["slack"] for step in told["steps"]}
            assert slack["long"] == slack["collect"] == 0.0
            assert slack["short"] == pytest.approx(path["long"]["seconds"] - 2.0)
            assert told["eta"].endswith("Z")
            # `short` and then `report`, while nothing is known to be left of `long`.
            assert told["remaining"] == pytest.approx(7.0)

            status, told = await get(f"{BASE}/bottlenecks")
            assert status == 200
            assert [one["name"] for one in told["bottlenecks"]] == ["long", "report", "collect"]
            assert told["bottlenecks"][0]["gain"] == pytest.approx(slack["short"])
            assert [path["steps"] for path in told["slowestPaths"]] == [
                ["collect", "long", "report"],
                ["collect", "short", "report"],
            ]
            status, told = await get(f"{BASE}/optimisation")
            assert status == 200
            assert told["gain"] == 0.0
            assert told["before"] == told["after"] == pytest.approx(9.0 + 20.0 + 5.0)
            status, drawn = await get(f"{BASE}/graph.svg")
            assert status == 200
            assert drawn.startswith("<svg")
            assert "Workflow team/plan" in drawn
            status, drawn = await get(f"{BASE}/graph.svg?form=layers")
            assert status == 200
            assert "◆ critical" in drawn
            status, told = await get(f"{BASE}/graph.svg?form=pie")
            assert (status, told["error"]["code"]) == (400, "invalid")
            status, told = await get("/api/v3/workflows/team/other/critical-path")
            assert (status, told["error"]["code"]) == (404, "not_found")

    run_async(body())
