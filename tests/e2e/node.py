"""The real node under the end-to-end tests: the cluster, the chart on it, and its processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from hack import demo_cluster
from hack.cluster import binaries, cluster
from hack.cluster.modes import Mode
from hack.cluster.state import State

SYSTEM = demo_cluster.SYSTEM
T = TypeVar("T")


def eventually(look: Callable[[], T], what: str, limit: float = 60.0) -> T:
    """Poll until `look` gives something true; what it says last is in the failure."""
    end = time.monotonic() + limit
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise AssertionError(f"not within {limit:g} s: {what}; last: {found!r}")
        time.sleep(0.2)


class Node:
    """A cluster with Seedbed installed."""

    def __init__(self, name: str, env: dict[str, str], digest: str) -> None:
        self.name = name
        self.env = env
        self._digest = digest

    def install(self) -> None:
        """Install the chart, or upgrade to it."""
        demo_cluster.install(self.env, self._digest)

    def kubectl(self, *arguments: str, stdin: str | None = None, check: bool = True) -> str:
        """Standard output of kubectl."""
        done = subprocess.run(
            ["kubectl", *arguments],
            env=self.env,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if check and done.returncode != 0:
            raise AssertionError(f"kubectl {' '.join(arguments)}: {done.stderr}")
        return done.stdout if done.returncode == 0 else done.stdout + done.stderr

    def seedbed(self, *arguments: str) -> str:
        """Standard output of the command."""
        program = Path(sys.executable).parent / "seedbed"
        done = subprocess.run(
            [str(program), *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def helm(self, *arguments: str) -> str:
        """Standard output of helm."""
        done = subprocess.run(
            ["helm", *arguments],
            env=self.env,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def get(self, kind: str, name: str, namespace: str) -> dict[str, Any]:
        """One object, {} where there is none."""
        text = self.kubectl("get", kind, name, "-n", namespace, "-o", "json", check=False)
        return json.loads(text) if text.startswith("{") else {}

    def apply(self, *objects: dict[str, Any], namespace: str) -> None:
        """Apply objects."""
        items = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", "-n", namespace, "-f", "-", stdin=items)

    def apply_at_last(self, obj: dict[str, Any], namespace: str) -> None:
        """Apply while a webhook's replica may not answer: some calls go to it until it is given up."""

        def applied() -> bool:
            text = json.dumps(obj)
            said = self.kubectl("apply", "-n", namespace, "-f", "-", stdin=text, check=False)
            return "created" in said or "unchanged" in said or "configured" in said

        eventually(applied, "the object is applied")

    def condition(
        self, kind: str, name: str, namespace: str, type_: str = "Ready"
    ) -> dict[str, Any]:
        """One condition of an object, {} where it has none."""
        found = (self.get(kind, name, namespace).get("status") or {}).get("conditions") or []
        return next((each for each in found if each["type"] == type_), {})

    def phase(self, name: str, namespace: str) -> str:
        """A Workflow's phase."""
        return str((self.get("workflow", name, namespace).get("status") or {}).get("phase", ""))

    def pods(self, component: str) -> list[dict[str, Any]]:
        """The pods of a role of the release."""
        selector = f"app.kubernetes.io/component={component}"
        text = self.kubectl("get", "pods", "-n", SYSTEM, "-l", selector, "-o", "json")
        return [
            pod for pod in json.loads(text)["items"] if not pod["metadata"].get("deletionTimestamp")
        ]

    def wait_for_roles(self) -> None:
        """Wait until every pod of the release is ready."""
        eventually(self._all_ready, "every pod of the release is ready", 120)

    def _all_ready(self) -> bool:
        items = json.loads(self.kubectl("get", "pods", "-n", SYSTEM, "-o", "json"))["items"]
        return bool(items) and all(
            status["ready"]
            for pod in items
            for status in pod["status"].get("containerStatuses", [{"ready": False}])
        )

    def process_of(self, pod: dict[str, Any]) -> int:
        """The process of a pod's container on this machine."""
        uid = pod["metadata"]["uid"]
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                inside = uid in (entry / "cgroup").read_text()
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if inside and b"serve" in command:
                return int(entry.name)
        raise AssertionError(f"no process of pod {pod['metadata']['name']}")

    def leader(self) -> dict[str, Any]:
        """The operator's pod that leads."""

        def look() -> dict[str, Any] | None:
            for pod in self.pods("operator"):
                name = pod["metadata"]["name"]
                path = f"/api/v1/namespaces/{SYSTEM}/pods/{name}:8080/proxy/metrics"
                if "seedbed_leading 1.0" in self.kubectl("get", "--raw", path, check=False):
                    return pod
            return None

        found = eventually(look, "an operator leads")
        assert found is not None
        return found


@contextmanager
def stopped(process: int) -> Iterator[None]:
    """A process that stands still while the context is open."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)


@contextmanager
def running_node() -> Iterator[Node]:
    """The cluster `dev` where it is up already, else one of the tests' own, ended with them."""
    own = not State.of("dev").exists
    name = "e2e" if own else "dev"
    try:
        cluster.up(name, Mode.NODE, None)
        binaries.ensure(["kubectl", "helm"])
        digest = demo_cluster.bring_images(name)
        env = demo_cluster.environment(name)
        running = Node(name, env, digest)
        running.install()
        yield running
    finally:
        if own:
            cluster.down(name)
