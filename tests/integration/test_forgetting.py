"""What goes with a run, and which runs go: on both stores."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import orjson
import pytest

from seedbed.crds.errors import FencedError
from seedbed.runtime.store.checkpoints import SqlCheckpoints
from seedbed.runtime.store.port import Commit, Entry, RunRow
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.workflow.checkpoint.content import capture
from seedbed.runtime.workflow.checkpoint.forgetting import Forgetting
from seedbed.runtime.workflow.checkpoint.keys import KeyRing
from seedbed.runtime.workflow.checkpoint.vault import Owner, Vault
from seedbed.runtime.workflow.state import RunState
from tests.conftest import run_async
from tests.runs import call, request

OWNER = Owner(2, 5)
DAY = 86400.0


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[SqlStore]:
    store = SqlStore.open(url)
    try:
        await store.migrate()
        await store.claim(OWNER.partition, OWNER.token)
        yield store
    finally:
        await store.close()


async def begin(store: SqlStore, run: str, workflow: str, *values: str) -> None:
    """A run with one journal entry that needs some large values."""
    row = RunRow(run, OWNER.partition, "team", workflow, b"{}", b"{}", finished=False)
    commit = Commit(
        runs=[row],
        entries=[Entry(run, 1, b"records")],
        values={value: value.encode() for value in values},
        uses=[(run, value) for value in values],
    )
    await store.commit(OWNER.partition, OWNER.token, commit)


async def end(store: SqlStore, run: str, at: float) -> None:
    summary = orjson.dumps({"finished": at})
    commit = Commit(summaries={run: (summary, True)})
    await store.commit(OWNER.partition, OWNER.token, commit)


async def known(store: SqlStore, *names: str) -> set[str]:
    """Which of these runs or values are there."""
    found = set()
    for name in names:
        if await store.run(name) is not None or await store.value(name) is not None:
            found.add(name)
    return found


def test_a_value_goes_with_the_last_run_that_needs_it(store_url: str) -> None:
    async def body() -> None:
        async with opened(store_url) as store:
            await begin(store, "a", "w", "mine", "shared")
            await begin(store, "b", "w", "shared")
            # The same value again is the same use.
            again = Commit(values={"shared": b"shared"}, uses=[("b", "shared")])
            await store.commit(OWNER.partition, OWNER.token, again)
            await store.delete_run("a")
            assert await known(store, "a", "b", "mine", "shared") == {"b", "shared"}
            await store.delete_run("a")
            await store.delete_run("b")
            assert await known(store, "a", "b", "shared") == set()
            assert await store.journal("a") == []

    run_async(body())


def test_a_value_that_is_needed_again_meanwhile_stays(store_url: str) -> None:
    async def body() -> None:
        async with opened(store_url) as store:
            for turn in range(12):
                old, new = f"old-{turn}", f"new-{turn}"
                await begin(store, old, "w", "value")
                await asyncio.gather(
                    store.delete_run(old),
                    begin(store, new, "w", "value"),
                    store.delete_run(old),
                )
                assert await store.value("value") == b"value"
                await store.delete_run(new)
                assert await store.value("value") is None

    run_async(body())


def test_only_what_ended_long_ago_and_has_a_successor_is_forgotten(
    store_url: str, tmp_path: Path
) -> None:
    async def body() -> None:
        async with opened(store_url) as store:
            vault = Vault(SqlCheckpoints(store), KeyRing.at(tmp_path / "keys"))
            forgetting = Forgetting(store, vault, 7 * DAY)
            for run, workflow in (
                ("run-1", "w"),
                ("recent", "w"),
                ("running", "w"),
                ("newest", "w"),
                ("alone", "other"),
            ):
                await begin(store, run, workflow, f"value of {run}")
            state = capture(RunState(request(call("a"))))
            await vault.keep(state, OWNER, cause="demand", retention=99 * DAY, most=9)
            now = 1000 * DAY
            for run, age in (("run-1", 8), ("recent", 6), ("newest", 99), ("alone", 99)):
                await end(store, run, now - age * DAY)
            assert await Forgetting(store, vault, 0).sweep(OWNER, now) == 0
            assert await forgetting.sweep(OWNER, now) == 1
            left = {"recent", "running", "newest", "alone"}
            assert await known(store, "run-1", *left) == left
            assert await known(store, "value of run-1", "value of recent") == {"value of recent"}
            assert await vault.of_run("run-1") == []
            assert await forgetting.sweep(OWNER, now) == 0
            # Whoever was replaced forgets nothing.
            await store.claim(OWNER.partition, OWNER.token + 1)
            with pytest.raises(FencedError):
                await forgetting.sweep(OWNER, now + 30 * DAY)
            assert await known(store, *left) == left

    run_async(body())
