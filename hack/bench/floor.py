"""The floor under a chained durable step on this machine: what no engine on SQLite can go below.

One task writes two records of a step in one commit, as the engine does (WAL, synchronous=FULL, the log
grown once and written over since), and wakes another task, which does nothing and wakes it. There is no
plan, no fencing, no worker, no result. `workflow.py` tells it beside the engine's own figure: disks differ
by more than engines do.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import tempfile
import time
from pathlib import Path

import orjson

GROWN = 1_500
"""Records of 4 kB that grow the log to where SQLite begins it anew."""
INSERT = "INSERT INTO journal VALUES (?, ?, ?)"


async def chain(steps: int) -> list[float]:
    """Seconds that each step takes."""
    with tempfile.TemporaryDirectory() as name:
        journal = _journal(Path(name) / "runs.db")
        try:
            return await _chained(journal, steps)
        finally:
            journal.close()


def _journal(file: Path) -> sqlite3.Connection:
    journal = sqlite3.connect(file, isolation_level=None)
    journal.execute("PRAGMA journal_mode=WAL")
    journal.execute("PRAGMA synchronous=FULL")
    journal.execute(
        "CREATE TABLE journal(run TEXT, seq INTEGER, records BLOB, PRIMARY KEY (run, seq))"
    )
    with journal:
        journal.execute("BEGIN")
        journal.executemany(INSERT, (("grow", each, os.urandom(4096)) for each in range(GROWN)))
    journal.execute("PRAGMA wal_checkpoint(RESTART)")
    return journal


async def _chained(journal: sqlite3.Connection, steps: int) -> list[float]:
    asked: asyncio.Queue[int] = asyncio.Queue()
    done: asyncio.Queue[int] = asyncio.Queue()

    async def work() -> None:
        while True:
            done.put_nowait(await asked.get())

    worker, taken = asyncio.create_task(work()), []
    for step in range(steps):
        began = time.perf_counter()
        records = orjson.dumps([["ok", f"s{step}", began], ["go", f"s{step + 1}", began]])
        journal.execute(INSERT, ("run", step, records))
        asked.put_nowait(step)
        await done.get()
        taken.append(time.perf_counter() - began)
    worker.cancel()
    await asyncio.wait({worker}, timeout=1)
    return taken
