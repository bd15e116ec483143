"""How long a user waits: from applying a one-step no-op Workflow to its `Succeeded`, on a warm Pool.

    python hack/bench/first_run.py [--name dev] [--runs 100]

On a real node with the chart installed (it is brought up where it is not). One Workflow after the other
is sent to the API server by server-side apply, as `kubectl apply --server-side` does, and a watch that is
open before tells when its status says Succeeded. What kubectl itself costs to start is not in the figure.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import time
import uuid
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hack import demo_cluster
from hack.cluster import binaries, cluster
from hack.cluster.modes import Mode
from seedbed.operator.kubernetes import KubernetesCluster, connected, path_of

NAMESPACE = "bench-first-run"
APPLY = {"Content-Type": "application/apply-patch+yaml"}


def workflow(name: str) -> dict[str, Any]:
    """A Workflow of one step that does nothing."""
    return {
        "apiVersion": "seedbed.dev/v1alpha1",
        "kind": "Workflow",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"steps": [{"name": "noop", "call": {"entry": "builtins:dict"}}]},
    }


async def apply(api: KubernetesCluster, path: str, obj: dict[str, Any]) -> None:
    """Server-side apply as a user of its own."""
    await api.request("PATCH", f"{path}?fieldManager=bench&force=true", obj, APPLY)


async def prepare(api: KubernetesCluster) -> None:
    """A namespace with a Pool whose workers are ready."""
    space = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}
    await apply(api, f"/api/v1/namespaces/{NAMESPACE}", space)
    pool = {
        "apiVersion": "seedbed.dev/v1alpha1",
        "kind": "Pool",
        "metadata": {"name": "general", "namespace": NAMESPACE},
        "spec": {"replicas": 1, "workersPerReplica": 4},
    }
    path = path_of("Pool", NAMESPACE, "general")
    await apply(api, path, pool)
    async with asyncio.timeout(120):
        while True:
            found = await api.request("GET", path)
            conditions = (found.get("status") or {}).get("conditions") or ()
            if any(c["type"] == "Ready" and c["status"] == "True" for c in conditions):
                return
            await asyncio.sleep(0.5)


async def measure(
    kubectl: str, env: dict[str, str], api: KubernetesCluster, runs: int
) -> list[float]:
    """Milliseconds of each run, in order."""
    watching = await asyncio.create_subprocess_exec(
        kubectl, "get", "workflows", "-n", NAMESPACE, "--watch", "--output-watch-events",
        "-o", "jsonpath={.object.metadata.name} {.object.status.phase}{'\\n'}",
        stdout=asyncio.subprocess.PIPE, env=env,
    )  # fmt: skip
    assert watching.stdout is not None
    taken = []
    try:
        for _ in range(runs):
            name = f"noop-{uuid.uuid4().hex[:8]}"
            began = time.perf_counter()
            await apply(api, path_of("Workflow", NAMESPACE, name), workflow(name))
            async with asyncio.timeout(60):
                while (await watching.stdout.readline()).decode().split() != [name, "Succeeded"]:
                    pass
            taken.append((time.perf_counter() - began) * 1000)
    finally:
        watching.terminate()
        await watching.wait()
    return taken


async def run(env: dict[str, str], runs: int) -> list[float]:
    """Prepare, warm up, measure, clean up."""
    kubectl = str(binaries.path("kubectl"))
    async with connected() as api:
        await prepare(api)
        await measure(kubectl, env, api, 5)
        taken = await measure(kubectl, env, api, runs)
        await api.request("DELETE", f"/api/v1/namespaces/{NAMESPACE}")
    return taken


def main() -> None:
    """Bring the cluster up where it is not, measure, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="dev")
    parser.add_argument("--runs", type=int, default=100)
    options = parser.parse_args()
    cluster.up(options.name, Mode.NODE, None)
    binaries.ensure(["kubectl", "helm"])
    digest = demo_cluster.bring_images(options.name)
    env = demo_cluster.environment(options.name)
    demo_cluster.install(env, digest)
    os.environ.update(env)
    taken = asyncio.run(run(env, options.runs))
    cuts = statistics.quantiles(taken, n=100)
    figures = {
        "p50_ms": round(cuts[49], 1),
        "p95_ms": round(cuts[94], 1),
        "max_ms": round(max(taken), 1),
        "runs": options.runs,
        "conditions": {
            "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}",
            "python": platform.python_version(),
            "cluster": "one real node: kubelet, containerd; etcd, NATS, PostgreSQL, 2 operators, 1 engine",
            "load": [round(each, 2) for each in os.getloadavg()],
        },
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
