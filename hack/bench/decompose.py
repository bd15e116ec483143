"""How long it takes to take "Build operating system" apart: by rules, and by a model that answers in 500 ms.

    python hack/bench/decompose.py [--latency 0.5] [--tasks 12000] [--depth 110]

Rules: examples/goals/operating-system.yaml. Model: a service in this process that answers each call after
the latency, with plans from a fixed seed (no tokens are computed: what is measured is the planner, how
many calls it makes and how many of them wait for each other). Both trees are checked: each task but the
goal has one parent, which exists, one level above. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from seedbed.runtime.workflow.planning.goals.model import ModelPlanner
from seedbed.runtime.workflow.planning.goals.planner import Bounds, decompose
from seedbed.runtime.workflow.planning.goals.template import TemplatePlanner, read_template
from seedbed.runtime.workflow.planning.goals.tree import GoalTree, hierarchy, read_tree
from seedbed.runtime.workflow.planning.goals.view import page
from tests.planning_model import PlanningModel, serving

GOAL = "Build operating system"


def checked(tree: GoalTree) -> GoalTree:
    """The tree, after a look at every task."""
    assert tree.tasks[0].parent == -1
    for number, task in enumerate(tree.tasks[1:], start=1):
        assert 0 <= task.parent < number
        assert tree.tasks[task.parent].level == task.level - 1
    assert read_tree(tree.document()).digest == tree.digest
    return tree


async def by_rules(tasks: int, depth: int) -> tuple[GoalTree, float]:
    """The tree of the example, and seconds."""
    planner = TemplatePlanner(read_template(ROOT / "examples" / "goals" / "operating-system.yaml"))
    began = time.perf_counter()
    tree = await decompose(GOAL, [planner], Bounds(max(tasks, 20_000), depth))
    return checked(tree), time.perf_counter() - began


async def by_model(model: PlanningModel, tasks: int, depth: int) -> tuple[GoalTree, float]:
    """A tree of at most so many tasks, and seconds."""
    async with serving(model) as session:
        planner = ModelPlanner(session, "fake", levels=model.levels)
        began = time.perf_counter()
        tree = await decompose(GOAL, [planner], Bounds(tasks, depth, max_calls=10_000))
        return checked(tree), time.perf_counter() - began


def shown(tree: GoalTree, seconds: float) -> dict[str, Any]:
    """What there is to say of a tree."""
    return {
        "tasks": len(tree.tasks),
        "levels": tree.depth,
        "seconds": round(seconds, 2),
        "tasks_per_second": round(len(tree.tasks) / seconds),
    }


async def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--latency", type=float, default=0.5)
    parser.add_argument("--tasks", type=int, default=12_000)
    parser.add_argument("--depth", type=int, default=110)
    asked = parser.parse_args()
    rules, rules_seconds = await by_rules(asked.tasks, asked.depth)
    model = PlanningModel(width=10, levels=5, bushy=0, latency=asked.latency)
    modelled, model_seconds = await by_model(model, asked.tasks, asked.depth)
    began = time.perf_counter()
    nested, html = len(hierarchy(rules)), len(page(rules))
    print(
        json.dumps(
            {
                "benchmark": "decompose",
                "rules": shown(rules, rules_seconds),
                "model": {
                    **shown(modelled, model_seconds),
                    "calls": modelled.calls,
                    "most_at_once": model.most_at_once,
                    "latency_seconds": asked.latency,
                    "one_after_the_other_seconds": modelled.calls * asked.latency,
                    "cut": modelled.cut,
                },
                "hierarchy_bytes": nested,
                "page_bytes": html,
                "both_written_seconds": round(time.perf_counter() - began, 2),
                "machine": f"{os.cpu_count()} CPUs, Python {platform.python_version()}",
                "load": [round(each, 2) for each in os.getloadavg()],
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(main())
