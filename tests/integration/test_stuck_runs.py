"""Runs that cannot be resumed: everybody is told, others go on, and they go on once they can be read."""

from __future__ import annotations

import asyncio
import os
import secrets
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy import text

from hack.cluster import ControlPlane
from seedbed.crds.addresses import PARTITIONS, engine_address, partition_of
from seedbed.crds.engine_requests import (
    Cancel,
    ListActive,
    Report,
    Reported,
    ReportMany,
    Signal,
    Submit,
    Summarise,
)
from seedbed.crds.errors import ConflictError, UnavailableError
from seedbed.crds.messages import RunRequest, RunSummary, StepError, StepKey, StepResult
from seedbed.crds.wire import decode, encode
from seedbed.runtime.bus.nats import NatsBus
from seedbed.runtime.coordination.etcd import EtcdCoordinator
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.workflow import partition, stuck
from seedbed.runtime.workflow.engine import Engine
from tests.clusters import apply, read, seedbed_control_plane
from tests.conftest import run_async
from tests.operators import operators
from tests.operators import until as wait_until
from tests.servers import EtcdServer, NatsServer
from tests.small_engine import NAMESPACE, a_store, ask, serving, until

NEWER = '[99, [["teleported", "a"]]]'
"""What a version of this code may write that does not exist yet."""


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "LOOK_EVERY", 0.1)
    monkeypatch.setattr(stuck, "FIRST_RETRY", 0.1)
    monkeypatch.setattr(stuck, "LONGEST_RETRY", 0.2)


def waiting(name: str) -> RunRequest:
    """A run that waits for somebody, with a value that is kept beside its journal."""
    steps = [
        {"name": "first", "call": {"entry": "tests.steps:echo", "args": {"it": "x" * 70_000}}},
        {"name": "go", "wait": {"event": "go"}, "needs": ["first"]},
    ]
    spec = {"steps": steps, "result": "size(steps.first.output.it)"}
    return RunRequest(f"uid-{name}-abcdef12", NAMESPACE, name, spec)


async def begin(store: SqlStore, *requests: RunRequest) -> None:
    """Have runs wait, and kill their engine."""
    async with serving(store) as bus:
        for request in requests:
            await ask(bus, request.run, Submit(request))
            await until(bus, request.run, lambda found: bool(found.waiting))


async def sql(store: SqlStore, statement: str, **values: Any) -> list[Any]:
    async with store.transaction() as connection:
        found = await connection.execute(text(statement), values)
        return list(found.fetchall()) if found.returns_rows else []


def counted() -> float:
    name = "seedbed_engine_stuck_runs"
    found = (REGISTRY.get_sample_value(name, {"partition": str(number)}) for number in range(16))
    return sum(value or 0.0 for value in found)


def test_others_go_on_and_it_does_too_once_its_journal_can_be_read(tmp_path: Path) -> None:
    async def body() -> None:
        lost, well = waiting("lost"), waiting("well")
        async with a_store(tmp_path) as store:
            await begin(store, lost, well)
            of = {"run": lost.run}
            last = "WHERE run = :run AND seq = (SELECT max(seq) FROM journal WHERE run = :run)"
            ((kept,),) = await sql(store, f"SELECT records FROM journal {last}", **of)
            newer = NEWER.encode()
            await sql(store, f"UPDATE journal SET records = :data {last}", data=newer, **of)
            async with serving(store, start=1) as bus:
                await ask(bus, well.run, Signal(well.run, "go", "1"))
                assert (await until(bus, well.run)).result == 70_000
                found = await until(bus, lost.run, lambda found: found.stuck)
                assert (found.phase, found.reason) == ("Running", "CannotResume")
                assert "version 99 is not known" in found.message
                assert found.counts.succeeded == 1, "what was known of it is told still"
                assert counted() == 1
                row = await store.run(lost.run)
                assert row is not None
                assert decode(RunSummary, row.summary) == found
                with pytest.raises(ConflictError, match="cannot be resumed"):
                    await ask(bus, lost.run, Signal(lost.run, "go", "1"))
                await sql(store, f"UPDATE journal SET records = :data {last}", data=kept, **of)
                found = await until(bus, lost.run, lambda found: not found.stuck)
                assert found.reason == "Waiting"
                assert counted() == 0
                row = await store.run(lost.run)
                assert row is not None
                assert not decode(RunSummary, row.summary).stuck
                await ask(bus, lost.run, Signal(lost.run, "go", "1"))
                assert (await until(bus, lost.run)).result == 70_000

    run_async(body())


@pytest.mark.req("COG-3.1.2", "COG-2.2.1")
def test_what_its_steps_give_meanwhile_counts_once_it_goes_on(tmp_path: Path) -> None:
    """No step whose result was taken is executed again; one that nobody reported is."""

    def step(at: int) -> dict[str, Any]:
        args = {"folder": str(tmp_path), "item": at, "stuck": at}
        return {"name": f"s{at}", "call": {"entry": "tests.steps:stuck_once", "args": args}}

    def calls() -> list[int]:
        traces = [tmp_path / f"item-{at}" for at in range(4)]
        return [trace.stat().st_size if trace.exists() else 0 for trace in traces]

    spec = {
        "steps": [step(at) for at in range(4)],
        "onError": {"action": "continue"},
        "result": "[steps.s0.output, size(steps.s1.output), steps.s2.error.code, steps.s3.output]",
    }
    plan = RunRequest("uid-late-abcdef12", NAMESPACE, "late", spec)

    def gave(at: int, output: Any = None, error: StepError | None = None) -> StepResult:
        return StepResult(plan.run, StepKey(f"s{at}"), 1, "worker", output, error, 1.0, 2.0)

    async def body() -> None:
        async with a_store(tmp_path) as store:
            async with serving(store) as bus:
                await ask(bus, plan.run, Submit(plan))
                while not all(calls()):
                    await asyncio.sleep(0.02)
            before = calls()
            of = {"run": plan.run}
            first = "WHERE run = :run AND seq = 1"
            ((kept,),) = await sql(store, f"SELECT records FROM journal {first}", **of)
            newer = NEWER.encode()
            await sql(store, f"UPDATE journal SET records = :data {first}", data=newer, **of)
            async with serving(store, start=1) as bus:
                await until(bus, plan.run, lambda found: found.stuck)
                address = engine_address(partition_of(plan.run))

                async def report(message: Report | ReportMany) -> Reported:
                    while True:
                        with suppress(UnavailableError):
                            told = await bus.request(address, encode(message), wait=10.0)
                            if not (found := decode(Reported, told)).again:
                                return found
                        await asyncio.sleep(0.02)

                assert (await report(Report(gave(0, "first")))).ended == ()
                wrong = StepError("odd", "no", retryable=False)
                await report(ReportMany((gave(1, "x" * 70_000), gave(2, error=wrong))))
                await report(Report(gave(0, "twice")))
            # The one that took them is killed as well: they stand in the journal.
            async with serving(store, start=2) as bus:
                await until(bus, plan.run, lambda found: found.stuck)
                await sql(store, f"UPDATE journal SET records = :data {first}", data=kept, **of)
                found = await until(bus, plan.run)
                assert (found.phase, found.result) == ("Succeeded", ["first", 70_000, "odd", 3])
        more = [now - then for now, then in zip(calls(), before, strict=True)]
        assert more == [0, 0, 0, 1]

    run_async(body())


def test_a_value_that_is_gone_is_named_and_such_a_run_can_be_ended(tmp_path: Path) -> None:
    async def body() -> None:
        lost = waiting("lost")
        async with a_store(tmp_path) as store:
            await begin(store, lost)
            await sql(store, "DELETE FROM value_uses")
            await sql(store, "DELETE FROM large_values")
            async with serving(store, start=1) as bus:
                found = await until(bus, lost.run, lambda found: found.stuck)
                assert "is missing" in found.message
                address = engine_address(partition_of(lost.run))
                told = await bus.request(address, encode(ListActive()), wait=10.0)
                assert lost.run in told.decode(), "who cleans up behind objects has to know of it"
                ended = await ask(bus, lost.run, Cancel(lost.run, "nobody needs it"))
                assert (ended.phase, ended.reason) == ("Failed", "Cancelled")
                assert counted() == 0
            row = await store.run(lost.run)
            assert row is not None
            assert row.finished
            async with serving(store, start=2) as bus:
                found = await ask(bus, lost.run, Summarise(lost.run))
                assert (found.phase, found.stuck) == ("Failed", False)

    run_async(body())


def test_the_next_owner_that_can_read_it_says_so(tmp_path: Path) -> None:
    """What was said of it stands in the store: an engine that resumes it at once takes that back."""

    async def body() -> None:
        lost = waiting("lost")
        async with a_store(tmp_path) as store:
            await begin(store, lost)
            saved = await sql(store, "SELECT * FROM large_values")
            await sql(store, "UPDATE large_values SET digest = 'x' || digest")
            async with serving(store, start=1) as bus:
                await until(bus, lost.run, lambda found: found.stuck)
            await sql(store, "UPDATE large_values SET digest = substr(digest, 2)")
            assert await sql(store, "SELECT * FROM large_values") == saved
            async with serving(store, start=2) as bus:
                await until(bus, lost.run, lambda found: not found.stuck)
                row = await store.run(lost.run)
                while row is None or decode(RunSummary, row.summary).stuck:
                    await asyncio.sleep(0.02)
                    row = await store.run(lost.run)

    run_async(body())


@pytest.fixture(scope="module")
def cluster() -> Iterator[ControlPlane]:
    with seedbed_control_plane() as found:
        yield found


@contextmanager
def an_engine(etcd: str, nats: str, folder: Path, number: int) -> Iterator[None]:
    """A real engine in a thread, on servers and a store that outlive it."""
    loop = asyncio.new_event_loop()
    engines: list[Engine] = []

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            bus = await NatsBus.open(nats, name="engine", wait=10.0)
            stack.push_async_callback(bus.close)
            coordinator = EtcdCoordinator.open(etcd)
            stack.push_async_callback(coordinator.close)
            store = await stack.enter_async_context(a_store(folder))
            engines.append(
                Engine(
                    store=store,
                    bus=bus,
                    coordinator=coordinator,
                    holder=f"e{number}",
                    lease_ttl=2.0,
                )
            )
            await engines[0].run()

    task = loop.create_task(serve())
    thread = threading.Thread(target=lambda: loop.run_until_complete(asyncio.wait({task})))
    thread.start()
    try:
        wait_until(lambda: engines and len(engines[0].partitions) == PARTITIONS, "all partitions")
        yield
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(30.0)
        loop.close()
        if not task.cancelled():
            task.result()


def seedbed(cluster: ControlPlane, *arguments: str) -> str:
    command = str(Path(sys.executable).parent / "seedbed")
    environment = {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "COLUMNS": "200"}
    return subprocess.run(
        [command, *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    ).stdout


def test_its_object_has_a_condition_and_an_event_and_the_command_shows_them(
    cluster: ControlPlane, etcd_server: EtcdServer, nats_server: NatsServer, tmp_path: Path
) -> None:
    namespace = f"stuck-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", namespace)
    steps = [{"name": "go", "wait": {"event": "go"}}]
    workflow = {
        "apiVersion": "seedbed.dev/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": "audit", "namespace": namespace},
        "spec": {"steps": steps},
    }

    def says(kind: str) -> tuple[str, str]:
        status = read(cluster, "workflows", "audit", "-n", namespace).get("status") or {}
        for one in status.get("conditions") or ():
            if one["type"] == kind:
                return one["status"], one["reason"]
        return "", ""

    def journal(statement: str, **values: Any) -> list[Any]:
        async def body() -> list[Any]:
            async with a_store(tmp_path) as store:
                return await sql(store, statement, **values)

        return run_async(body())

    with operators(cluster, etcd_server, nats_server, tmp_path, "one"):
        with an_engine(etcd_server.endpoint, nats_server.url, tmp_path, 1):
            apply(cluster, workflow)
            wait_until(lambda: says("Ready") == ("False", "Waiting"), "Waiting")
        kept = journal("SELECT run, seq, records FROM journal")
        journal("UPDATE journal SET records = :data", data=NEWER.encode())
        with an_engine(etcd_server.endpoint, nats_server.url, tmp_path, 2):
            wait_until(lambda: says("Stalled") == ("True", "CannotResume"), "CannotResume")
            assert says("Finished") == ("False", "Running")
            events = cluster.kubectl("get", "events", "-n", namespace)
            assert "CannotResume" in events
            assert "version 99 is not known" in events
            told = seedbed(cluster, "describe", "workflow", "audit", "-n", namespace)
            assert "CannotResume" in told
            assert "version 99 is not known" in " ".join(told.split())
            for run, seq, records in kept:
                journal(
                    "UPDATE journal SET records = :data WHERE run = :run AND seq = :seq",
                    data=records,
                    run=run,
                    seq=seq,
                )
            wait_until(lambda: says("Stalled") == ("False", "Waiting"), "Waiting again")
