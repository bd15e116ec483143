"""Runs from submission to their end: in one process, and on real NATS, etcd and PostgreSQL."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from seedbed.crds.addresses import (
    PARTITIONS,
    partition_of,
    pool_setting,
    work_queue,
)
from seedbed.crds.engine_requests import Adjust, Cancel, Report, Submit, Summarise
from seedbed.crds.errors import FencedError, InvalidError, NotFoundError, UnavailableError
from seedbed.crds.messages import RunRequest, RunSummary, StepKey, StepResult, StepTask
from seedbed.crds.pool import PoolSpec
from seedbed.crds.run_ids import run_id
from seedbed.crds.wire import decode
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.bus.nats import NatsBus
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.coordination.etcd import EtcdCoordinator
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.store.port import Commit, Entry, Store
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.worker.serving import serve_workers
from seedbed.runtime.workflow import metrics
from seedbed.runtime.workflow.engine import Engine, partition_name
from seedbed.runtime.workflow.history import StoredHistory
from seedbed.runtime.workflow.partition import Partition
from seedbed.runtime.workflow.records import StepScheduled, StepSucceeded
from seedbed.runtime.workflow.replay import records_of
from seedbed.runtime.workflow.world import World
from tests.asking import Asking
from tests.conftest import run_async
from tests.servers import EtcdServer, NatsServer, PostgresServer


@dataclass
class Place(Asking):
    """Servers, or what stands for them, as one user of a namespace sees them."""

    store: Store
    bus: Bus
    coordinator: Coordinator
    namespace: str
    urls: dict[str, str]

    async def pool(self, name: str = "general", **fields: Any) -> None:
        spec = PoolSpec(**fields).model_dump_json(by_alias=True)
        await self.coordinator.put(pool_setting(self.namespace, name), spec.encode())

    def request(self, *steps: dict[str, Any], **fields: Any) -> RunRequest:
        spec = WorkflowSpec.model_validate({"steps": list(steps), **fields})
        plan = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
        return RunRequest(run_id(uuid.uuid4().hex, spec), self.namespace, "plan", plan)

    async def completed(self, run: str) -> Counter[str]:
        """How often the journal holds a success, by step."""
        found: Counter[str] = Counter()
        async for _, record in records_of(self.store, run):
            if isinstance(record, StepSucceeded):
                found[str(record.key)] += 1
        return found


def step(name: str, entry: str, /, **fields: Any) -> dict[str, Any]:
    args = fields.pop("args", {})
    return {"name": name, "call": {"entry": f"tests.steps:{entry}", "args": args}, **fields}


@asynccontextmanager
async def embedded(folder: Path) -> AsyncIterator[Place]:
    store = SqlStore.open(f"sqlite:///{folder / 'store.db'}")
    await store.migrate()
    yield Place(store, MemoryBus(), MemoryCoordinator(), "team", {})
    await store.close()


@asynccontextmanager
async def on_servers(nats: NatsServer, etcd: EtcdServer, postgres: str) -> AsyncIterator[Place]:
    store = SqlStore.open(postgres)
    await store.migrate()
    bus = await NatsBus.open(nats.url)
    coordinator = EtcdCoordinator.open(etcd.endpoint)
    urls = {
        "SEEDBED_NATS_URL": nats.url,
        "SEEDBED_ETCD_ENDPOINT": etcd.endpoint,
        "SEEDBED_DATABASE_URL": postgres,
    }
    # The queues of earlier tests are still there, so each test has a namespace of its own.
    yield Place(store, bus, coordinator, f"team-{uuid.uuid4().hex[:8]}", urls)
    await bus.close()
    await coordinator.close()
    await store.close()


Open = Callable[[], Any]


@pytest.fixture(params=["embedded", "servers"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    """Opens a place to run in; both kinds pass the same tests."""
    if request.param == "embedded":
        return lambda: embedded(tmp_path)
    return request.getfixturevalue("servers")  # type: ignore[no-any-return]  # the fixture below


@pytest.fixture
def servers(nats_server: NatsServer, etcd_server: EtcdServer, postgres_url: str) -> Open:
    return lambda: on_servers(nats_server, etcd_server, postgres_url)


@asynccontextmanager
async def engine(at: Place, holder: str = "one") -> AsyncIterator[Engine]:
    made = Engine(
        store=at.store, bus=at.bus, coordinator=at.coordinator, holder=holder, lease_ttl=3.0
    )
    task = asyncio.create_task(made.run())
    try:
        yield made
    finally:
        task.cancel()
        await asyncio.wait({task})
        if not task.cancelled():
            task.result()


@asynccontextmanager
async def workers(at: Place, count: int = 4, pool: str = "general") -> AsyncIterator[None]:
    stopping = asyncio.Event()
    task = asyncio.create_task(
        serve_workers(
            bus=at.bus,
            coordinator=at.coordinator,
            gateway_url="",
            namespace=at.namespace,
            pool=pool,
            count=count,
            drain=2.0,
            stopping=stopping,
        )
    )
    try:
        yield
    finally:
        stopping.set()
        await asyncio.wait({task})
        task.result()


@asynccontextmanager
async def running(open_place: Open) -> AsyncIterator[Place]:
    """A place with a Pool, its workers and an engine."""
    async with open_place() as at:
        await at.pool()
        async with engine(at), workers(at):
            yield at


def test_a_plan_with_all_that_steps_can_do(place: Open, tmp_path: Path) -> None:
    async def body() -> None:
        async with running(place) as at:
            request = at.request(
                step("collect", "echo", args={"names": ["a", "b", "c", "d"]}),
                step(
                    "each",
                    "echo",
                    forEach="steps.collect.output.names",
                    when="index != 1",
                    args={"label": "${item}-${params.tag}"},
                ),
                step("never", "echo", when="size(steps.collect.output.names) > 9"),
                step(
                    "flaky",
                    "flaky",
                    args={"folder": str(tmp_path), "failures": 2},
                    retry={"attempts": 3, "backoff": "20ms"},
                ),
                step("late", "forever", timeout="200ms", allowFailure=True),
                step("broken", "broken", allowFailure=True),
                step(
                    "join",
                    "echo",
                    needs=["never", "flaky"],
                    args={
                        "labels": "${steps.each.output.map(e, e == null ? 'none' : e.label)}",
                        "late": "${steps.late.error.code}",
                        "broken": "${steps.broken.error.message}",
                    },
                ),
                params={"tag": "x"},
                result="steps.join.output",
            )
            first = await at.submit(request)
            assert first.phase == "Running"
            again = await at.submit(request)
            assert again.run == first.run
            summary = await at.ended(request.run)
            assert summary.phase == "Succeeded", summary
            assert summary.result == {
                "labels": ["a-x", "none", "c-x", "d-x"],
                "late": "timeout",
                "broken": "RuntimeError: it is broken",
            }
            counts = summary.counts
            assert (counts.total, counts.running) == (10, 0)
            assert (counts.succeeded, counts.failed, counts.skipped) == (6, 2, 2)
            assert set((await at.completed(request.run)).values()) == {1}
            stored = await at.store.run(request.run)
            assert stored is not None
            assert stored.finished
            assert decode(RunSummary, stored.summary) == summary
            log = await StoredHistory(at.store).steps(request.run)
            attempts = [(line["attempt"], line["state"]) for line in log if line["name"] == "flaky"]
            assert attempts == [(1, "Retrying"), (2, "Retrying"), (3, "Succeeded")]

    run_async(body())


def test_a_step_that_fails_fails_the_run(place: Open) -> None:
    async def body() -> None:
        async with running(place) as at:
            request = at.request(step("a", "broken"), step("b", "echo", needs=["a"]))
            await at.submit(request)
            summary = await at.ended(request.run)
            assert (summary.phase, summary.reason) == ("Failed", "StepFailed")
            assert summary.message == "step a failed: RuntimeError: it is broken"
            assert summary.counts.succeeded == 0

    run_async(body())


def test_what_may_change_while_a_run_goes_on(place: Open) -> None:
    async def body() -> None:
        async with running(place) as at:
            request = at.request(
                step("each", "echo", forEach="lists.range(6)", args={"n": "${item}"}),
                step("after", "echo", needs=["each"]),
                suspend=True,
            )
            run = request.run
            assert (await at.submit(request)).phase in ("Pending", "Suspended")
            assert (await at.summary(run)).phase == "Suspended"
            changed = decode(RunSummary, await at.ask(run, Adjust(run, False, 2)))
            assert (changed.suspended, changed.parallelism) == (False, 2)
            assert (await at.ended(run)).counts.succeeded == 7

    run_async(body())


def test_a_run_is_cancelled_and_an_unknown_one_is_no_error(place: Open) -> None:
    async def body() -> None:
        async with running(place) as at:
            request = at.request(step("a", "forever"))
            run = request.run
            await at.submit(request)
            await at.until(run, lambda summary: summary.counts.running == 1)
            cancelled = decode(RunSummary, await at.ask(run, Cancel(run, "deleted")))
            assert (cancelled.phase, cancelled.reason) == ("Failed", "Cancelled")
            assert (await at.summary(run)).reason == "Cancelled"
            assert await at.ask("nobody", Cancel("nobody", "deleted")) == b"{}"
            with pytest.raises(NotFoundError):
                await at.ask("nobody", Summarise("nobody"))

    run_async(body())


def test_a_plan_that_cannot_run_is_refused_and_leaves_nothing(place: Open) -> None:
    async def body() -> None:
        async with running(place) as at:
            good = at.request(step("a", "echo"))
            bad = replace(good, spec={"steps": [step("a", "echo", needs=["b"])]})
            with pytest.raises(InvalidError, match=r"spec.steps\[0\].needs"):
                await at.ask(bad.run, Submit(bad))
            assert await at.store.run(bad.run) is None
            await at.submit(good)
            assert (await at.ended(good.run)).phase == "Succeeded"

    run_async(body())


def test_a_run_waits_for_its_pool_and_goes_on_when_it_comes(place: Open) -> None:
    async def body() -> None:
        async with place() as at, engine(at), workers(at):
            request = at.request(step("a", "echo"))
            await at.submit(request)
            waiting = await at.until(request.run, lambda told: told.reason == "PoolNotFound")
            assert waiting.message == "Pool 'general' does not exist"
            await at.pool()
            assert (await at.ended(request.run)).phase == "Succeeded"

    run_async(body())


def test_large_values_are_kept_aside_and_survive_a_new_engine(place: Open) -> None:
    async def body() -> None:
        async with place() as at:
            await at.pool()
            request = at.request(
                step("a", "large", args={"size": 1_000_000}),
                step("b", "echo", args={"got": "${steps.a.output}"}, pool={"name": "later"}),
                result="size(steps.b.output.got)",
            )
            async with workers(at):
                async with engine(at):
                    await at.submit(request)
                    await at.until(request.run, lambda told: told.counts.succeeded == 1)
                    assert all(
                        len(entry.records) < 100_000
                        for entry in await at.store.journal(request.run)
                    )
                async with engine(at, "two"):
                    later = PoolSpec().model_dump_json(by_alias=True).encode()
                    await at.coordinator.put(pool_setting(at.namespace, "later"), later)
                    await at.until(request.run, lambda told: told.counts.running == 1)
                    async with at.bus.pull_work(work_queue(at.namespace, "later")) as pull:
                        delivery = await pull(20.0)
                    assert delivery is not None
                    task = decode(StepTask, delivery.payload)
                    result = StepResult(task.run, task.key, task.attempt, "w", task.inputs)
                    assert await at.ask(task.run, Report(result)) == b"{}"
                    await delivery.ack()
                    assert (await at.ended(request.run)).result == 1_000_000

    run_async(body())


def test_engines_share_the_partitions_and_take_over_from_each_other(place: Open) -> None:
    async def body() -> None:
        async with place() as at:
            await at.pool()
            async with engine(at) as first, workers(at):
                while len(first.partitions) < PARTITIONS:
                    await asyncio.sleep(0.02)
                async with engine(at, "two") as second:
                    while {len(first.partitions), len(second.partitions)} != {PARTITIONS // 2}:
                        await asyncio.sleep(0.02)
                    assert not first.partitions & second.partitions
                    requests = [at.request(step("a", "echo", args={"n": n})) for n in range(12)]
                    await asyncio.gather(*(at.submit(request) for request in requests))
                    ended = await asyncio.gather(*(at.ended(each.run) for each in requests))
                    assert [told.phase for told in ended] == ["Succeeded"] * 12
                while len(first.partitions) < PARTITIONS:
                    await asyncio.sleep(0.02)

    run_async(body())


def test_a_stale_owners_write_is_refused_and_it_stops(place: Open) -> None:
    """The former owner believes in its lease, as one that was paused in mid-write does."""

    async def body() -> None:
        async with place() as at:
            await at.pool()
            request = at.request(step("a", "echo"))
            number = partition_of(request.run)
            world = World()
            async with AsyncExitStack() as stack:
                lease = await stack.enter_async_context(at.coordinator.lease(30.0))
                old = await at.coordinator.acquire(partition_name(number), "old", lease)
                assert old is not None
                paused = Partition(number, old, at.store, at.bus, world)
                owning = asyncio.create_task(paused.run())
                submitted = decode(RunSummary, await paused.ask(Submit(request)))
                assert submitted.phase == "Running"
                # A new owner takes over while the old one is paused.
                await at.store.claim(number, old.token + 1)
                before = await at.store.journal(request.run)
                assert old.held
                with pytest.raises(UnavailableError):
                    await paused.ask(Cancel(request.run, "written by the old owner"))
                with pytest.raises(FencedError) as refused:
                    await owning
                assert refused.value.mine == old.token
                assert await at.store.journal(request.run) == before
            stale = Commit(entries=[Entry(request.run, 99, b"[1, []]")])
            with pytest.raises(FencedError):
                await at.store.commit(number, old.token, stale)

    run_async(body())


def test_a_refused_engine_counts_it_and_begins_anew(servers: Open) -> None:
    async def body() -> None:
        async with servers() as at:
            await at.pool()
            async with engine(at) as made, workers(at):
                while len(made.partitions) < PARTITIONS:
                    await asyncio.sleep(0.02)
                request = at.request(step("a", "echo"))
                number = partition_of(request.run)
                owner = await at.coordinator.holder(partition_name(number))
                assert owner is not None
                refused = metrics.REFUSED._value.get()
                await at.store.claim(number, owner[1] + 1)
                # The next owner's token is larger than the one that was slipped in.
                for n in range(3):
                    await at.coordinator.put(f"unrelated/{n}", b"")
                await at.submit(request)
                assert (await at.ended(request.run)).phase == "Succeeded"
                assert metrics.REFUSED._value.get() > refused
                assert await at.completed(request.run) == {"a": 1}

    run_async(body())


@asynccontextmanager
async def engine_process(at: Place, name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """An engine as a process of its own, with a lease of 2 s."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        "from seedbed.cli.main import app; app()",
        "serve",
        "engine",
        env=os.environ
        | at.urls
        | {"SEEDBED_HEALTH_PORT": "0", "SEEDBED_LEASE_SECONDS": "2", "POD_NAME": name},
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGCONT)
            process.kill()
        await process.wait()


async def owned_by_one(at: Place) -> set[str]:
    """Wait until every partition has an owner; returns who they are."""
    while True:
        found = [await at.coordinator.holder(partition_name(n)) for n in range(PARTITIONS)]
        if None not in found:
            return {owner[0] for owner in found if owner is not None}
        await asyncio.sleep(0.05)


def slow_plan(at: Place, folder: Path, count: int = 30) -> RunRequest:
    args = {"folder": str(folder), "label": "${item}", "wait": 0.2}
    return at.request(
        step("each", "note", forEach=f"lists.range({count})", args=args),
        step("sum", "echo", args={"n": "${size(steps.each.output)}"}),
        result="steps.sum.output.n",
    )


async def finished_once(at: Place, request: RunRequest, count: int = 30) -> None:
    summary = await at.ended(request.run)
    assert (summary.phase, summary.result) == ("Succeeded", count), summary
    completed = await at.completed(request.run)
    assert len(completed) == count + 1
    assert set(completed.values()) == {1}
    scheduled: Counter[StepKey] = Counter()
    async for _, record in records_of(at.store, request.run):
        if isinstance(record, StepScheduled):
            scheduled[record.key] += 1
    assert set(scheduled.values()) == {1}


def test_an_engine_that_is_killed_is_followed_by_another(servers: Open, tmp_path: Path) -> None:
    async def body() -> None:
        async with servers() as at, workers(at):
            await at.pool()
            request = slow_plan(at, tmp_path)
            async with engine_process(at, "first") as first:
                await at.submit(request)
                await at.until(request.run, lambda told: told.counts.succeeded >= 5)
                first.kill()
                await first.wait()
            async with engine_process(at, "second"):
                await finished_once(at, request)

    run_async(body(), limit=110)


def test_an_engine_that_was_paused_longer_than_its_lease_does_no_harm(
    servers: Open, tmp_path: Path
) -> None:
    async def body() -> None:
        async with servers() as at, workers(at):
            await at.pool()
            request = slow_plan(at, tmp_path)
            async with engine_process(at, "first") as first:
                await owned_by_one(at)
                await at.submit(request)
                await at.until(request.run, lambda told: told.counts.succeeded >= 5)
                number = partition_of(request.run)
                old = await at.coordinator.holder(partition_name(number))
                assert old is not None
                first.send_signal(signal.SIGSTOP)
                async with engine_process(at, "second") as second:
                    new = old
                    while new is None or new[1] == old[1]:
                        new = await at.coordinator.holder(partition_name(number))
                        await asyncio.sleep(0.05)
                    assert new[1] > old[1]
                    await at.until(request.run, lambda told: told.counts.succeeded >= 8)
                    stale = Commit(entries=[Entry(request.run, 10_000, b"[1, []]")])
                    with pytest.raises(FencedError):
                        await at.store.commit(number, old[1], stale)
                    first.send_signal(signal.SIGCONT)
                    await finished_once(at, request)
                    assert second.returncode is None
                # The one that was paused is of use again.
                assert first.returncode is None
                while len(await owned_by_one(at)) != 1:
                    await asyncio.sleep(0.05)
                after = at.request(step("a", "echo"))
                await at.submit(after)
                assert (await at.ended(after.run)).phase == "Succeeded"

    run_async(body(), limit=110)


@pytest.mark.parametrize("which", ["nats", "postgres", "etcd"])
def test_a_server_that_restarts_in_mid_run_loses_nothing(
    which: str,
    servers: Open,
    nats_server: NatsServer,
    postgres_server: PostgresServer,
    etcd_server: EtcdServer,
    tmp_path: Path,
) -> None:
    server = {"nats": nats_server, "postgres": postgres_server, "etcd": etcd_server}[which]

    async def body() -> None:
        async with running(servers) as at:
            request = slow_plan(at, tmp_path)
            await at.submit(request)
            await at.until(request.run, lambda told: told.counts.succeeded >= 5)
            await asyncio.to_thread(server.kill)
            await asyncio.to_thread(server.start)
            await finished_once(at, request)

    run_async(body(), limit=110)


def test_a_bus_that_comes_back_empty_is_filled_again(
    servers: Open, nats_server: NatsServer, tmp_path: Path
) -> None:
    async def body() -> None:
        async with running(servers) as at:
            request = slow_plan(at, tmp_path)
            await at.submit(request)
            await at.until(request.run, lambda told: told.counts.succeeded >= 5)
            await asyncio.to_thread(nats_server.kill)
            await asyncio.to_thread(nats_server.wipe)
            await asyncio.to_thread(nats_server.start)
            await finished_once(at, request)

    run_async(body(), limit=110)


WORKER = """
import asyncio, sys
from seedbed.runtime.bus.nats import NatsBus
from seedbed.runtime.coordination.etcd import EtcdCoordinator
from seedbed.runtime.worker import serving, worker

worker.REDELIVER_AFTER = 2.0

async def main(nats, etcd, namespace):
    await serving.serve_workers(
        bus=await NatsBus.open(nats), coordinator=EtcdCoordinator.open(etcd), gateway_url="",
        namespace=namespace, pool="general", count=2,
    )

asyncio.run(main(*sys.argv[1:]))
"""


@asynccontextmanager
async def worker_process(at: Place) -> AsyncIterator[asyncio.subprocess.Process]:
    urls = (at.urls["SEEDBED_NATS_URL"], at.urls["SEEDBED_ETCD_ENDPOINT"])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WORKER, *urls, at.namespace, env=os.environ | {"PYTHONPATH": "."}
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


@pytest.mark.req("SNK-02")
def test_the_steps_of_a_killed_worker_go_to_another(servers: Open, tmp_path: Path) -> None:
    async def body() -> None:
        async with servers() as at, engine(at):
            await at.pool()
            request = slow_plan(at, tmp_path)
            async with worker_process(at) as first:
                await at.submit(request)
                await at.until(request.run, lambda told: told.counts.succeeded >= 5)
                first.kill()
                await first.wait()
            async with worker_process(at):
                await finished_once(at, request)

    run_async(body(), limit=110)
