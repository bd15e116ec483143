"""How long the steps of a Workflow took in its last runs, kept for a while for all who ask.

Reading the journals of three runs may cost more than one of them did, so it happens once in `KEPT`
seconds for each Workflow, one after the other, and never reads what was asked of other runs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from seedbed.runtime.store.port import Store
from seedbed.runtime.workflow.planning.timings import Times, observe
from seedbed.runtime.workflow.replay import records_of

RUNS = 3
KEPT = 60.0
MOST = 1000
"""Workflows whose times are kept."""


class EarlierTimes:
    """The times of Workflows' last runs."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str], tuple[float, Sequence[Times]]] = {}
        self._reading = asyncio.Lock()

    async def of(self, namespace: str, workflow: str) -> Sequence[Times]:
        """The times of the last runs that have ended, newest first."""
        key = (namespace, workflow)
        async with self._reading:
            read, times = self._known.get(key, (-KEPT, ()))
            if time.monotonic() >= read + KEPT:
                times = await self._read(namespace, workflow)
                self._known.pop(key, None)
                self._known[key] = (time.monotonic(), times)
                if len(self._known) > MOST:
                    # What was read longest ago stands first.
                    del self._known[next(iter(self._known))]
        return times

    async def _read(self, namespace: str, workflow: str) -> Sequence[Times]:
        found: list[Times] = []
        for run in await self._store.ended(namespace, workflow, RUNS):
            records = [record async for _, record in records_of(self._store, run)]
            found.append(await asyncio.to_thread(observe, records))
        return found
