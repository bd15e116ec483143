"""Plans beyond the size of an object: read once, kept under their hash, small wherever they are shown."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import random
import uuid
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from hack.large_plan import graph
from seedbed.controllers import workflow as controller
from seedbed.controllers.plan import Defaults, Key, Observed, SubmitRun
from seedbed.crds.base import API_VERSION
from seedbed.crds.engine_requests import Submit
from seedbed.crds.errors import InvalidError, PlanUnavailableError, UnavailableError
from seedbed.crds.messages import RunRequest, StepError, StepResult
from seedbed.crds.steps_document import packed, read_steps
from seedbed.crds.wire import encode
from seedbed.runtime.bus.nats import NatsBus
from seedbed.runtime.coordination.etcd import EtcdCoordinator
from seedbed.runtime.store.plans import PlanRow, SqlPlans
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.workflow.decide import accept, advance
from seedbed.runtime.workflow.engine import Engine
from seedbed.runtime.workflow.plan import started
from seedbed.runtime.workflow.planning.insight import of_run
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.summary import summarise
from tests.conftest import run_async
from tests.runs import a_world
from tests.servers import EtcdServer, NatsServer
from tests.small_engine import NAMESPACE, a_store, ask, killed_in_the_end, serving, until

ENTRY = "tests.steps:echo"


@pytest.mark.req("COG-2.2.1")
def test_a_pushed_plan_is_read_once_and_resumed_after_it_was_removed(tmp_path: Path) -> None:
    async def body() -> None:
        async with a_store(tmp_path) as store:
            await body_with(store)

    async def body_with(store: SqlStore) -> None:
        plans = SqlPlans(store)
        document = packed(read_steps(orjson.dumps(graph(600, 2, ENTRY))))
        digest = hashlib.sha256(document).hexdigest()
        source = {"artifact": {"url": f"seedbed://sha256/{digest}"}}
        request = RunRequest("run-1", NAMESPACE, "big", {"stepsFrom": source, "result": "1"})
        async with serving(store) as bus:
            with pytest.raises(UnavailableError, match="seedbed plan push") as missing:
                await ask(bus, request.run, Submit(request))
            assert missing.value.code == PlanUnavailableError.code
            assert await store.run(request.run) is None
            await plans.put(PlanRow(NAMESPACE, digest, 0.0, 600, len(document)), document)
            assert (await ask(bus, request.run, Submit(request))).phase == "Running"
            await until(bus, request.run, lambda told: told.counts.succeeded >= 50)
        await plans.remove(NAMESPACE, digest)
        row = await store.run(request.run)
        assert row is not None
        assert len(row.request) < 1024
        async with serving(store, 1) as bus:
            assert (await ask(bus, request.run, Submit(request))).run == request.run
            found = await until(bus, request.run)
        assert (found.phase, found.counts.succeeded) == ("Succeeded", 600)

    run_async(body())


@pytest.mark.req("DSX-20")
def test_ten_thousand_steps_with_fifty_thousand_edges_are_an_ordinary_object() -> None:
    steps = graph(10_000, 5, ENTRY)
    assert sum(len(step["needs"]) for step in steps) >= 49_000
    spec = {"stepsFrom": {"artifact": {"url": f"seedbed://sha256/{'0' * 64}"}}}
    metadata = {"name": "big", "namespace": NAMESPACE, "uid": "u-1", "generation": 1}
    obj = {"apiVersion": API_VERSION, "kind": "Workflow", "metadata": metadata, "spec": spec}
    pool = {"kind": "Pool", "metadata": {"name": "general", "namespace": NAMESPACE}, "spec": {}}
    seen = Observed(
        Key("Workflow", NAMESPACE, "big"),
        obj,
        references={Key("Pool", NAMESPACE, "general"): pool},
    )
    (effect,) = controller.reconcile(seen, datetime.now(UTC), Defaults()).effects
    assert isinstance(effect, SubmitRun)
    start = started(effect.request, read_steps(orjson.dumps(steps)))
    assert len(encode(start.request)) < 1024
    state = RunState(start.request, plan=start.plan)
    world = a_world(queueLimit=100_000)
    advance(state, 1.0, world)
    for key, unit in list(state.scheduled.items()):
        error = StepError("x" * 5000, "y" * 50_000)
        accept(state, StepResult(start.request.run, key, unit.attempt, "w", error=error), 2.0)
        break
    told = replace(seen, run=summarise(state))
    plan = controller.reconcile(told, datetime.now(UTC), Defaults())
    assert plan.status is not None
    assert plan.status["progress"].endswith("/10000")
    assert len(json.dumps(spec)) < 1024
    assert len(json.dumps(plan.status)) < 16 * 1024


@pytest.mark.req("COG-4.2.1")
def test_the_largest_objects_go_through_real_servers(
    nats_server: NatsServer, etcd_server: EtcdServer, postgres_url: str
) -> None:
    steps = graph(10_000, 5, ENTRY)
    inline = [{**step, "needs": step["needs"][:1]} for step in steps]
    text = base64.b64encode(gzip.compress(random.Random(1).randbytes(700_000))).decode()
    packed_steps = base64.b64encode(gzip.compress(orjson.dumps(steps))).decode()
    held = {"stepsFrom": {"configMap": {"name": "plan"}}}

    def asked(name: str, spec: dict[str, Any], document: str = "") -> Submit:
        run = f"{uuid.uuid4()}-{name}"
        request = RunRequest(run, f"none-{uuid.uuid4().hex[:8]}", "big", spec)
        return Submit(request, document, packed=bool(document))

    async def body() -> None:
        store = SqlStore.open(postgres_url)
        await store.migrate()
        bus = await NatsBus.open(nats_server.url)
        coordinator = EtcdCoordinator.open(etcd_server.endpoint)
        engine = Engine(store=store, bus=bus, coordinator=coordinator, holder="one", lease_ttl=5.0)
        async with killed_in_the_end(engine.run()):
            for message in (asked("inline", {"steps": inline}), asked("held", held, packed_steps)):
                told = await ask(bus, message.request.run, message)
                assert (told.phase, told.counts.total) == ("Running", 10_000)
                row = await store.run(message.request.run)
                assert row is not None
                assert len(row.request) < 4096
            # Whoever reaches the database may ask about the graph.
            other = SqlStore.open(postgres_url)
            assert row is not None
            found = await of_run(other, row)
            assert len(found.graph.nodes) == 10_000
            assert len(found.critical.path) == len(found.graph.levels)
            assert sum(len(node.needs) for node in found.graph.nodes.values()) == 49_985
            await other.close()
            circle = [{**steps[0], "needs": [steps[-1]["name"]]}, *steps[1:]]
            round_again = base64.b64encode(gzip.compress(orjson.dumps(circle))).decode()
            with pytest.raises(InvalidError, match="the steps wait for each other"):
                await ask(bus, "circle", asked("circle", held, round_again))
            noise = asked("noise", held, text)
            assert len(encode(noise)) > 900_000
            with pytest.raises(InvalidError, match=r"spec\.stepsFrom: ConfigMap `plan`"):
                await ask(bus, noise.request.run, noise)
        await bus.close()
        await coordinator.close()
        await store.close()

    run_async(body())
