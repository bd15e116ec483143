"""Makes a large plan: steps that do nothing, each behind some of those before it.

python -m hack.large_plan 10000 5 > plan.json && seedbed plan push plan.json
"""

from __future__ import annotations

import argparse
import random
import sys
from typing import Any

import orjson

ENTRY = "seedbed.runtime.worker.ping:ping"
_REACH = 500
"""A step needs steps among so many before it, so that the plan is deep as well as wide."""


def graph(steps: int, needs: int, entry: str = ENTRY) -> list[dict[str, Any]]:
    """Steps of which each, but the first ones, needs so many earlier ones; always the same."""
    chosen = random.Random(7)  # a plan, no secret
    made = []
    for at in range(steps):
        before = range(max(0, at - _REACH), at)
        needed = sorted(chosen.sample(before, min(len(before), needs)))
        step = {"name": f"s{at}", "call": {"entry": entry}, "needs": [f"s{n}" for n in needed]}
        made.append(step)
    return made


def main() -> None:
    """Write the plan to the standard output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("steps", type=int)
    parser.add_argument("needs", type=int)
    parser.add_argument("--entry", default=ENTRY)
    chosen = parser.parse_args()
    sys.stdout.buffer.write(orjson.dumps(graph(chosen.steps, chosen.needs, chosen.entry)))


if __name__ == "__main__":
    main()
