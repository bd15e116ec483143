"""Seedbed on a real node: installed by Helm, and every part of it ended or stopped in mid-run."""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from hack import demo_cluster
from tests.e2e.node import SYSTEM, Node, eventually, stopped

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

ITEMS = 60
LEASE = 8.0
SLACK = 5.0


def workflow(
    items: int = ITEMS, delay: float = 0.4, parallelism: int = 4
) -> tuple[str, dict[str, Any]]:
    """A Workflow of `items` sleeps, and a last step that counts them."""
    name = f"run-{uuid.uuid4().hex[:6]}"
    steps = [
        {
            "name": "sleep",
            "forEach": "params.items",
            "retry": {"attempts": 5, "backoff": "100ms"},
            "call": {"entry": "asyncio:sleep", "args": {"delay": delay, "result": "${item}"}},
        },
        {
            "name": "count",
            "call": {"entry": "builtins:dict", "args": {"n": "${size(steps.sleep.output)}"}},
        },
    ]
    spec = {
        "params": {"items": list(range(items))},
        "steps": steps,
        "result": "steps.sleep.output",
        "parallelism": parallelism,
    }
    obj = {
        "apiVersion": "seedbed.dev/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name},
        "spec": spec,
    }
    return name, obj


def underway(node: Node, namespace: str, items: int = ITEMS, delay: float = 0.4) -> str:
    name, obj = workflow(items, delay)
    node.apply(obj, namespace=namespace)

    def some_done() -> bool:
        steps = (node.get("workflow", name, namespace).get("status") or {}).get("steps") or {}
        return int(steps.get("succeeded", 0)) >= 4

    eventually(some_done, "some steps are done")
    assert node.phase(name, namespace) == "Running"
    return name


def succeeded_once(node: Node, name: str, namespace: str, items: int = ITEMS) -> None:
    eventually(lambda: node.phase(name, namespace) in ("Succeeded", "Failed"), f"{name} ends", 120)
    status = node.get("workflow", name, namespace)["status"]
    assert status["phase"] == "Succeeded", status
    assert status["progress"] == f"{items + 1}/{items + 1}"
    assert status["result"] == list(range(items))
    node.wait_for_roles()
    log = node.seedbed("logs", name, "-n", namespace)
    recorded = Counter(line.split()[2] for line in log.splitlines() if " Succeeded " in line)
    assert set(recorded.values()) == {1}
    assert len(recorded) == items + 1


def test_a_container_step_runs_in_a_pod_and_its_output_counts(node: Node, namespace: str) -> None:
    name = f"pod-{uuid.uuid4().hex[:6]}"
    image = node.pods("operator")[0]["spec"]["containers"][0]["image"]
    script = "open('/dev/termination-log','w').write('{\"answer\": ${params.x + 1}}')"
    container = {
        "image": image,
        "imagePullPolicy": "Never",
        "command": ["python3", "-c"],
        "args": [script],
    }
    spec = {"params": {"x": 41}, "steps": [{"name": "think", "container": container}]}
    node.apply(
        {
            "apiVersion": "seedbed.dev/v1alpha1",
            "kind": "Workflow",
            "metadata": {"name": name},
            "spec": spec,
        },
        namespace=namespace,
    )
    eventually(lambda: node.phase(name, namespace) in ("Succeeded", "Failed"), "the run ends", 90)
    status = node.get("workflow", name, namespace)["status"]
    assert status["phase"] == "Succeeded", status
    assert status["result"] == {"answer": 42}


def end_worker(node: Node, namespace: str) -> None:
    node.kubectl(
        "delete", "pods", "-n", namespace, "-l", "seedbed.dev/pool=general", "--wait=false"
    )


def kill_engine(node: Node, _: str) -> None:
    os.kill(node.process_of(node.pods("engine")[0]), signal.SIGKILL)


def kill_leader(node: Node, _: str) -> None:
    os.kill(node.process_of(node.leader()), signal.SIGKILL)


def pause_engine(node: Node, _: str) -> None:
    with stopped(node.process_of(node.pods("engine")[0])):
        time.sleep(LEASE + 3)


def restart_nats(node: Node, _: str) -> None:
    node.kubectl("delete", "pod", "-n", SYSTEM, "seedbed-nats-0", "--grace-period=1")


def restart_postgres(node: Node, _: str) -> None:
    node.kubectl("delete", "pod", "-n", SYSTEM, "seedbed-postgres-0", "--grace-period=5")


@pytest.mark.req("SNK-02")
@pytest.mark.parametrize(
    "disturb", [end_worker, kill_engine, kill_leader, pause_engine, restart_nats, restart_postgres]
)
def test_a_run_finishes_and_records_each_result_once(
    node: Node, namespace: str, disturb: Callable[[Node, str], None]
) -> None:
    node.wait_for_roles()
    name = underway(node, namespace)
    disturb(node, namespace)
    succeeded_once(node, name, namespace)


def test_a_stopped_leader_is_replaced_and_writes_nothing_when_it_wakes(
    node: Node, namespace: str
) -> None:
    node.wait_for_roles()
    old = node.leader()["metadata"]["name"]
    process = node.process_of(node.leader())
    with stopped(process):
        others = [p for p in node.pods("operator") if p["metadata"]["name"] != old]
        path = (
            f"/api/v1/namespaces/{SYSTEM}/pods/{others[0]['metadata']['name']}:8080/proxy/metrics"
        )
        eventually(
            lambda: "seedbed_leading 1.0" in node.kubectl("get", "--raw", path, check=False),
            "the other operator leads",
            LEASE + 2 + SLACK,
        )
        flag = {
            "apiVersion": "seedbed.dev/v1alpha1",
            "kind": "FeatureFlag",
            "metadata": {"name": "after-takeover"},
            "spec": {"rolloutPercentage": 25},
        }
        node.apply_at_last(flag, namespace=namespace)
        eventually(
            lambda: (
                node.condition("featureflag", "after-takeover", namespace).get("status") == "True"
            ),
            "the new leader writes",
        )
        token = node.get("featureflag", "after-takeover", namespace)["status"]["fencingToken"]

    def ended() -> bool:
        for pod in node.pods("operator"):
            if pod["metadata"]["name"] == old:
                return any(s["restartCount"] > 0 for s in pod["status"]["containerStatuses"])
        return True

    eventually(ended, "the old leader's process ends", 60)
    node.wait_for_roles()
    after = node.get("featureflag", "after-takeover", namespace)["status"]["fencingToken"]
    assert after == token


def test_an_unknown_reference_is_a_condition_and_resolves_by_itself(
    node: Node, namespace: str
) -> None:
    name, obj = workflow(items=2, delay=0.01)
    obj["spec"]["pool"] = {"name": "late"}
    node.apply(obj, namespace=namespace)

    def refused() -> bool:
        found = node.condition("workflow", name, namespace)
        return found.get("reason") == "PoolNotFound" and "late" in found["message"]

    eventually(refused, "the missing Pool is told")
    pool = {
        "apiVersion": "seedbed.dev/v1alpha1",
        "kind": "Pool",
        "metadata": {"name": "late"},
        "spec": {"replicas": 1, "workersPerReplica": 1},
    }
    node.apply(pool, namespace=namespace)
    succeeded_once(node, name, namespace, items=2)


def test_the_webhook_refuses_a_cycle_naming_it(node: Node, namespace: str) -> None:
    name, obj = workflow(items=1)
    obj["spec"]["steps"][0]["needs"] = ["count"]
    with pytest.raises(AssertionError, match=r"sleep.*count|count.*sleep"):
        node.apply(obj, namespace=namespace)
    assert not node.get("workflow", name, namespace)


def test_an_upgrade_keeps_a_run_alive(node: Node, namespace: str) -> None:
    node.wait_for_roles()
    name = underway(node, namespace)
    for role in ("engine", "operator", "gateway", "api"):
        node.kubectl("rollout", "restart", "-n", SYSTEM, f"deployment/seedbed-{role}")
    succeeded_once(node, name, namespace)


@pytest.mark.req("DSX-01", "FND-01")
def test_one_switch_brings_three_pools_whose_workers_join_by_themselves(node: Node) -> None:
    space = f"std-{uuid.uuid4().hex[:6]}"
    node.kubectl("create", "namespace", space)
    chart = ["upgrade", "seedbed", str(demo_cluster.CHART), "-n", SYSTEM, "--reuse-values"]
    switch = f"standardPools.create=true,standardPools.namespace={space}"
    node.helm(*chart, "--set", switch, "--wait", "--timeout", "4m")
    wanted = {"general": 8, "optimizer": 2, "neural": 4}

    def joined() -> bool:
        found = {name: node.get("pool", name, space).get("status") or {} for name in wanted}
        return {name: status.get("workers") for name, status in found.items()} == wanted

    eventually(joined, "every worker of the three Pools has registered", 120)
    node.helm(*chart, "--set", "standardPools.create=false", "--wait", "--timeout", "4m")
    node.kubectl("delete", "namespace", space, "--wait=false")


def test_deleting_a_namespace_full_of_objects_ends(node: Node) -> None:
    space = f"gone-{uuid.uuid4().hex[:6]}"
    node.kubectl("create", "namespace", space)
    objects: list[dict[str, Any]] = []
    for at in range(30):
        base = {"apiVersion": "seedbed.dev/v1alpha1", "metadata": {"name": f"x-{at}"}}
        objects.append({**base, "kind": "Pool", "spec": {"replicas": 0}})
        objects.append({**base, "kind": "FeatureFlag", "spec": {}})
        _, obj = workflow(items=1)
        objects.append({**obj, "spec": {**obj["spec"], "pool": {"name": f"x-{at}"}}})
    node.apply(*objects, namespace=space)
    eventually(
        lambda: node.condition("pool", "x-29", space).get("status") == "True",
        "the last Pool is ready",
    )
    node.kubectl("delete", "namespace", space, "--timeout=90s")
    assert not node.get("namespace", space, "")


def test_uninstalling_leaves_only_the_kinds_and_installing_goes_on(
    node: Node, namespace: str
) -> None:
    """The last test of the file: it takes the release away and brings it back."""
    node.helm("uninstall", "seedbed", "-n", SYSTEM, "--wait", "--timeout", "3m")
    label = "app.kubernetes.io/instance=seedbed"
    kinds = "all,secrets,configmaps,serviceaccounts,networkpolicies,poddisruptionbudgets,roles,rolebindings"
    wide = "clusterroles,clusterrolebindings,validatingwebhookconfigurations"

    def nothing_left() -> bool:
        left = node.kubectl("get", kinds, "-n", SYSTEM, "-l", label, "-o", "name")
        return left + node.kubectl("get", wide, "-l", label, "-o", "name") == ""

    eventually(nothing_left, "everything of the release goes", 90)
    eventually(
        lambda: node.kubectl("get", "pvc", "-n", SYSTEM, "-o", "name") == "", "the volumes go", 60
    )
    secrets = node.kubectl("get", "secrets", "-n", SYSTEM, "-o", "name")
    assert secrets == ""
    assert "pools.seedbed.dev" in node.kubectl("get", "crds", "-o", "name")
    assert node.get("pool", "general", namespace)
    node.install()
    node.wait_for_roles()
    name, obj = workflow(items=2, delay=0.01)
    node.apply_at_last(obj, namespace=namespace)
    eventually(lambda: node.phase(name, namespace) == "Succeeded", "a run succeeds again", 120)
