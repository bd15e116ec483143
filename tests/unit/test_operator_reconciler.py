"""The loop against a cluster, a bus and a coordinator in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from seedbed.cli.embedded.cluster import MemoryCluster
from seedbed.controllers.conditions import condition
from seedbed.controllers.plan import Defaults, Event, Key, Raw
from seedbed.crds.addresses import PARTITIONS, engine_address, summaries_topic
from seedbed.crds.base import API_VERSION
from seedbed.crds.engine_requests import decode_request
from seedbed.crds.errors import (
    ConflictError,
    FencedError,
    InvalidError,
    PlanUnavailableError,
    SeedbedError,
    UnavailableError,
)
from seedbed.crds.messages import RunSummary, StepKey
from seedbed.crds.run_ids import child_id
from seedbed.crds.wire import encode
from seedbed.operator.reconciler import Reconciler
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.coordination.port import Lease, Ownership
from tests.conftest import run_async


class Cluster(MemoryCluster):
    """Counts writes, and fails as often as it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.writes: list[str] = []
        self.failures: list[Exception] = []

    def _write(self, what: str, obj: Raw) -> None:
        if self.failures:
            raise self.failures.pop(0)
        self.writes.append(f"{what} {obj['kind']}/{obj['metadata']['name']}")

    async def apply(self, obj: Raw) -> Raw:
        self._write("apply", obj)
        return await super().apply(obj)

    async def apply_status(self, obj: Raw) -> Raw:
        self._write("status", obj)
        return await super().apply_status(obj)

    async def record(self, about: Raw, event: Event) -> None:
        self._write("event", about)
        await super().record(about, event)


@dataclass
class Engine:
    """Answers as an engine does that keeps every run in `Running`."""

    active: set[str] = field(default_factory=set)
    heard: list[tuple[str, str]] = field(default_factory=list)
    refuses: SeedbedError | None = None
    phase: str = "Running"
    deaf_to_cancels: int = 0

    async def answer(self, payload: bytes) -> bytes:
        asked: Any = decode_request(payload)
        if asked.op == "active":
            return orjson.dumps({"runs": sorted(self.active)})
        run = asked.request.run if asked.op == "submit" else asked.run
        self.heard.append((asked.op, run))
        if asked.op == "cancel" and self.deaf_to_cancels:
            self.deaf_to_cancels -= 1
            raise UnavailableError("the partition moves", 0.01)
        if asked.op == "cancel":
            self.active.discard(run)
            return b"{}"
        if asked.op == "submit":
            if self.refuses is not None:
                raise self.refuses
            self.active.add(run)
        return encode(summary(run, phase=self.phase, reason=self.phase))


def summary(run: str, revision: int = 1, **said: Any) -> RunSummary:
    known: dict[str, Any] = {"phase": "Running", "reason": "Running"}
    return RunSummary(run, "default", "audit", revision, **{**known, **said})


@dataclass
class World:
    cluster: Cluster
    bus: MemoryBus
    coordinator: MemoryCoordinator
    engine: Engine
    ownership: Ownership
    lease: Lease
    reconciler: Reconciler

    async def apply(self, kind: str, name: str, **spec: Any) -> None:
        """What a user does; not counted."""
        await MemoryCluster.apply(self.cluster, made(kind, name, **spec))

    async def audit(self) -> str:
        """Make a Workflow and what it needs; the id of its run, once that runs."""
        await self.apply("Pool", "general", replicas=0)
        await self.apply("Workflow", "audit", steps=[STEP])
        await until(lambda: self.ready("Workflow", "audit") == "Running")
        (run,) = self.engine.active
        return run

    def ready(self, kind: str, name: str) -> str:
        return str(condition(self.cluster.get(Key(kind, "default", name)), "Ready").get("reason"))

    async def quiet(self) -> None:
        """Wait until nothing is left to do."""
        for _ in range(5):
            await until(lambda: self.reconciler.queue.idle)
            await asyncio.sleep(0)


@asynccontextmanager
async def world(
    *, engine: bool = True, objects: tuple[Raw, ...] = (), resync: float = 600.0
) -> AsyncIterator[World]:
    cluster, bus, coordinator = Cluster(), MemoryBus(), MemoryCoordinator()
    answering = Engine()
    for obj in objects:
        await MemoryCluster.apply(cluster, obj)
    async with coordinator.lease() as lease, asyncio.TaskGroup() as tasks:
        served = [bus.serve(engine_address(n), answering.answer) for n in range(PARTITIONS)]
        for one in served if engine else ():
            await one.__aenter__()
        ownership = await coordinator.campaign("operator", "me", lease)
        reconciler = Reconciler(cluster, bus, coordinator, ownership, Defaults(), resync=resync)
        cluster.listen(lambda change, obj: reconciler.notice(obj, deleted=change == "DELETED"))
        running = tasks.create_task(reconciler.run())
        try:
            yield World(cluster, bus, coordinator, answering, ownership, lease, reconciler)
        finally:
            running.cancel()
            for one in served if engine else ():
                await one.__aexit__(None, None, None)


def made(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


async def until(what: Callable[[], Any]) -> None:
    async with asyncio.timeout(20):
        while not what():
            await asyncio.sleep(0.005)


STEP = {"name": "collect", "call": {"entry": "builtins:dict"}}


def test_an_object_costs_one_write_and_one_for_its_child_and_then_none() -> None:
    async def body() -> None:
        async with world() as w:
            await w.apply("Pool", "general", replicas=0)
            await until(lambda: w.ready("Pool", "general") == "ScaledToZero")
            await w.quiet()
            assert w.cluster.writes == ["apply Deployment/general-workers", "status Pool/general"]
            w.reconciler.queue.add(Key("Pool", "default", "general"))
            await w.quiet()
            assert len(w.cluster.writes) == 2

    run_async(body())


def test_references_resolve_when_the_pool_comes_in_any_order() -> None:
    async def body() -> None:
        async with world() as w:
            await w.apply("Workflow", "audit", steps=[STEP])
            await w.apply("Agent", "reader", pool={"name": "general"}, signature="a -> b")
            await until(lambda: w.ready("Workflow", "audit") == "PoolNotFound")
            await until(lambda: w.ready("Agent", "reader") == "PoolNotFound")
            assert w.engine.heard == []
            await w.apply("Pool", "general", replicas=0)
            await until(lambda: w.ready("Workflow", "audit") == "Running")
            await until(lambda: w.ready("Agent", "reader") == "PoolScaledToZero")
            assert list(await w.coordinator.settings("agents/")) == ["agents/default/reader"]

    run_async(body())


def test_a_forecast_is_shown_although_nothing_happened_in_the_run() -> None:
    async def body() -> None:
        async with world() as w:
            run = await w.audit()
            forecast = encode(summary(run, 1, eta=1_795_255_200.0))

            def shown() -> Any:
                workflow = w.cluster.get(Key("Workflow", "default", "audit"))
                return (workflow or {}).get("status", {}).get("eta")

            async with asyncio.timeout(20):
                # Again and again: when the operator asks, this engine answers without one.
                while shown() != "2026-11-21T10:00:00Z":
                    await w.bus.publish(summaries_topic(0), forecast)
                    await asyncio.sleep(0.05)

    run_async(body())


def test_a_run_is_submitted_shown_and_cancelled_with_its_workflow() -> None:
    async def body() -> None:
        async with world() as w:
            run = await w.audit()
            told = summary(run, 2, phase="Succeeded", reason="Succeeded", result=7)
            for _ in range(2):  # telling twice does no harm
                await w.bus.publish(summaries_topic(0), encode(told))
            await until(lambda: w.ready("Workflow", "audit") == "Succeeded")
            workflow = w.cluster.get(Key("Workflow", "default", "audit"))
            assert workflow is not None
            assert workflow["status"]["result"] == 7
            submitted = [op for op, _ in w.engine.heard if op == "submit"]
            assert submitted == ["submit"]

            await w.apply("Workflow", "audit", steps=[{**STEP, "name": "other"}])
            await until(lambda: len([op for op, _ in w.engine.heard if op == "submit"]) == 2)
            await until(lambda: w.ready("Workflow", "audit") == "Running")
            await w.cluster.delete(Key("Workflow", "default", "audit"), workflow["metadata"]["uid"])
            await until(lambda: w.engine.heard[-1][0] == "cancel")

    run_async(body())


def test_the_run_of_a_plan_that_has_changed_ends_however_late_the_engine_hears_of_it() -> None:
    async def body() -> None:
        async with world() as w:
            before = await w.audit()
            w.engine.deaf_to_cancels = 2
            await w.apply("Workflow", "audit", steps=[{**STEP, "name": "other"}])
            await until(lambda: len([op for op, _ in w.engine.heard if op == "submit"]) == 2)
            assert before not in w.engine.active

    run_async(body())


def test_a_run_that_is_over_at_once_costs_one_write() -> None:
    async def body() -> None:
        async with world() as w:
            await w.apply("Pool", "general", replicas=0)
            await w.quiet()
            w.engine.phase = "Succeeded"
            await w.apply("Workflow", "audit", steps=[STEP])
            await until(lambda: w.ready("Workflow", "audit") == "Succeeded")
            assert w.cluster.writes.count("status Workflow/audit") == 1

    run_async(body())


def test_a_run_of_a_plan_that_was_replaced_unseen_is_cancelled() -> None:
    """A leader ended after it gave a run to the engine; the plan changed before the next one looked."""

    async def body() -> None:
        async with world(resync=0.02) as w:
            run = await w.audit()
            uid = run.rpartition("-")[0]
            step = child_id(run, StepKey("collect"), 0)
            w.engine.active |= {f"{uid}-0123abcd", step}
            await until(lambda: f"{uid}-0123abcd" not in w.engine.active)
            assert w.engine.active == {run, step}

    run_async(body())


def test_a_summary_that_cannot_be_read_stops_nothing() -> None:
    async def body() -> None:
        async with world() as w:
            await w.bus.publish(summaries_topic(0), b"{}")
            await w.apply("FeatureFlag", "brief")
            await until(lambda: w.ready("FeatureFlag", "brief") == "Published")

    run_async(body())


def test_what_failed_is_tried_again() -> None:
    async def body() -> None:
        async with world() as w:
            w.cluster.failures = [UnavailableError("busy"), ConflictError("changed")]
            await w.apply("Pool", "general", replicas=0)
            await until(lambda: w.ready("Pool", "general") == "ScaledToZero")
            assert w.cluster.failures == []

    run_async(body())


def test_what_a_pool_says_no_more_goes_from_its_deployment() -> None:
    async def body() -> None:
        async with world() as w:
            template = {"nodeSelector": {"zone": "a"}, "tolerations": [{"operator": "Exists"}]}
            await w.apply("Pool", "general", replicas=0, template=template)
            await until(lambda: w.ready("Pool", "general") == "ScaledToZero")
            await w.apply("Pool", "general", replicas=0)

            def pod() -> Raw:
                child = w.cluster.get(Key("Deployment", "default", "general-workers"))
                assert child is not None
                found: Raw = child["spec"]["template"]["spec"]
                return found

            await until(lambda: "nodeSelector" not in pod())
            assert "tolerations" not in pod()
            await w.quiet()
            writes = len(w.cluster.writes)
            w.reconciler.queue.add(Key("Pool", "default", "general"))
            await w.quiet()
            assert len(w.cluster.writes) == writes

    run_async(body())


def test_the_status_never_speaks_of_a_deployment_as_it_was_before_the_write() -> None:
    async def body() -> None:
        async with world() as w:
            pool, said = Key("Pool", "default", "general"), []

            def listen(*_: Any) -> None:
                status = (w.cluster.get(pool) or {}).get("status") or {}
                said.append((w.ready("Pool", "general"), status.get("observedGeneration")))

            worker = {"metadata": {"namespace": "default", "pool": "general"}}
            await w.coordinator.put("services/worker/one", orjson.dumps(worker))
            await w.apply("Pool", "general", workersPerReplica=1)
            await until(lambda: w.ready("Pool", "general") == "PodsNotReady")
            child = w.cluster.get(Key("Deployment", "default", "general-workers"))
            counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), 1)
            status = {"observedGeneration": 1, **counts}
            await MemoryCluster.apply_status(w.cluster, {**(child or {}), "status": status})
            await until(lambda: w.ready("Pool", "general") == "Available")
            w.cluster.listen(listen)
            image = {"image": "example.org/mine:2"}
            await w.apply("Pool", "general", workersPerReplica=1, template=image)
            await until(lambda: w.ready("Pool", "general") == "RollingOut")
            assert set(said) == {("Available", 1), ("RollingOut", 2)}

    run_async(body())


def test_a_refused_child_is_told_holds_up_no_other_and_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body() -> None:
        monkeypatch.setattr("seedbed.operator.reconciler.TERMINAL_RETRY", 0.01)
        async with world() as w:
            refused = True

            async def policed(obj: Raw) -> Raw:
                if refused and obj["kind"] == "Service":
                    raise InvalidError("object", "exceeded quota: small")
                return await Cluster.apply(w.cluster, obj)

            w.cluster.apply = policed  # type: ignore[method-assign]  # a quota
            spec = {"model": {"entry": "team.models:encoder"}, "layers": ["encoder.*.mlp"]}
            await w.apply("SeedLayer", "digits", **spec)
            await until(lambda: w.ready("SeedLayer", "digits") == "ChildRefused")
            assert [child["kind"] for child in w.cluster.listed("StatefulSet")] == ["StatefulSet"]
            refused = False
            await until(lambda: w.ready("SeedLayer", "digits") == "PodsNotReady")
            assert len(w.cluster.listed("Service")) == 1

    run_async(body())


def test_a_setting_that_is_not_as_the_object_says_is_put_right() -> None:
    async def body() -> None:
        async with world() as w:
            flag = "flags/default/brief"
            await w.apply("FeatureFlag", "brief", enabled=False)
            await until(lambda: w.ready("FeatureFlag", "brief") == "Published")
            right = (await w.coordinator.settings(flag))[flag]
            await w.quiet()
            await w.coordinator.put(flag, b'{"enabled":true}')
            await w.coordinator.put("flags/default/nobodys", right)

            async def is_right() -> bool:
                return await w.coordinator.settings("flags/") == {flag: right}

            async with asyncio.timeout(20):
                while not await is_right():
                    await asyncio.sleep(0.005)
            await w.coordinator.delete(flag)
            async with asyncio.timeout(20):
                while not await is_right():
                    await asyncio.sleep(0.005)

    run_async(body())


def test_an_engine_that_is_away_is_asked_again_and_the_status_says_so() -> None:
    async def body() -> None:
        async with world(engine=False) as w:
            await w.apply("Pool", "general", replicas=0)
            await w.apply("Workflow", "audit", steps=[STEP])
            await until(lambda: w.ready("Workflow", "audit") == "Submitted")
            served = [w.bus.serve(engine_address(n), w.engine.answer) for n in range(PARTITIONS)]
            for one in served:
                await one.__aenter__()
            await until(lambda: w.ready("Workflow", "audit") == "Running")
            for one in served:
                await one.__aexit__(None, None, None)

    run_async(body())


def test_what_belongs_to_no_object_is_taken_away_at_the_start() -> None:
    async def body() -> None:
        coordinator = MemoryCoordinator()
        await coordinator.put("agents/default/gone", b"{}")
        await coordinator.put("flags/default/brief", b"{}")
        cluster, bus, engine = Cluster(), MemoryBus(), Engine({"somebody-0a1b2c3d"})
        await cluster.apply(made("FeatureFlag", "brief"))
        async with coordinator.lease() as lease, asyncio.TaskGroup() as tasks:
            served = [bus.serve(engine_address(n), engine.answer) for n in range(PARTITIONS)]
            for one in served:
                await one.__aenter__()
            ownership = await coordinator.campaign("operator", "me", lease)
            reconciler = Reconciler(cluster, bus, coordinator, ownership, Defaults())
            cluster.listen(lambda _, obj: reconciler.notice(obj))
            running = tasks.create_task(reconciler.run())
            await until(lambda: ("cancel", "somebody-0a1b2c3d") in engine.heard)
            settings = await coordinator.settings("")
            assert "agents/default/gone" not in settings
            assert "flags/default/brief" in settings
            running.cancel()
            for one in served:
                await one.__aexit__(None, None, None)

    run_async(body())


def test_a_lost_lease_ends_the_loop_before_the_next_write() -> None:
    async def body() -> None:
        cluster, coordinator = Cluster(), MemoryCoordinator()
        async with coordinator.lease() as lease:
            ownership = await coordinator.campaign("operator", "me", lease)
            reconciler = Reconciler(
                cluster, MemoryBus(), coordinator, ownership, Defaults(), resync=3600
            )
            coordinator.expire(lease)
            cluster.listen(lambda _, obj: reconciler.notice(obj))
            await MemoryCluster.apply(cluster, made("Pool", "general", replicas=0))
            with pytest.raises(FencedError) as refused:
                async with asyncio.timeout(10):
                    await reconciler.run()
            assert refused.value.mine == ownership.token
            assert cluster.writes == []

    run_async(body())


def test_the_echo_of_an_own_write_is_no_reason_to_look_again() -> None:
    """The memory cluster tells of a change before the write's answer, as a watch often does."""

    async def body() -> None:
        async with world() as w:
            looks: list[Key] = []
            take = w.reconciler.queue.take

            async def counted() -> Key:
                key = await take()
                looks.append(key)
                return key

            w.reconciler.queue.take = counted  # type: ignore[method-assign]  # counts
            await w.apply("Pool", "first", replicas=0)  # each worker has one take before the count
            await w.quiet()
            for number in range(20):
                await w.apply("Pool", f"pool-{number}", replicas=0)
            await until(lambda: w.ready("Pool", "pool-19") == "ScaledToZero")
            await w.quiet()
            assert len(looks) == len(set(looks))

    run_async(body())


def test_what_a_user_changes_while_the_status_is_written_is_seen() -> None:
    async def body() -> None:
        async with world() as w:

            async def meanwhile(obj: Raw) -> Raw:
                w.cluster.apply_status = Cluster.apply_status.__get__(w.cluster)  # type: ignore[method-assign]  # once
                await w.apply("Pool", "general", replicas=3)
                return await w.cluster.apply_status(obj)

            w.cluster.apply_status = meanwhile  # type: ignore[method-assign]  # once
            await w.apply("Pool", "general", replicas=0)
            await until(lambda: w.ready("Pool", "general") == "PodsNotReady")
            deployment = w.cluster.get(Key("Deployment", "default", "general-workers"))
            assert deployment is not None
            assert deployment["spec"]["replicas"] == 3

    run_async(body())


def test_what_kubernetes_reports_while_a_child_is_written_is_seen() -> None:
    async def body() -> None:
        async with world() as w:
            await w.apply("Pool", "general", replicas=1)
            await until(lambda: w.ready("Pool", "general") == "PodsNotReady")
            await w.quiet()

            async def meanwhile(obj: Raw) -> Raw:
                w.cluster.apply = Cluster.apply.__get__(w.cluster)  # type: ignore[method-assign]  # once
                told = {"replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}
                stored = await w.cluster.apply(obj)
                told["observedGeneration"] = stored["metadata"]["generation"]
                await MemoryCluster.apply_status(w.cluster, {**obj, "status": told})
                return stored

            w.cluster.apply = meanwhile  # type: ignore[method-assign]  # once
            await w.apply("Pool", "general", replicas=1, drain="9s")
            await until(lambda: w.ready("Pool", "general") == "WorkersNotRegistered")

    run_async(body())


def test_what_the_engine_says_of_a_plan_stands_in_the_status_once() -> None:
    async def body() -> None:
        async with world() as at:
            at.engine.refuses = PlanUnavailableError("https://x.example answers 404", 0.05)
            await at.apply("Pool", "general")
            source = {"artifact": {"url": "https://x.example/p", "sha256": "0" * 64}}
            await at.apply("Workflow", "audit", stepsFrom=source)
            await until(lambda: at.ready("Workflow", "audit") == "PlanUnavailable")
            waiting = at.cluster.get(Key("Workflow", "default", "audit"))
            assert condition(waiting, "Reconciling")["status"] == "True"
            assert "answers 404" in condition(waiting, "Ready")["message"]
            at.engine.refuses = InvalidError("spec.stepsFrom", "a plan that cannot run")
            await until(lambda: at.ready("Workflow", "audit") == "PlanRefused")
            refused = at.cluster.get(Key("Workflow", "default", "audit"))
            assert condition(refused, "Stalled")["status"] == "True"
            assert condition(refused, "Accepted")["status"] == "False"
            await at.quiet()
            before = list(at.cluster.writes)
            at.reconciler.queue.add(Key("Workflow", "default", "audit"))
            await at.quiet()
            assert at.cluster.writes == before, "the same refusal is no news"
            at.engine.refuses = None
            at.reconciler.queue.add(Key("Workflow", "default", "audit"))
            await until(lambda: at.ready("Workflow", "audit") == "Running")

    run_async(body())


def test_a_run_that_does_the_work_of_a_step_is_not_the_workflows_own() -> None:
    async def body() -> None:
        async with world() as at:
            await at.apply("Pool", "general")
            await at.apply("Workflow", "audit", steps=[{"name": "a", "call": {"entry": "m:f"}}])
            await until(lambda: at.ready("Workflow", "audit") == "Running")
            inner = summary("uid-inner", revision=99, reason="Inner", parent="uid-outer")
            at.reconciler._runs.take(inner)
            await at.quiet()
            assert at.ready("Workflow", "audit") == "Running"

    run_async(body())


def test_a_long_queue_lets_the_lease_and_the_watches_have_their_turns() -> None:
    async def body() -> None:
        async with world() as w:
            for number in range(200):
                await w.apply("FeatureFlag", f"flag-{number}")
            await until(lambda: w.ready("FeatureFlag", "flag-199") == "Published")
            await w.quiet()
            for number in range(200):
                w.reconciler.queue.add(Key("FeatureFlag", "default", f"flag-{number}"))
            turns = 0
            while not w.reconciler.queue.idle:
                await asyncio.sleep(0)
                turns += 1
            # At most one look a worker between two turns.
            assert turns >= 200 // 16

    run_async(body())


def test_an_engine_that_comes_is_asked_soon_for_what_failed_without_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """However long there was none: a plan does not wait for half a minute more."""
    monkeypatch.setattr("seedbed.operator.queue.FIRST_RETRY", 1000.0)
    monkeypatch.setattr("seedbed.operator.reconciler.ENGINE_SERVES_AFTER", 0.05)

    async def body() -> None:
        async with world(engine=False) as w, AsyncExitStack() as stack:
            await w.apply("Pool", "general")
            await w.apply("Workflow", "audit", steps=[STEP])
            await until(lambda: w.reconciler.queue.failed)
            for number in range(PARTITIONS):
                serving = w.bus.serve(engine_address(number), w.engine.answer)
                await stack.enter_async_context(serving)
            await w.coordinator.put("services/engine/one", b"{}")
            await until(lambda: not w.reconciler.queue.failed)

    run_async(body())
