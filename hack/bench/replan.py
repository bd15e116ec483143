"""Re-planning: 1,000 steps of which 10 % fail for good, and what becomes of the runs.

    python hack/bench/replan.py [--runs 20]

One process: engine, workers, the journal on SQLite. A plan has 20 layers of 50 steps, each step needs two
of the layer before. Of the first bodies 10 % fail, drawn by the seed and the step's name, at every retry:
each is tried twice before the plan changes. Half of the errors are lost connections. There are two other
ways to do a step; 5 % of the steps that fail can be done in no way, and of the rest each way fails for
another 10 %. Three settings:

degraded   `onError: continue`: a step that no way can do leaves null, the run goes on
strict     `onError: fail`: one such step fails the run
hopeless   every way of every step fails; only the loop guard ends the changes

Times are from the journal: from the worker's end of the attempt that failed to the decision that schedules
the next way, and to its begin on a worker. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from hack.bench.loads import NAMESPACE, percentiles
from hack.bench.workflow import Place, embedded
from seedbed.cli.loops import fast_loop
from seedbed.crds.messages import RunRequest
from seedbed.crds.run_ids import run_id
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.records import (
    Record,
    RunFinished,
    StepFailed,
    StepReplanned,
    StepScheduled,
    StepSucceeded,
)
from seedbed.runtime.workflow.replay import records_of

LAYERS, WIDTH = 20, 50
SHARE, LOST, AGAIN = 0.10, 0.05, 0.10
MAX_PER_STEP, MAX_TOTAL = 2, 300


def plan(seed: str, action: str, draws: tuple[float, float, float]) -> RunRequest:
    """A plan whose failures the seed decides."""
    share, lost, again = draws
    steps: list[dict[str, Any]] = []
    for layer in range(LAYERS):
        for place in range(WIDTH):
            name = f"s{layer}-{place}"
            needs = [f"s{layer - 1}-{(place + n) % WIDTH}" for n in range(2)] if layer else []
            args = {"seed": seed, "name": name, "share": share, "lost": lost, "again": again}
            ways = [{"entry": f"hack.bench.steps:{way}"} for way in ("second", "third")]
            call = {"entry": "hack.bench.steps:first", "args": args}
            steps.append({"name": name, "needs": needs, "call": call, "alternatives": ways})
    spec = WorkflowSpec.model_validate(
        {
            "steps": steps,
            "onError": {"action": action},
            "retry": {"attempts": 2, "backoff": "10ms"},
            "replan": {"maxPerStep": MAX_PER_STEP, "maxTotal": MAX_TOTAL},
            "parallelism": 200,
            "result": "true",
        }
    )
    told = spec.model_dump(mode="json", by_alias=True, exclude_none=True)
    return RunRequest(run_id(f"replan-{seed}-{action}", spec), NAMESPACE, "bench", told)


@dataclass(slots=True)
class Found:
    """What the journals of some runs tell."""

    runs: int = 0
    failed: int = 0
    guarded: int = 0
    retries: int = 0
    replans: int = 0
    needed: int = 0
    helped: int = 0
    degraded: int = 0
    scheduled: list[float] = field(default_factory=list)
    started: list[float] = field(default_factory=list)

    def take(self, records: Sequence[Record]) -> None:
        """Count one run."""
        changed: Counter[str] = Counter()
        given_up: set[str] = set()
        done: set[str] = set()
        waiting: dict[str, float] = {}
        begun: dict[str, float] = {}
        self.runs += 1
        for record in records:
            match record:
                case StepReplanned(key):
                    changed[str(key)] += 1
                case StepFailed(key, finished=finished, started=started, then=then):
                    if str(key) in begun:
                        self.started.append((started - begun.pop(str(key))) * 1000)
                    if then == "replan":
                        waiting[str(key)] = finished
                    elif then == "retry":
                        self.retries += 1
                    else:
                        given_up.add(str(key))
                case StepScheduled(key, at=at) if str(key) in waiting:
                    begun[str(key)] = waiting.pop(str(key))
                    self.scheduled.append((at - begun[str(key)]) * 1000)
                case StepSucceeded(key, started=started):
                    done.add(str(key))
                    if str(key) in begun:
                        self.started.append((started - begun.pop(str(key))) * 1000)
                case RunFinished(phase=phase):
                    self.failed += phase == "Failed"
        self.replans += changed.total()
        # A step that a failed run left in the middle of its ways found none that helped.
        self.needed += len(changed.keys() | given_up)
        self.helped += len(changed.keys() & done)
        self.degraded += bool(given_up)
        within = max(changed.values(), default=0) <= MAX_PER_STEP and changed.total() <= MAX_TOTAL
        self.guarded += within and any(isinstance(record, RunFinished) for record in records)

    def told(self) -> dict[str, Any]:
        """The figures."""
        figures: dict[str, Any] = {
            "runs": self.runs,
            "retries_before": self.retries,
            "replans": self.replans,
            "steps_that_needed_a_way": self.needed,
            "alternatives_found_share": round(self.helped / self.needed, 4),
            "ended_within_guard": self.guarded == self.runs,
            "workflow_failure_share": round(self.failed / self.runs, 4),
            "runs_with_a_step_given_up_share": round(self.degraded / self.runs, 4),
        }
        for name, taken in (("to_schedule", self.scheduled), ("to_start", self.started)):
            p50, p99 = percentiles(taken)
            figures[f"failure_{name}_ms"] = {
                "p50": p50,
                "p99": min(p99, round(max(taken), 3)),
                "max": round(max(taken), 3),
            }
        return figures


async def measured(place: Place, requests: Sequence[RunRequest]) -> dict[str, Any]:
    """Figures of some runs, one after the other."""
    found = Found()
    for request in requests:
        await place.client.play(request, may_fail=True)
        found.take([record async for _, record in records_of(place.store, request.run)])
    return found.told()


async def figures(runs: int) -> dict[str, Any]:
    """All settings."""
    seeds, draws = [f"seed-{n}" for n in range(runs)], (SHARE, LOST, AGAIN)
    with tempfile.TemporaryDirectory() as folder:
        async with embedded(Path(folder)) as place:
            return {
                "degraded": await measured(place, [plan(s, "continue", draws) for s in seeds]),
                "strict": await measured(place, [plan(s, "fail", draws) for s in seeds]),
                "hopeless": await measured(place, [plan(seeds[0], "continue", (1.0, 1.0, 1.0))]),
            }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    load = os.getloadavg()[0]
    with asyncio.Runner(loop_factory=fast_loop()) as runner:
        found = runner.run(figures(options.runs))
    found["conditions"] = {
        "machine": f"{os.cpu_count()} cores, {platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "load_before_and_after": [round(load, 2), round(os.getloadavg()[0], 2)],
        "plan": f"{LAYERS * WIDTH} steps in {LAYERS} layers, two needs each, two other ways each",
        "draws": {"first_fails": SHARE, "no_way_helps": LOST, "way_fails": AGAIN},
        "retries": "2 attempts of each way before the plan changes; every drawn failure is permanent",
        "guard": {"maxPerStep": MAX_PER_STEP, "maxTotal": MAX_TOTAL},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
