"""Items of steps under way, read for those that follow them.

For each step that is handed out and followed by another there is a reader, which asks the step's worker
for the items behind those that the run knows and has the partition take them in. All items of a step
together have at most the size of one value, so the reader never holds the worker back: it might wait for
the very place that the items need. What is lost here is asked for again; what never came is part of the
step's output.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from seedbed.crds.errors import SeedbedError, UnavailableError
from seedbed.crds.messages import StepKey
from seedbed.runtime.bus.item_stream import Ask, items_after
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.workflow.journal import LiveRun
from seedbed.runtime.workflow.records import Record, StepScheduled
from seedbed.runtime.workflow.state import RunState

log = logging.getLogger(__name__)

AGAIN = 0.2
"""Seconds after which a worker is asked again that does not answer."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """Items of a step's attempt, from number `first` on, for one that follows it."""

    run: str
    step: str
    attempt: int
    first: int
    items: list[Any]


class Streams:
    """The readers of one partition.

    Args:
        ask: has the own partition take items in.
    """

    def __init__(self, bus: Bus, ask: Callable[[Arrived], Awaitable[bytes]]) -> None:
        self._bus = bus
        self._ask = ask
        self._readers: dict[tuple[str, str, int], asyncio.Task[None]] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        readers = list(self._readers.values())
        for reader in readers:
            reader.cancel()
        await asyncio.gather(*readers, return_exceptions=True)

    def follow(self, run: LiveRun, records: Iterable[Record]) -> None:
        """Read the steps that these records, now durable, have scheduled."""
        followed = run.state.graph.followed
        for record in records:
            if isinstance(record, StepScheduled) and record.key.step in followed:
                self._read(run.state, record.key, record.attempt)

    def look(self, run: LiveRun) -> None:
        """Read every scheduled step that is followed and that nobody reads."""
        for name in run.state.graph.followed:
            unit = run.state.scheduled.get(StepKey(name))
            if unit is not None:
                self._read(run.state, unit.key, unit.attempt)

    def _read(self, state: RunState, key: StepKey, attempt: int) -> None:
        for name in state.graph.followed[key.step]:
            reader = (state.request.run, name, attempt)
            if reader not in self._readers:
                reading = asyncio.create_task(self._reading(state, name, key, attempt))
                self._readers[reader] = reading
                reading.add_done_callback(partial(self._forget, reader))

    def _forget(self, reader: tuple[str, str, int], _: asyncio.Task[None]) -> None:
        self._readers.pop(reader, None)

    async def _reading(self, state: RunState, name: str, key: StepKey, attempt: int) -> None:
        step, source = state.steps[name], f"{state.request.run}/{key}"
        while state.awaits(key, attempt):
            if step.waits_for > 1:
                await asyncio.sleep(AGAIN)  # it needs more than the items
                continue
            ask = Ask(f"engine/{name}", attempt, len(step.items or ()))
            try:
                found = await items_after(self._bus, source, ask)
                if found.life == attempt and found.items:
                    arrived = Arrived(state.request.run, name, attempt, found.first, found.items)
                    await self._ask(arrived)
                    if len(step.items or ()) > ask.after:
                        continue
            except UnavailableError:
                log.debug("%s yields nothing now", source)
            except SeedbedError as error:
                log.info("items of %s cannot be read and come when it ends: %s", source, error)
                return
            await asyncio.sleep(AGAIN)
