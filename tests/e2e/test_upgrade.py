"""`helm upgrade` from an earlier commit while a run is underway: it goes on, each result counts once.

Runs after test_cluster.py, because it takes the release and the kinds away and brings them back.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from hack import demo_cluster
from tests.e2e.node import SYSTEM, Node, eventually
from tests.e2e.test_cluster import succeeded_once, underway

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
TAG = "earlier"


def git(*arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False
    )
    return done.stdout.strip() if done.returncode == 0 else ""


def earlier_commit() -> str:
    """What is upgraded from: a named commit, else the newest release, else the commit before."""
    named = os.environ.get("SEEDBED_UPGRADE_FROM", "")
    newest = git("describe", "--tags", "--abbrev=0", "HEAD~1")
    return git("rev-parse", "--verify", "--quiet", named or newest or "HEAD~1")


@pytest.fixture
def earlier(node: Node, tmp_path: Path) -> Iterator[Path]:
    """A checkout of the earlier commit, whose image is on the node under the tag `earlier`."""
    commit = earlier_commit()
    if not commit:
        pytest.skip("no earlier commit: this checkout has no history")
    checkout = tmp_path / "earlier"
    git("worktree", "add", "--detach", "--force", str(checkout), commit)
    try:
        build = ["-m", "hack.image", "build", "--only", "seedbed", "--tag", TAG]
        subprocess.run(
            [sys.executable, *build, "--load", node.name], cwd=checkout, check=True, timeout=400
        )
        yield checkout
    finally:
        git("worktree", "remove", "--force", str(checkout))


def start_over(node: Node) -> None:
    """Take everything away: the release, the kinds with every object, the servers' volumes."""
    node.helm("uninstall", "seedbed", "-n", SYSTEM, "--wait", "--timeout", "3m")
    kinds = [
        name
        for name in node.kubectl("get", "crds", "-o", "name").split()
        if name.endswith(".seedbed.dev")
    ]
    node.kubectl("delete", *kinds, "--timeout=90s")
    eventually(
        lambda: node.kubectl("get", "pods,pvc", "-n", SYSTEM, "-o", "name") == "",
        "pods and volumes go",
        90,
    )


def install_earlier(node: Node, checkout: Path) -> None:
    chart, values = checkout / "charts" / "seedbed", checkout / "hack" / "cluster"
    node.helm(
        *("install", "seedbed", str(chart), "-n", SYSTEM, "--wait", "--timeout", "4m"),
        *("--values", str(values / demo_cluster.VALUES.name), "--set", f"image.tag={TAG}"),
    )


def test_an_upgrade_from_an_earlier_commit_keeps_a_run_alive(node: Node, earlier: Path) -> None:
    start_over(node)
    install_earlier(node, earlier)
    namespace = f"up-{uuid.uuid4().hex[:6]}"
    node.kubectl("create", "namespace", namespace)
    pool = {
        "apiVersion": "seedbed.dev/v1alpha1",
        "kind": "Pool",
        "metadata": {"name": "general"},
        "spec": {"replicas": 1, "workersPerReplica": 4},
    }
    node.apply(pool, namespace=namespace)
    name = underway(node, namespace, items=120, delay=1.5)
    node.install()
    succeeded_once(node, name, namespace, items=120)
    finished = node.get("workflow", name, namespace)["status"]["finishedAt"]
    replaced = node.pods("engine")[0]["metadata"]["creationTimestamp"]
    assert finished > replaced, "the run must have been underway when the engine was replaced"
    node.kubectl("delete", "namespace", namespace, "--wait=false")
