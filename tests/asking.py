"""What a test asks of engines, over a bus."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from seedbed.crds.addresses import engine_address, partition_of
from seedbed.crds.engine_requests import Submit, Summarise
from seedbed.crds.errors import UnavailableError
from seedbed.crds.messages import RunRequest, RunSummary
from seedbed.crds.wire import decode, encode
from seedbed.runtime.bus.port import Bus


class Asking:
    """Whoever has a bus can ask the owners of runs."""

    bus: Bus

    async def ask(self, run: str, message: Any) -> bytes:
        """Ask the owner of the run's partition, for as long as nobody answers."""
        address = engine_address(partition_of(run))
        while True:
            try:
                return await self.bus.request(address, encode(message), wait=5.0)
            except UnavailableError:
                await asyncio.sleep(0.02)

    async def submit(self, request: RunRequest) -> RunSummary:
        """Have a plan run."""
        return decode(RunSummary, await self.ask(request.run, Submit(request)))

    async def summary(self, run: str) -> RunSummary:
        """How a run stands."""
        return decode(RunSummary, await self.ask(run, Summarise(run)))

    async def until(self, run: str, condition: Callable[[RunSummary], bool]) -> RunSummary:
        """A run's summary once it is as wanted."""
        while not condition(found := await self.summary(run)):
            await asyncio.sleep(0.02)
        return found

    async def ended(self, run: str) -> RunSummary:
        """A run's summary once it has ended."""
        return await self.until(run, lambda found: found.phase in ("Succeeded", "Failed"))
