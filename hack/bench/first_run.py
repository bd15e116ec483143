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
import statistics
import sys
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hack.bench import node
from hack.cluster import binaries

NAMESPACE = "bench-first-run"
NOOP = {"steps": [{"name": "noop", "call": {"entry": "builtins:dict"}}]}


async def measure(kubectl: str, env: dict[str, str], on: node.Stage, runs: int) -> list[float]:
    """Milliseconds of each run, in order."""
    watching = await asyncio.create_subprocess_exec(
        kubectl, "get", "workflows", "-n", on.namespace, "--watch", "--output-watch-events",
        "-o", "jsonpath={.object.metadata.name} {.object.status.phase}{'\\n'}",
        stdout=asyncio.subprocess.PIPE, env=env,
    )  # fmt: skip
    assert watching.stdout is not None
    taken = []
    try:
        for _ in range(runs):
            name = f"noop-{uuid.uuid4().hex[:8]}"
            began = time.perf_counter()
            await on.apply("Workflow", name, NOOP)
            async with asyncio.timeout(60):
                while (await watching.stdout.readline()).decode().split() != [name, "Succeeded"]:
                    pass
            taken.append((time.perf_counter() - began) * 1000)
    finally:
        watching.terminate()
        await watching.wait()
    return taken


async def run(env: dict[str, str], runs: int) -> list[float]:
    """Warm up, measure."""
    kubectl = str(binaries.path("kubectl"))
    async with node.stage(NAMESPACE, {"replicas": 1, "workersPerReplica": 4}) as on:
        await measure(kubectl, env, on, 5)
        return await measure(kubectl, env, on, runs)


def main() -> None:
    """Bring the cluster up where it is not, measure, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="dev")
    parser.add_argument("--runs", type=int, default=100)
    options = parser.parse_args()
    env = node.installed(options.name)
    taken = asyncio.run(run(env, options.runs))
    cuts = statistics.quantiles(taken, n=100)
    figures = {
        "p50_ms": round(cuts[49], 1),
        "p95_ms": round(cuts[94], 1),
        "max_ms": round(max(taken), 1),
        "runs": options.runs,
        "conditions": node.conditions(),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
