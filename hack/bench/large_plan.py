"""A plan of 10,000 steps and 50,000 edges on the real cluster, its graph by reference.

    python hack/bench/large_plan.py [--name dev] [--steps 10000] [--edges 5]

The graph is pushed by its content, a Workflow that refers to it is applied, and a watch of its status
tells how it goes. Printed are the sizes of graph, object and status, the time of the run, and how long
the critical path takes to ask for. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from hack.bench import node
from hack.cluster import binaries

NAMESPACE = "bench-large-plan"
NAME = "large"
SEED = 7
WINDOW = 400
"""A step needs some of so many steps before it: about 25 levels for each 10,000 steps."""
STATUS_LIMIT = 16 * 1024
LIMIT = 1800.0
SEEDBED = str(Path(sys.executable).parent / "seedbed")


def plan(steps: int, edges: int) -> list[dict[str, Any]]:
    """Steps that need `edges` of the `WINDOW` steps before them, the first ones fewer."""
    dice = random.Random(SEED)
    made: list[dict[str, Any]] = []
    for number in range(steps):
        before = range(max(0, number - WINDOW), number)
        needs = sorted(dice.sample(before, min(edges, len(before))))
        step: dict[str, Any] = {"name": f"s{number}", "call": {"entry": "builtins:dict"}}
        made.append({**step, "needs": [f"s{need}" for need in needs]} if needs else step)
    return made


def pushed(steps: list[dict[str, Any]], env: dict[str, str]) -> tuple[dict[str, str], int]:
    """The reference of the graph in the installation, and its bytes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "plan.json"
        file.write_text(json.dumps({"steps": steps}, separators=(",", ":")))
        command = [SEEDBED, "plan", "push", str(file), "-n", NAMESPACE]
        done = subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE, text=True)
        return {"url": done.stdout.strip()}, file.stat().st_size


def authorised(env: dict[str, str]) -> dict[str, str]:
    """The environment with a token of an account that may make Workflows in the namespace."""
    kubectl = [str(binaries.path("kubectl")), "-n", NAMESPACE]
    subprocess.run([*kubectl, "create", "serviceaccount", "planner"], env=env, check=True)
    rights = ["--clusterrole=cluster-admin", f"--serviceaccount={NAMESPACE}:planner"]
    subprocess.run([*kubectl, "create", "rolebinding", "planner", *rights], env=env, check=True)
    asked = [*kubectl, "create", "token", "planner", "--duration=1h"]
    done = subprocess.run(asked, env=env, check=True, stdout=subprocess.PIPE, text=True)
    return {**env, "SEEDBED_TOKEN": done.stdout.strip()}


async def played(on: node.Stage, reference: dict[str, str]) -> dict[str, Any]:
    """Apply the Workflow and follow it to its end."""
    spec = {"stepsFrom": {"artifact": reference}, "parallelism": 1000}
    began = time.perf_counter()
    await on.apply("Workflow", NAME, spec)
    largest = 0
    async with asyncio.timeout(LIMIT):
        while True:
            found = await on.get("Workflow", NAME)
            status = found.get("status") or {}
            largest = max(largest, len(json.dumps(status)))
            if status.get("phase") in ("Succeeded", "Failed"):
                break
            await asyncio.sleep(0.5)
    return {
        "phase": status["phase"],
        "progress": status["progress"],
        "seconds": round(time.perf_counter() - began, 1),
        "object_bytes": len(json.dumps(found)),
        "largest_status_bytes": largest,
        "status_below_16_kib": largest < STATUS_LIMIT,
    }


def critical_path(env: dict[str, str]) -> float:
    """Seconds of `seedbed critical-path`, with the command's own start."""
    began = time.perf_counter()
    command = [SEEDBED, "critical-path", NAME, "-n", NAMESPACE]
    subprocess.run(command, env=env, check=True, capture_output=True)
    return round(time.perf_counter() - began, 2)


async def run(env: dict[str, str], steps: int, edges: int) -> dict[str, Any]:
    """The figures."""
    graph = plan(steps, edges)
    count = sum(len(step.get("needs", ())) for step in graph)
    async with node.stage(NAMESPACE, {"replicas": 1, "workersPerReplica": 8}) as on:
        env = await asyncio.to_thread(authorised, env)
        reference, size = await asyncio.to_thread(pushed, graph, env)
        figures = await played(on, reference)
        figures["critical_path_command_s"] = await asyncio.to_thread(critical_path, env)
    rate = round(steps / figures["seconds"])
    return {
        "steps": steps,
        "edges": count,
        "graph_bytes": size,
        "steps_per_second": rate,
        **figures,
    }


def main() -> None:
    """Bring the cluster up where it is not, measure, print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--name", default="dev")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--edges", type=int, default=5)
    options = parser.parse_args()
    env = node.installed(options.name)
    figures = asyncio.run(run(env, options.steps, options.edges))
    print(json.dumps({**figures, "conditions": node.conditions()}))


if __name__ == "__main__":
    main()
