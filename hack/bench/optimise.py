"""How much shorter the optimiser makes a plan of 10,000 steps, and how long it takes for that.

    python hack/bench/optimise.py [--shards 1000] [--parallelism 200] [--seed 7]

The plan is a nightly evaluation as people write them, stage by stage:

- 999 shards go through 8 stages. The first (`fetch`) reads the outside and is not pure; the others are,
  and each reads the output of the stage before for its own shard.
- Between stages stands a barrier step that notes the progress. It needs the whole stage and the barrier
  before; every step of the next stage names it in `needs`, and the barriers before it too. That is how
  stages are kept apart by hand, and no data flows through it.
- Beside it 996 shards are audited: the third stage is computed a second time, equal in everything, and an
  audit step reads it. 8 publishing steps, not pure, follow at the end.
- Times are declared as estimates: log-normal with a median of 6 s and sigma 0.9, as calls of models have.
  200 steps run at a time.

The simulated execution starts ready steps in the order in which they became ready, as the engine does.
The meaning is checked: both plans are run through the engine's pure core, and effects, their inputs, the
result and the order before each effect are compared. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from seedbed.crds.graph_builder import build_graph
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.planning.critical_path import critical_path
from seedbed.runtime.workflow.planning.draft import Draft
from seedbed.runtime.workflow.planning.optimise import optimise
from seedbed.runtime.workflow.planning.plan import Plan
from seedbed.runtime.workflow.planning.rewriting import merge, reduce_needs, widen
from seedbed.runtime.workflow.planning.schedule import Job, simulate
from seedbed.runtime.workflow.planning.timings import works
from tests.meaning import assert_same_meaning

STAGES = ("fetch", "parse", "clean", "embed", "retrieve", "answer", "judge", "score")
AUDITED = 2
"""The stage that is computed twice."""


def benchmark_plan(shards: int, parallelism: int, seed: int) -> WorkflowSpec:
    """The plan that the module describes."""
    chance = random.Random(seed)
    steps: list[dict[str, Any]] = []

    def step(name: str, entry: str, *, pure: bool, needs: list[str], **args: str) -> None:
        took = chance.lognormvariate(1.79, 0.9)
        call = {"entry": f"evaluation.steps:{entry}", "args": args}
        estimate = f"{min(120.0, max(0.1, took)):.2f}s"
        steps.append(
            {"name": name, "call": call, "needs": needs, "pure": pure, "estimate": estimate}
        )

    barriers: list[str] = []
    for at, stage in enumerate(STAGES):
        for shard in range(shards):
            read = f"${{steps['{STAGES[at - 1]}-{shard}'].output}}" if at else f"shard {shard}"
            step(f"{stage}-{shard}", stage, pure=at > 0, needs=barriers[-3:], given=read)
        members = [f"{stage}-{shard}" for shard in range(shards)]
        step(f"barrier-{stage}", "note", pure=False, needs=members, stage=stage)
        steps[-1]["estimate"] = "200ms"
        barriers.append(f"barrier-{stage}")
    for shard in range(shards - 3):
        given = f"${{steps['{STAGES[AUDITED - 1]}-{shard}'].output}}"
        again = f"again-{shard}"
        step(again, STAGES[AUDITED], pure=True, needs=barriers[:AUDITED], given=given)
        step(
            f"audit-{shard}",
            "audit",
            pure=True,
            needs=barriers[AUDITED : AUDITED + 1],
            given=f"${{steps['{again}'].output}}",
        )
    for at in range(8):
        audits = [f"audit-{shard}" for shard in range(at, shards - 3, 8)]
        step(
            f"publish-{at}",
            "publish",
            pure=False,
            needs=[barriers[-1], *audits],
            given=f"${{steps['{STAGES[-1]}-{at}'].output}}",
        )
    result = "steps['publish-0'].state"
    return WorkflowSpec.model_validate(
        {"steps": steps, "parallelism": parallelism, "result": result}
    )


def simulated(spec: WorkflowSpec, parallelism: int | None = None) -> float:
    """Seconds of a plan."""
    graph = build_graph(spec)
    jobs = [Job(work.seconds, work.units) for work in works(graph, {})]
    return simulate(Plan.of(graph), jobs, parallelism or spec.parallelism).seconds


def alone(spec: WorkflowSpec) -> dict[str, float]:
    """The gain of each rewriting by itself."""
    before = simulated(spec)
    found = {}
    for name, rewrite in (("widened", widen), ("merged", merge), ("reduced", reduce_needs)):
        draft = Draft(build_graph(spec), spec)
        rewrite(draft)
        found[name] = round(1 - simulated(draft.written()) / before, 4)
    return found


def main() -> None:
    """Optimise, check, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shards", type=int, default=999)
    parser.add_argument("--parallelism", type=int, default=200)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--unchecked", action="store_true", help="do not compare the meaning")
    asked = parser.parse_args()
    spec = benchmark_plan(asked.shards, asked.parallelism, asked.seed)
    graph = build_graph(spec)
    wall, process = time.perf_counter(), time.process_time()
    found = optimise(spec)
    wall, process = time.perf_counter() - wall, time.process_time() - process
    if not asked.unchecked:
        assert_same_meaning(spec, found.spec, found.merged)
    work = [each.seconds for each in works(graph, {})]
    longest = critical_path(Plan.of(graph), work).seconds
    print(
        json.dumps(
            {
                "benchmark": "optimise",
                "steps": len(spec.steps),
                "needs": Plan.of(graph).edges,
                "steps_after": len(found.spec.steps),
                "needs_after": Plan.of(build_graph(found.spec)).edges,
                "parallelism": asked.parallelism,
                "seconds_before": round(found.before, 1),
                "seconds_after": round(found.after, 1),
                "shorter": round(found.gain, 4),
                "shorter_by_one_rewriting_alone": alone(spec),
                "critical_path_before": round(longest, 1),
                "work_over_parallelism_before": round(sum(work) / asked.parallelism, 1),
                "changes": dict(found.counts),
                "same_meaning": None if asked.unchecked else True,
                "optimise_seconds": round(wall, 2),
                "optimise_cpu_seconds": round(process, 2),
                "seed": asked.seed,
                "machine": f"{os.cpu_count()} CPUs, Python {platform.python_version()}",
                "load": [round(each, 2) for each in os.getloadavg()],
            }
        )
    )


if __name__ == "__main__":
    main()
