"""The operator as processes on a real API server, etcd and NATS: what it does, and what it leaves alone."""

from __future__ import annotations

import asyncio
import json
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster import ControlPlane, binaries
from seedbed.crds.addresses import PARTITIONS, engine_address
from seedbed.crds.base import API_VERSION
from seedbed.crds.seed_messages import SeedReport, seeds_topic
from seedbed.crds.wire import encode
from seedbed.runtime.bus.nats import NatsBus
from tests.clusters import apply, install_crds, read, refusal, seedbed_control_plane
from tests.operators import LEASE, Operator, operators, until
from tests.servers import EtcdServer, NatsServer


@pytest.fixture(scope="module")
def cluster() -> Iterator[ControlPlane]:
    with seedbed_control_plane(controller_manager=True) as found:
        yield found


@pytest.fixture
def operator(
    cluster: ControlPlane, etcd_server: EtcdServer, nats_server: NatsServer, tmp_path: Path
) -> Iterator[Operator]:
    with operators(cluster, etcd_server, nats_server, tmp_path, "one") as (found,):
        yield found


@pytest.fixture
def namespace(cluster: ControlPlane, request: pytest.FixtureRequest) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    name = f"{name}-{secrets.token_hex(3)}"
    cluster.kubectl("create", "namespace", name)
    return name


def made(kind: str, namespace: str, name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": API_VERSION, "kind": kind, "metadata": metadata, "spec": spec}


def ready(cluster: ControlPlane, kind: str, namespace: str, name: str) -> tuple[str, str]:
    """Status and reason of Ready, where the status is of the current spec."""
    obj = read(cluster, kind, name, "-n", namespace)
    status = obj.get("status") or {}
    if status.get("observedGeneration") != obj["metadata"]["generation"]:
        return "", ""
    (found,) = [each for each in status["conditions"] if each["type"] == "Ready"]
    return found["status"], found["reason"]


def is_ready(cluster: ControlPlane, namespace: str, *objects: str) -> Callable[[], bool]:
    def check() -> bool:
        parts = (one.split("/") for one in objects)
        return all(ready(cluster, kind, namespace, name)[0] == "True" for kind, name in parts)

    return check


def quiet(operator: Operator) -> float:
    """Wait until it has written nothing for two seconds; gives its writes so far."""
    last, since = operator.writes, time.monotonic()
    while time.monotonic() - since < 2:
        time.sleep(0.2)
        if operator.writes != last:
            last, since = operator.writes, time.monotonic()
    return last


CHART = Path(__file__).parents[2] / "charts" / "seedbed"
AGENT = {"pool": {"name": "general"}, "signature": "text: str -> kind: str"}


def test_objects_get_a_status_and_kubectl_diff_stays_empty(
    cluster: ControlPlane, operator: Operator, namespace: str
) -> None:
    manifests = [
        made("Pool", namespace, "general", replicas=0),
        made("Agent", namespace, "reader", **AGENT),
        made("FeatureFlag", namespace, "brief", rolloutPercentage=25),
    ]
    for manifest in manifests:
        apply(cluster, manifest)
    until(
        is_ready(cluster, namespace, "pools/general", "agents/reader", "featureflags/brief"),
        "Ready on all",
    )
    deployment = read(cluster, "deployment", "general-workers", "-n", namespace)
    assert deployment["spec"]["replicas"] == 0
    for manifest in manifests:
        assert cluster.kubectl("diff", "-f", "-", stdin=json.dumps(manifest)) == ""


async def report(nats: str, told: SeedReport) -> None:
    """Tell the operator what a pod of a SeedLayer would."""
    bus = await NatsBus.open(nats, name="test", wait=10.0)
    try:
        await bus.publish(seeds_topic(told.namespace, told.layer), encode(told))
    finally:
        await bus.close()


def test_a_seed_layer_gets_its_pods_and_its_status_from_what_they_report(
    cluster: ControlPlane, operator: Operator, nats_server: NatsServer, namespace: str
) -> None:
    manifest = made(
        "SeedLayer",
        namespace,
        "digits",
        model={"entry": "seedbed.examples.seeds.digits:model"},
        layers=["0", "2"],
        checkpoint={"volume": {"size": "1Gi"}},
    )
    apply(cluster, manifest)
    told = ("False", "PodsNotReady")
    until(lambda: ready(cluster, "seedlayers", namespace, "digits") == told, "PodsNotReady")
    pods = read(cluster, "statefulset", "digits-seeds", "-n", namespace)
    (container,) = pods["spec"]["template"]["spec"]["containers"]
    assert container["args"] == ["serve", "seeds"]
    assert pods["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] == "checkpoints"
    service = read(cluster, "service", "digits-seeds", "-n", namespace)
    assert service["spec"]["ports"][0]["port"] == 8000
    uid = read(cluster, "seedlayer", "digits", "-n", namespace)["metadata"]["uid"]
    pod = SeedReport(
        namespace,
        "digits",
        uid,
        "digits-seeds-0",
        time.time(),
        "Serving",
        trains=True,
        activity="Training",
        stages={"dormant": 2047, "training": 1},
        accuracy=0.5,
        p99=0.002,
    )
    asyncio.run(report(nats_server.url, pod))

    def shown() -> bool:
        row = cluster.kubectl("get", "sbseed", "-n", namespace, "--no-headers")
        return "1 training/2047 dormant" in row and "0.5000" in row and "2ms" in row

    until(shown, "the seeds by stage")
    failed = replace(pod, at=time.time(), phase="Failed", reason="Invalid", message="spec.model")
    asyncio.run(report(nats_server.url, failed))
    told = ("False", "Invalid")
    until(lambda: ready(cluster, "seedlayers", namespace, "digits") == told, "the failure")
    writes = quiet(operator)
    assert quiet(operator) == writes, "an idle SeedLayer causes no write"
    assert cluster.kubectl("diff", "-f", "-", stdin=json.dumps(manifest)) == ""
    cluster.kubectl("delete", "seedlayer", "digits", "-n", namespace)
    until(
        lambda: "digits-seeds" not in cluster.kubectl("get", "statefulsets", "-n", namespace),
        "the pods' end",
    )


def test_an_unknown_pool_is_told_and_resolves_when_it_comes(
    cluster: ControlPlane, operator: Operator, namespace: str
) -> None:
    step = {"name": "collect", "call": {"entry": "builtins:dict"}}
    apply(cluster, made("Agent", namespace, "reader", **AGENT))
    apply(cluster, made("Workflow", namespace, "audit", steps=[step]))
    told = ("False", "PoolNotFound")
    until(lambda: ready(cluster, "agents", namespace, "reader") == told, "PoolNotFound")
    until(lambda: ready(cluster, "workflows", namespace, "audit") == told, "PoolNotFound")
    apply(cluster, made("Pool", namespace, "general", replicas=0))
    until(is_ready(cluster, namespace, "agents/reader"), "Ready")
    until(
        lambda: ready(cluster, "workflows", namespace, "audit") == ("False", "Submitted"),
        "submitted run",
    )


def test_a_change_of_the_child_by_hand_is_repaired(
    cluster: ControlPlane, operator: Operator, namespace: str
) -> None:
    apply(cluster, made("Pool", namespace, "general", replicas=0))
    until(is_ready(cluster, namespace, "pools/general"), "Ready")

    def image() -> str:
        found = read(cluster, "deployment", "general-workers", "-n", namespace)
        said: str = found["spec"]["template"]["spec"]["containers"][0]["image"]
        return said

    right = image()
    cluster.kubectl("set", "image", "deployment/general-workers", "worker=wrong:1", "-n", namespace)
    until(lambda: image() == right, "repaired image")
    cluster.kubectl("delete", "deployment", "general-workers", "-n", namespace)
    until(
        lambda: "general-workers" in cluster.kubectl("get", "deployments", "-n", namespace),
        "new Deployment",
    )


def test_idle_objects_cause_no_write_and_neither_does_another_leader(
    cluster: ControlPlane,
    etcd_server: EtcdServer,
    nats_server: NatsServer,
    namespace: str,
    tmp_path: Path,
) -> None:
    for number in range(30):
        apply(cluster, made("Pool", namespace, f"pool-{number}", replicas=0))
    servers = (cluster, etcd_server, nats_server, tmp_path)
    with operators(*servers, "one") as (one,):
        until(is_ready(cluster, namespace, "pools/pool-29"), "Ready")
        before = quiet(one)
        assert before >= 60
        assert quiet(one) == before
        one.signal(signal.SIGTERM)
        assert one.ended(within=20) == 0, one.log()
    with operators(*servers, "two") as (two,):
        until(lambda: total(two, "seedbed_reconciles_total") >= 30, "a look at everything")
        assert quiet(two) == 0


def total(operator: Operator, name: str) -> float:
    return sum(value for found, value in operator.metrics().items() if found.startswith(name))


def test_a_namespace_full_of_objects_can_be_deleted(
    cluster: ControlPlane, operator: Operator, namespace: str
) -> None:
    for number in range(10):
        apply(cluster, made("Pool", namespace, f"pool-{number}", replicas=0))
        apply(cluster, made("FeatureFlag", namespace, f"flag-{number}"))
    until(is_ready(cluster, namespace, "pools/pool-9", "featureflags/flag-9"), "Ready")
    cluster.kubectl("delete", "namespace", namespace, "--timeout=60s")
    assert operator.leads, operator.log()


@pytest.mark.req("FND-02")
def as_the_chart_allows(cluster: ControlPlane, folder: Path) -> dict[str, str]:
    """The environment of an operator that has just the rights that the chart gives it."""
    template = ["template", "seedbed", str(CHART), "--namespace", "default"]
    shown = [
        "--show-only",
        "templates/operator-rbac.yaml",
        "--show-only",
        "templates/operator.yaml",
    ]
    rendered = subprocess.run(
        [str(binaries.path("helm")), *template, *shown], capture_output=True, text=True, check=True
    )
    objects = [obj for obj in yaml.safe_load_all(rendered.stdout) if obj]
    rights = [obj for obj in objects if obj["kind"] in ("ServiceAccount", "ClusterRole")]
    rights += [obj for obj in objects if obj["kind"] == "ClusterRoleBinding"]
    for each in rights:
        apply(cluster, each, "-n", "default")
    token = cluster.kubectl("create", "token", "seedbed-operator", "-n", "default").strip()
    config = yaml.safe_load(cluster.kubeconfig.read_text())
    for user in config["users"]:
        user["user"] = {"token": token}
    file = folder / "operator.kubeconfig"
    file.write_text(yaml.safe_dump(config))
    return {"KUBECONFIG": str(file)}


def test_with_the_rights_of_the_chart_a_kind_that_goes_and_comes_back_is_served_again(
    cluster: ControlPlane,
    etcd_server: EtcdServer,
    nats_server: NatsServer,
    namespace: str,
    tmp_path: Path,
) -> None:
    servers = (cluster, etcd_server, nats_server, tmp_path)
    with operators(*servers, "one", settings=as_the_chart_allows(cluster, tmp_path)) as (one,):
        apply(cluster, made("FeatureFlag", namespace, "first"))
        until(is_ready(cluster, namespace, "featureflags/first"), "Ready")
        cluster.kubectl("delete", "crd", "featureflags.seedbed.dev")
        until(lambda: "FeatureFlag cannot be watched now" in one.log(), "end of the watch")
        apply(cluster, made("Pool", namespace, "general", replicas=0))
        until(is_ready(cluster, namespace, "pools/general"), "Ready, whatever is missing")
        install_crds(cluster)
        apply(cluster, made("FeatureFlag", namespace, "second"))
        until(is_ready(cluster, namespace, "featureflags/second"), "Ready")
        assert one.leads
        assert "forbidden" not in one.log()


def test_a_paused_leader_is_replaced_and_writes_nothing_when_it_wakes(
    cluster: ControlPlane,
    etcd_server: EtcdServer,
    nats_server: NatsServer,
    namespace: str,
    tmp_path: Path,
) -> None:
    with operators(cluster, etcd_server, nats_server, tmp_path, "one", "two") as both:
        old = next(one for one in both if one.leads)
        new = next(one for one in both if one is not old)
        apply(cluster, made("Pool", namespace, "general", replicas=0))
        until(is_ready(cluster, namespace, "pools/general"), "Ready")
        token = read(cluster, "pools", "general", "-n", namespace)["status"]["fencingToken"]
        old.signal(signal.SIGSTOP)
        until(lambda: new.leads, "new leader")
        apply(cluster, made("Pool", namespace, "general", replicas=0, queueLimit=5))
        apply(cluster, made("Pool", namespace, "other", replicas=0))
        until(is_ready(cluster, namespace, "pools/general", "pools/other"), "Ready")
        stored = {
            each["metadata"]["name"]: each["metadata"]["resourceVersion"]
            for each in read(cluster, "pools", "-n", namespace)["items"]
        }
        assert read(cluster, "pools", "other", "-n", namespace)["status"]["fencingToken"] > token
        old.signal(signal.SIGCONT)
        assert old.ended(within=20) == 3, old.log()
        assert stored == {
            each["metadata"]["name"]: each["metadata"]["resourceVersion"]
            for each in read(cluster, "pools", "-n", namespace)["items"]
        }


def test_the_api_server_refuses_the_token_of_an_earlier_leader(
    cluster: ControlPlane, namespace: str
) -> None:
    apply(cluster, made("Pool", namespace, "general", replicas=0))

    def write(token: int) -> str:
        status = {"fencingToken": token, "workers": token}
        manifest = {**made("Pool", namespace, "general"), "status": status}
        manifest.pop("spec")
        return refusal(
            cluster, manifest, "--server-side", "--subresource=status", "--field-manager=leader"
        )

    assert write(7) == ""
    assert "a newer operator leads" in write(6)
    assert read(cluster, "pools", "general", "-n", namespace)["status"]["workers"] == 7
    assert write(8) == ""


def test_a_leader_that_is_told_to_stop_hands_over_at_once(
    cluster: ControlPlane, etcd_server: EtcdServer, nats_server: NatsServer, tmp_path: Path
) -> None:
    with operators(cluster, etcd_server, nats_server, tmp_path, "one", "two") as both:
        old = next(one for one in both if one.leads)
        new = next(one for one in both if one is not old)
        old.signal(signal.SIGTERM)
        assert old.ended(within=20) == 0, old.log()
        until(lambda: new.leads, "new leader", LEASE)


@contextmanager
def an_engine(nats: str) -> Iterator[None]:
    """Somebody who agrees to whatever an engine is asked, and does nothing."""
    ended = threading.Event()

    async def agree(_: bytes) -> bytes:
        return b"{}"

    async def serve() -> None:
        async with AsyncExitStack() as stack:
            bus = await NatsBus.open(nats, name="engine", wait=10.0)
            stack.push_async_callback(bus.close)
            for partition in range(PARTITIONS):
                await stack.enter_async_context(bus.serve(engine_address(partition), agree))
            await asyncio.to_thread(ended.wait)

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(30.0)


def test_a_plan_in_a_config_map_is_read_and_a_change_of_it_is_another_plan(
    cluster: ControlPlane, operator: Operator, nats_server: NatsServer, namespace: str
) -> None:
    apply(cluster, made("Pool", namespace, "general", replicas=0))
    source = {"configMap": {"name": "plan"}}
    apply(cluster, made("Workflow", namespace, "audit", stepsFrom=source))
    missing = ("False", "ConfigMapNotFound")
    until(lambda: ready(cluster, "workflows", namespace, "audit") == missing, "ConfigMapNotFound")

    def run() -> str:
        found: str = read(cluster, "workflows", "audit", "-n", namespace)["status"].get("runId", "")
        return found

    def hold(text: str, **labels: str) -> None:
        metadata = {"name": "plan", "namespace": namespace, "labels": labels}
        manifest = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        apply(cluster, {**manifest, "data": {"steps.yaml": text}})

    hold("- {name: a, call: {entry: 'builtins:dict'}}")
    assert ready(cluster, "workflows", namespace, "audit") == missing, "it has no label"
    hold("- {name: a, call: {entry: 'builtins:dict'}}", **{"seedbed.dev/plan": "true"})
    until(lambda: run() != "", "a run")
    first = run()
    hold("- {name: b, call: {entry: 'builtins:dict'}}", **{"seedbed.dev/plan": "true"})
    assert quiet(operator) >= 0
    assert run() == first, "the engine has not heard that it ends"
    with an_engine(nats_server.url):
        until(lambda: run() != first, "another run")
    cluster.kubectl("delete", "configmap", "plan", "-n", namespace)
    second = run()
    assert quiet(operator) >= 0
    assert run() == second, "a run that began has its steps"
