"""Checkpoints of real runs: taken, verified, kept, removed; and runs that begin from them."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from seedbed.crds.addresses import pool_setting
from seedbed.crds.engine_requests import Adjust, TakeCheckpoint
from seedbed.crds.messages import RunRequest, RunSummary, TakenCheckpoint
from seedbed.crds.pool import PoolSpec
from seedbed.crds.wire import decode
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.store.checkpoints import CheckpointRow, SqlCheckpoints
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.worker.serving import serve_workers
from seedbed.runtime.workflow.checkpoint import taking
from seedbed.runtime.workflow.checkpoint.archive import Archive
from seedbed.runtime.workflow.checkpoint.keys import KeyRing
from seedbed.runtime.workflow.checkpoint.vault import Vault
from seedbed.runtime.workflow.engine import Engine
from seedbed.runtime.workflow.history import StoredHistory
from tests.asking import Asking
from tests.conftest import run_async

NAMESPACE = "team"


class Place(Asking):
    """One process with an engine and workers."""

    def __init__(self, folder: Path, store: SqlStore, archive: Archive | None = None) -> None:
        self.folder = folder
        self.store = store
        self.rows = SqlCheckpoints(store)
        self.keys = KeyRing.at(folder / "keys")
        self.vault = Vault(self.rows, self.keys, archive)
        self.bus = MemoryBus()
        self.coordinator = MemoryCoordinator()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        pool = PoolSpec().model_dump_json(by_alias=True).encode()
        await self.coordinator.put(pool_setting(NAMESPACE, "general"), pool)
        engine = Engine(
            store=self.store,
            bus=self.bus,
            coordinator=self.coordinator,
            holder="one",
            vault=self.vault,
        )
        async with asyncio.TaskGroup() as tasks:
            serving = [
                tasks.create_task(engine.run()),
                tasks.create_task(
                    serve_workers(
                        bus=self.bus,
                        coordinator=self.coordinator,
                        gateway_url="",
                        namespace=NAMESPACE,
                        pool="general",
                        count=4,
                        adapter="python",
                        drain=0.1,
                        node="here",
                        stopping=asyncio.Event(),
                    )
                ),
            ]
            yield
            for task in serving:
                task.cancel()

    async def checkpoint(self, run: str) -> TakenCheckpoint:
        return decode(TakenCheckpoint, await self.ask(run, TakeCheckpoint(run)))

    def executed(self) -> list[str]:
        """Steps in the order in which they were executed, of all runs."""
        path = self.folder / "executed"
        lines = path.read_text().splitlines() if path.exists() else []
        return [line.rpartition("/")[2] for line in lines]

    def plan(self, run: str = "", /, **fields: Any) -> RunRequest:
        """Four steps that say when they are executed; `second` and `last` read a parameter."""

        def step(name: str, **args: Any) -> dict[str, Any]:
            note = {"folder": str(self.folder), "label": name, **args}
            return {"name": name, "call": {"entry": "tests.steps:note", "args": note}}

        steps = [
            step("first"),
            {**step("second", label="second-${params.word}"), "needs": ["first"]},
            {**step("aside"), "needs": ["first"]},
            {**step("last", label="${steps.second.output}-${steps.aside.output}-last")},
        ]
        params = fields.pop("params", {"word": "a"})
        spec = {"steps": steps, "params": params, **fields}
        return RunRequest(run or f"run-{uuid.uuid4().hex[:8]}", NAMESPACE, "plan", spec)


@asynccontextmanager
async def opened(folder: Path, url: str, archive: str = "") -> AsyncIterator[Place]:
    store = SqlStore.open(url)
    try:
        await store.migrate()
        yield Place(folder, store, Archive(archive) if archive else None)
    finally:
        await store.close()


RESULT = "second-a-aside-last"


@pytest.mark.req("COG-3.1.4")
def test_a_run_goes_on_from_any_of_its_checkpoints(tmp_path: Path, store_url: str) -> None:
    async def body() -> None:
        async with opened(tmp_path, store_url) as place, place.serving():
            plan = place.plan(suspend=True)
            run = plan.run
            await place.submit(plan)
            empty = await place.checkpoint(run)
            await place.ask(run, Adjust(run, suspend=False, parallelism=1))
            done = await place.ended(run)
            assert (done.phase, done.result) == ("Succeeded", RESULT)
            assert done.checkpoint is not None
            assert (empty.number, done.checkpoint.id) == (1, empty.id)
            before = place.executed()
            assert sorted(before) == ["aside", "first", "last", "second"]
            # From the checkpoint, where nothing had ended, and from the end.
            again = place.plan(forkFrom={"run": run, "checkpoint": 1})
            await place.submit(again)
            found = await place.ended(again.run)
            assert (found.phase, found.result) == ("Succeeded", RESULT)
            assert found.origin is not None
            assert (found.origin.run, found.origin.checkpoint, found.origin.taken) == (run, 1, 0)
            assert len(place.executed()) == 8
            last = place.plan(forkFrom={"run": run})
            await place.submit(last)
            found = await place.ended(last.run)
            assert (found.phase, found.result) == ("Succeeded", RESULT)
            assert found.origin is not None
            assert (found.origin.taken, found.origin.again) == (4, 0)
            assert len(place.executed()) == 8

    run_async(body())


@pytest.mark.req("COG-3.1.4")
def test_a_fork_with_another_parameter_executes_only_what_reads_it(
    tmp_path: Path, store_url: str
) -> None:
    async def body() -> None:
        async with opened(tmp_path, store_url) as place, place.serving():
            plan = place.plan()
            await place.submit(plan)
            await place.ended(plan.run)
            changed = place.plan(params={"word": "b"}, forkFrom={"workflow": "plan"})
            await place.submit(changed)
            found = await place.ended(changed.run)
            assert found.result == "second-b-aside-last"
            assert found.origin is not None
            assert (found.origin.taken, found.origin.again) == (2, 2)
            assert place.executed()[4:] == ["second", "last"]
            steps = await StoredHistory(place.store).steps(changed.run)
            assert [one["name"] for one in steps] == ["first", "aside", "second", "last"]

    run_async(body())


@pytest.mark.parametrize(
    ("fork", "reason"),
    [
        ({"run": "nowhere"}, "ForkOriginNotFound"),
        ({"workflow": "nothing"}, "ForkOriginNotFound"),
        ({"checkpoint": 7}, "ForkOriginNotFound"),
    ],
)
def test_a_fork_from_what_is_not_there_ends_and_says_so(
    tmp_path: Path, fork: dict[str, Any], reason: str
) -> None:
    async def body() -> None:
        async with opened(tmp_path, f"sqlite:///{tmp_path}/s.db") as place, place.serving():
            await place.submit(place.plan("earlier"))
            await place.ended("earlier")
            plan = place.plan(forkFrom=fork)
            await place.submit(plan)
            found = await place.ended(plan.run)
            assert (found.phase, found.reason) == ("Failed", reason)
            assert len(place.executed()) == 4

    run_async(body())


def test_another_namespace_has_nothing_to_fork_from(tmp_path: Path) -> None:
    async def body() -> None:
        async with opened(tmp_path, f"sqlite:///{tmp_path}/s.db") as place, place.serving():
            await place.submit(place.plan("earlier"))
            await place.ended("earlier")
            plan = place.plan(forkFrom={"run": "earlier"})
            foreign = dataclasses.replace(plan, namespace="others")
            await place.submit(foreign)
            found = await place.ended(plan.run)
            assert found.reason == "ForkOriginNotFound"

    run_async(body())


@pytest.mark.req("COG-3.1.1")
def test_checkpoints_are_taken_at_the_interval_while_something_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(taking, "LOOK_EVERY", 0.01)

    async def body() -> None:
        async with opened(tmp_path, f"sqlite:///{tmp_path}/s.db") as place, place.serving():
            policy = {"interval": "50ms", "keep": 2}
            steps: list[dict[str, Any]] = [
                {
                    "name": f"s{at}",
                    "needs": [f"s{at - 1}"] if at else [],
                    "call": {"entry": "tests.steps:echo", "args": {"n": at}},
                }
                for at in range(3)
            ]
            wait = {"name": "wait", "needs": ["s2"], "call": {"entry": "tests.steps:nothing"}}
            steps.append({**wait, "pool": {"name": "missing"}})
            spec: dict[str, Any] = {"steps": steps, "checkpoint": policy}
            plan = RunRequest("run-1", NAMESPACE, "plan", spec)
            await place.submit(plan)
            await place.until("run-1", lambda one: one.reason == "PoolNotFound")
            await place.until("run-1", lambda one: one.counts.succeeded == 3)
            # Nothing changes any more: the newest one holds all, and stays the newest.
            rows, found = await settled(place, "run-1")
            assert rows[-1].revision == found.revision - 1
            assert (rows[-1].ended, rows[-1].total) == (3, 4)
            # A switched-off policy takes none.
            off = {"steps": spec["steps"], "checkpoint": {**policy, "enabled": False}}
            await place.submit(RunRequest("run-2", NAMESPACE, "plan", off))
            await place.until("run-2", lambda one: one.reason == "PoolNotFound")
            more = place.plan(checkpoint={"interval": "10ms"})
            await place.submit(more)
            await place.ended(more.run)
            assert await place.rows.of_run("run-2") == []

    run_async(body())


async def settled(place: Place, run: str) -> tuple[list[CheckpointRow], RunSummary]:
    """A run's checkpoints and summary once the newest checkpoint holds all that has happened."""
    while True:
        rows, found = await place.rows.of_run(run), await place.summary(run)
        noted = found.checkpoint is not None and rows and found.checkpoint.id == rows[-1].id
        if noted and found.revision == rows[-1].revision + 1:
            return rows, found
        await asyncio.sleep(0.02)
