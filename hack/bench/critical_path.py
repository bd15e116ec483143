"""Critical path, slack, slowest paths, bottlenecks and ETA of a plan of 10,000 steps and 50,000 needs.

    python hack/bench/critical_path.py [--steps 10000] [--needs 50000] [--rounds 9]

The graph is random from a fixed seed: each need leads to one of the 300 steps before, so the longest path
has some hundreds of steps. Times are of one thread, nothing else is read or written. Each figure is the
median of the rounds; `process` counts only CPU time of this process, which a busy machine changes less.
The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from seedbed.runtime.workflow.planning.critical_path import (
    bottlenecks,
    critical_path,
    slowest_paths,
)
from seedbed.runtime.workflow.planning.plan import Plan
from seedbed.runtime.workflow.planning.schedule import Job, simulate

REACH = 300
PARALLELISM = 100


def random_needs(steps: int, needs: int, seed: int = 4) -> list[list[int]]:
    """Needs of each step, all leading to earlier ones."""
    chance = random.Random(seed)
    found: list[dict[int, None]] = [{} for _ in range(steps)]
    made = 0
    while made < needs:
        step = chance.randrange(1, steps)
        need = chance.randrange(max(0, step - REACH), step)
        if need not in found[step]:
            found[step][need] = None
            made += 1
    return [list(of_step) for of_step in found]


class Timer:
    """Takes the time of named parts over several rounds."""

    def __init__(self) -> None:
        self.wall: dict[str, list[float]] = {}
        self.process: dict[str, list[float]] = {}

    def of(self, name: str, part: Callable[[], Any]) -> Any:
        """Do a part and note how long it took."""
        wall, process = time.perf_counter(), time.process_time()
        result = part()
        self.process.setdefault(name, []).append(time.process_time() - process)
        self.wall.setdefault(name, []).append(time.perf_counter() - wall)
        return result

    def best(self, *names: str) -> float:
        """Milliseconds of these parts in the round that was disturbed least."""
        rounds = zip(*(self.wall[name] for name in names), strict=True)
        return round(min(map(sum, rounds)) * 1000, 2)

    def medians(self, times: dict[str, list[float]]) -> dict[str, float]:
        """Median milliseconds of each part."""
        return {name: round(statistics.median(found) * 1000, 2) for name, found in times.items()}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--needs", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=9)
    asked = parser.parse_args()
    names = [f"step-{at}" for at in range(asked.steps)]
    needs = random_needs(asked.steps, asked.needs)
    chance = random.Random(5)
    spans = [chance.uniform(0.1, 10.0) for _ in names]
    jobs = [Job(span) for span in spans]
    timer = Timer()
    for _ in range(asked.rounds):
        plan = timer.of("build_and_sort", lambda: Plan.build(names, needs))
        found = timer.of("critical_path_and_slack", partial(_analysed, plan, spans))
        slowest = timer.of("ten_slowest_paths", partial(slowest_paths, found))
        held = timer.of("ten_bottlenecks", partial(bottlenecks, found))
        schedule = timer.of("eta", partial(simulate, plan, jobs, PARALLELISM))
    wall, process = timer.medians(timer.wall), timer.medians(timer.process)
    print(
        json.dumps(
            {
                "benchmark": "critical_path",
                "steps": asked.steps,
                "needs": plan.edges,
                "critical_path_ms": round(
                    wall["build_and_sort"] + wall["critical_path_and_slack"], 2
                ),
                "critical_path_best_ms": timer.best("build_and_sort", "critical_path_and_slack"),
                "all_ms": round(sum(wall.values()), 2),
                "wall_ms": wall,
                "process_ms": process,
                "path_steps": len(found.path),
                "path_seconds": round(found.seconds, 3),
                "tenth_slowest_seconds": round(slowest[-1].seconds, 3),
                "largest_gain_seconds": round(held[0].gain, 3),
                "eta_seconds_at_100": round(schedule.seconds, 3),
                "rounds": asked.rounds,
                "machine": f"{os.cpu_count()} CPUs, Python {platform.python_version()}",
                "load": [round(each, 2) for each in os.getloadavg()],
            }
        )
    )


def _analysed(plan: Plan, spans: list[float]) -> Any:
    found = critical_path(plan, spans)
    assert found.slack
    return found


if __name__ == "__main__":
    main()
