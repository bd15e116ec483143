"""One batch under way, and what those who work on it share."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import orjson

from seedbed.crds.errors import RetryableError
from seedbed.runtime.llm.batch.offline.counting import OfflineMetrics
from seedbed.runtime.llm.batch.offline.lines import CANCELLED, EXPIRED
from seedbed.runtime.llm.batch.offline.money import Budgets
from seedbed.runtime.llm.batch.offline.settings import Offline
from seedbed.runtime.llm.cache.stage import CacheStage
from seedbed.runtime.llm.call import Identity
from seedbed.runtime.llm.endpoints import ENDPOINTS, Endpoint
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.notices import Kind, Notice
from seedbed.runtime.store.batch_files import SqlBatchFiles
from seedbed.runtime.store.batch_work import LineResult, SqlBatchWork, TurnOf
from seedbed.runtime.store.batches import BatchRow, SqlBatches
from seedbed.runtime.store.port import StoreRefusedError

log = logging.getLogger(__name__)
T = TypeVar("T")

LOOK = 1.0
"""Seconds between two looks at the store."""
MOST_REFUSALS = 30
"""Of a database that refuses all, before it is the batch's own fault."""
Wall = Callable[[], float]


@dataclass(frozen=True, slots=True)
class Bench:
    """What all batches are worked through with.

    Attributes:
        gateway: asks models, knows budgets.
        cache: answers that are kept; None where there is no cache.
        work: writes under the token of the one who works.
        wall: gives Unix time.
        large: steps that hold many lines in memory; so many batches take one at a time.
    """

    gateway: Gateway
    cache: CacheStage | None
    files: SqlBatchFiles
    batches: SqlBatches
    work: SqlBatchWork
    metrics: OfflineMetrics
    wall: Wall = time.time
    large: asyncio.Semaphore = field(default_factory=partial(asyncio.Semaphore, 2))

    @property
    def settings(self) -> Offline:
        """The section of the models file."""
        return self.gateway.models.offline

    @property
    def look(self) -> float:
        """Seconds between two looks at the store."""
        return min(LOOK, self.settings.poll_seconds)


@dataclass(slots=True)
class Job:
    """One batch.

    Attributes:
        row: as it was when its work began.
        over: set once no more of it is to be asked; `why` is then the status of lines that were not.
        halted: why it stands still.
        sent: parts of it that are with providers.
    """

    bench: Bench
    row: BatchRow
    over: asyncio.Event = field(default_factory=asyncio.Event)
    why: int = 0
    halted: str = ""
    sent: int = 0
    notes: dict[str, str] = field(default_factory=dict)
    _reasons: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.halted = self.row.reason
        self.notes = orjson.loads(self.row.notes)

    @property
    def id(self) -> str:
        """The batch's."""
        return self.row.id

    @property
    def endpoint(self) -> Endpoint:
        """What its lines ask."""
        return ENDPOINTS[self.row.endpoint]

    @property
    def identity(self) -> Identity:
        """On whose behalf it is done."""
        row = self.row
        return Identity(row.namespace, row.agent, row.workflow, row.run, row.user)

    @property
    def budgets(self) -> Budgets:
        """The budgets that pay for it, as they are now."""
        return self.bench.gateway.budgets(self.identity)

    async def watch(self) -> None:
        """Notice that it is cancelled, or that its time is over."""
        while not self.over.is_set():
            found = await self.patiently(partial(self.bench.batches.batch, self.id))
            if found is None or found.status == "cancelling":
                self.stop(CANCELLED)
            elif self.bench.wall() >= found.expires_at:
                self.stop(EXPIRED)
            else:
                await self.pause(self.bench.look)

    async def patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask the store for something, however long it takes to answer: work under way goes on.

        Raises:
            StoreRefusedError: it was refused again and again.
        """
        refused = 0
        while True:
            try:
                return await ask()
            except RetryableError as error:
                log.warning("the batches of the store cannot be read: %s", error)
            except StoreRefusedError as error:
                # It may be the database as a whole: calls under way are paid for, and wait for it.
                log.warning("the database refuses to read the batches of the store: %s", error)
                self.bench.metrics.fault("database")
                refused += 1
                if refused > MOST_REFUSALS:
                    raise
            await asyncio.sleep(self.bench.look)

    def stop(self, why: int) -> None:
        """No more is asked."""
        self.why = self.why or why
        self.over.set()

    async def pause(self, seconds: float) -> None:
        """Wait, but no longer than it goes on."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.over.wait()

    async def halt(self, what: str, reason: str) -> None:
        """A part of its work stands still, for a reason, or goes on where that is empty; told once."""
        self._reasons[what] = reason
        told = "; ".join(sorted({each for each in self._reasons.values() if each}))
        if (before := self.halted) == told:
            return
        self.halted = told
        try:
            await self.bench.work.change(self.id, ("in_progress",), reason=told)
        except RetryableError:
            self.halted = before
            raise
        if bool(before) != bool(told):
            kind: Kind = "batch.halted" if told else "batch.resumed"
            facts: dict[str, str | float] = {"namespace": self.row.namespace, "reason": told}
            self.bench.gateway.notices(Notice(kind, self.id, facts))

    async def note(self, model: str, reason: str) -> None:
        """Say why a model's lines are worked through at full price."""
        if self.notes.get(model) != reason:
            self.notes[model] = reason
            text = orjson.dumps(self.notes).decode()
            await self.bench.work.change(self.id, ("validating", "in_progress"), notes=text)

    async def answered(
        self, results: Sequence[LineResult], turn_of: TurnOf = lambda _: None
    ) -> None:
        """Write results, and count what was new."""
        written = await self.bench.work.answered(self.id, results, turn_of)
        self.bench.metrics.answered(written)
