"""DBOS as a peer: steps of one workflow, fanned out in waves of 500, and one after the other.

As its documentation recommends, and a little better: SQLite gets WAL (it is slower as shipped), and
one gather of 10,000 steps is far slower than waves of 500.
"""

import argparse
import asyncio
import json
import sqlite3
import statistics
import sys
import time
from importlib.metadata import version

from dbos import DBOS

WAVE = 500


@DBOS.step()
async def noop(number: int) -> int:
    return number


@DBOS.workflow()
async def fan(count: int) -> int:
    done = 0
    for start in range(0, count, WAVE):
        wave = range(start, min(count, start + WAVE))
        done += len(await asyncio.gather(*(noop(number) for number in wave)))
    return done


@DBOS.workflow()
async def chain(count: int) -> list[float]:
    taken = []
    for number in range(count):
        began = time.perf_counter()
        await noop(number)
        taken.append(time.perf_counter() - began)
    return taken


async def measure(steps: int, chained: int) -> dict[str, object]:
    await fan(100)
    began, cpu = time.perf_counter(), time.process_time()
    assert await fan(steps) == steps
    seconds, cpu = time.perf_counter() - began, time.process_time() - cpu
    taken = sorted(await chain(chained))
    return {
        "steps": steps,
        "steps_per_second": round(steps / seconds, 1),
        "cpu_ms_per_step": round(cpu / steps * 1000, 3),
        "chain_p50_ms": round(statistics.median(taken) * 1000, 3),
        "chain_p99_ms": round(taken[int(len(taken) * 0.99)] * 1000, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--chain", type=int, required=True)
    parser.add_argument("--folder", required=True)
    parser.add_argument("--database", default="")
    options = parser.parse_args()
    url = options.database
    if not url:
        file = f"{options.folder}/dbos.sqlite"
        with sqlite3.connect(file) as opened:
            opened.execute("PRAGMA journal_mode=WAL")
        url = f"sqlite:///{file}"
    DBOS(config={"name": "peer", "system_database_url": url, "log_level": "ERROR"})
    DBOS.launch()
    figures = asyncio.run(measure(options.steps, options.chain))
    kind = "PostgreSQL" if options.database else "SQLite, WAL, synchronous=FULL"
    settings = f"{kind}; async steps of one workflow, fanned out in waves of {WAVE}"
    print(json.dumps({"version": version("dbos"), "settings": settings, **figures}))
    sys.stdout.flush()
    DBOS.destroy()


if __name__ == "__main__":
    main()
