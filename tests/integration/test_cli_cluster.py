"""The command against a real API server, with objects whose status the test writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster import ControlPlane
from tests.clusters import apply

SEEDBED = [str(Path(sys.executable).parent / "seedbed")]
NAMESPACE = "cli"


def condition(name: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    return {
        "type": name,
        "status": status,
        "reason": reason,
        "message": message,
        "lastTransitionTime": "2026-11-21T10:00:00Z",
    }


def workflow(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "seedbed.dev/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"steps": [{"name": "hello", "call": {"entry": "builtins:dict"}}]},
    }


def set_status(cluster: ControlPlane, name: str, **status: Any) -> None:
    patch = json.dumps({"status": status})
    arguments = ["-n", NAMESPACE, "patch", "sbworkflow", name, "--subresource=status"]
    cluster.kubectl(*arguments, "--type=merge", "-p", patch)


def environment(cluster: ControlPlane) -> dict[str, str]:
    return {**os.environ, "KUBECONFIG": str(cluster.kubeconfig), "COLUMNS": "200"}


def seedbed(cluster: ControlPlane, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SEEDBED, *arguments],
        env=environment(cluster),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture(scope="module")
def cluster(control_plane: ControlPlane) -> Iterator[ControlPlane]:
    control_plane.kubectl("create", "namespace", NAMESPACE)
    pool = {"apiVersion": "seedbed.dev/v1alpha1", "kind": "Pool", "spec": {}}
    apply(control_plane, {**pool, "metadata": {"name": "general", "namespace": NAMESPACE}})
    apply(control_plane, workflow("audit"))
    set_status(
        control_plane,
        "audit",
        observedGeneration=1,
        phase="Succeeded",
        progress="1/1",
        steps={"total": 1, "succeeded": 1},
        recent=[{"name": "hello", "state": "Succeeded"}],
        conditions=[condition("Ready", "True", "Succeeded", "1 of 1 steps ended")],
        result={"columns": ["package", "kind"], "rows": [["attrs", "permissive"]]},
    )
    yield control_plane
    control_plane.kubectl("delete", "namespace", NAMESPACE, "--wait=false")


def test_get_lists_every_kind(cluster: ControlPlane) -> None:
    done = seedbed(cluster, "get", "-n", NAMESPACE)
    assert done.returncode == 0, done.stderr
    assert "Workflow" in done.stdout
    assert next(
        line.split()[:4] for line in done.stdout.splitlines() if line.startswith("audit")
    ) == ["audit", "Succeeded", "1/1", "True"]
    assert any(line.startswith("general") for line in done.stdout.splitlines())


def test_get_of_all_namespaces_names_them(cluster: ControlPlane) -> None:
    done = seedbed(cluster, "get", "workflows", "-A", "-o", "wide")
    assert done.returncode == 0, done.stderr
    head, *rows = done.stdout.splitlines()
    assert head.split()[:2] == ["NAMESPACE", "NAME"]
    assert "REASON" in head
    assert any(row.split()[:2] == [NAMESPACE, "audit"] for row in rows)


@pytest.mark.parametrize(("form", "parse"), [("json", json.loads), ("yaml", yaml.safe_load)])
def test_get_of_one_object_for_programs(cluster: ControlPlane, form: str, parse: Any) -> None:
    done = seedbed(cluster, "get", "sbworkflow/audit", "-n", NAMESPACE, "-o", form)
    assert done.returncode == 0, done.stderr
    assert parse(done.stdout)["status"]["phase"] == "Succeeded"


def test_describe_shows_conditions_and_events(cluster: ControlPlane) -> None:
    found = json.loads(cluster.kubectl("get", "sbworkflow", "audit", "-n", NAMESPACE, "-o", "json"))
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "audit.1", "namespace": NAMESPACE},
        "involvedObject": {
            "kind": "Workflow",
            "name": "audit",
            "namespace": NAMESPACE,
            "uid": found["metadata"]["uid"],
        },
        "type": "Normal",
        "reason": "RunSucceeded",
        "message": "all is well",
        "lastTimestamp": "2026-11-21T10:00:00Z",
        "count": 3,
    }
    apply(cluster, event)
    done = seedbed(cluster, "describe", "workflow", "audit", "-n", NAMESPACE)
    assert done.returncode == 0, done.stderr
    for part in (
        "builtins:dict",
        "1 of 1 steps ended",
        "Recent steps",
        "RunSucceeded",
        "all is well",
    ):
        assert part in done.stdout


def test_the_result_stands_in_the_status(cluster: ControlPlane) -> None:
    table = seedbed(cluster, "result", "audit", "-n", NAMESPACE)
    assert table.returncode == 0, table.stderr
    assert [line.split() for line in table.stdout.splitlines()] == [
        ["package", "kind"],
        ["attrs", "permissive"],
    ]
    raw = seedbed(cluster, "result", "audit", "-n", NAMESPACE, "-o", "json")
    assert json.loads(raw.stdout)["rows"] == [["attrs", "permissive"]]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["get", "workflow", "nothing"], "'cli/nothing' does not exist"),
        (["get", "gadgets"], "expected one of"),
        (["describe", "pool", "nothing"], "does not exist"),
        (["watch", "nothing"], "does not exist"),
        (["result", "nothing"], "does not exist"),
        (["logs", "nothing"], "does not exist"),
        (["get", "--context", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(cluster: ControlPlane, arguments: list[str], told: str) -> None:
    done = seedbed(cluster, *arguments, "-n", NAMESPACE)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert told in line


def test_a_server_that_does_not_answer_is_one_line(tmp_path: Path, cluster: ControlPlane) -> None:
    content = yaml.safe_load(cluster.kubeconfig.read_text())
    content["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    broken = tmp_path / "kubeconfig"
    broken.write_text(yaml.safe_dump(content))
    done = subprocess.run(
        [*SEEDBED, "get"],
        env={**environment(cluster), "KUBECONFIG": str(broken)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 1
    assert "127.0.0.1:1 does not answer" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(("phase", "code"), [("Succeeded", 0), ("Failed", 1)])
def test_watch_follows_a_run_to_its_end(cluster: ControlPlane, phase: str, code: int) -> None:
    name = f"followed-{phase.lower()}"
    apply(cluster, workflow(name))
    set_status(cluster, name, observedGeneration=1, phase="Running", progress="0/2")
    with subprocess.Popen(
        [*SEEDBED, "watch", name, "-n", NAMESPACE],
        env=environment(cluster),
        stdout=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        first = watching.stdout.readline()
        assert "Running · 0/2" in first
        set_status(cluster, name, progress="1/2")
        set_status(cluster, name, phase=phase, progress="2/2")
        rest = watching.stdout.read()
        assert watching.wait(timeout=30) == code
    assert f"{phase} · 2/2" in rest


def test_watch_ends_when_the_workflow_is_deleted(cluster: ControlPlane) -> None:
    apply(cluster, workflow("doomed"))
    with subprocess.Popen(
        [*SEEDBED, "watch", "doomed", "-n", NAMESPACE],
        env=environment(cluster),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        assert watching.stdout is not None
        assert watching.stderr is not None
        watching.stdout.readline()
        deadline = time.monotonic() + 30
        cluster.kubectl("delete", "sbworkflow", "doomed", "-n", NAMESPACE)
        assert watching.wait(timeout=max(1.0, deadline - time.monotonic())) == 1
        assert "does not exist" in watching.stderr.read()


@pytest.mark.req("DSX-01", "FND-01")
def test_init_makes_the_three_standard_pools_once(cluster: ControlPlane) -> None:
    cluster.kubectl("create", "namespace", "fresh")
    first = seedbed(cluster, "init", "-n", "fresh")
    assert first.returncode == 0, first.stderr
    found = json.loads(cluster.kubectl("-n", "fresh", "get", "sbpool", "-o", "json"))["items"]
    sizes = {
        pool["metadata"]["name"]: pool["spec"]["replicas"] * pool["spec"]["workersPerReplica"]
        for pool in found
    }
    assert sizes == {"general": 8, "optimizer": 2, "neural": 4}
    cluster.kubectl("-n", "fresh", "scale", "sbpool/general", "--replicas=5")
    again = seedbed(cluster, "init", "-n", "fresh")
    assert again.stdout.count("is there already") == 3
    pool = json.loads(cluster.kubectl("-n", "fresh", "get", "sbpool", "general", "-o", "json"))
    assert pool["spec"]["replicas"] == 5
