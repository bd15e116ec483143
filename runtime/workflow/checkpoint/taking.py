"""Taking checkpoints of a partition's runs: now and then, and when asked.

The state is taken in a turn of the partition, when all of it is in the journal; that is references,
not copies. Encoding, compressing, encrypting and writing happen beside the turns. A checkpoint that is
kept is a record of the run's journal, so the run knows its newest one.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from seedbed.crds.base import seconds
from seedbed.crds.checkpoint import CheckpointPolicy
from seedbed.crds.errors import ConflictError, FencedError, NotFoundError, SeedbedError
from seedbed.crds.messages import TakenCheckpoint
from seedbed.crds.wire import encode
from seedbed.runtime.workflow.checkpoint.content import Captured
from seedbed.runtime.workflow.checkpoint.forgetting import Forgetting
from seedbed.runtime.workflow.checkpoint.vault import Owner, Vault
from seedbed.runtime.workflow.records import RunCheckpointed
from seedbed.runtime.workflow.state import RunState

log = logging.getLogger(__name__)

LOOK_EVERY = 1.0
SWEEP_EVERY = 60.0
RETRY_AFTER = 30.0
JITTER = 0.1
"""Share of the interval by which runs differ, so that those begun together do not take theirs at once."""
TRIES = 3


@dataclass(slots=True)
class Capture:
    """Asks a partition for a run's state, all of it journalled; it is in `captured` with the answer."""

    run: str
    captured: Captured | None = None


@dataclass(frozen=True, slots=True)
class Note:
    """Asks a partition to journal that a checkpoint is kept."""

    run: str
    record: RunCheckpointed


class Runs(Protocol):
    """The partition as checkpoints need it."""

    @property
    def live(self) -> Mapping[str, RunState]:
        """The runs under way, to look at."""

    def ask(self, request: Capture | Note) -> Awaitable[bytes]:
        """Have a request done; see `Partition.ask`."""


class Checkpointer:
    """Takes the checkpoints of one partition's runs, under one ownership."""

    def __init__(
        self, runs: Runs, owner: Owner, vault: Vault, forgetting: Forgetting | None = None
    ) -> None:
        self._runs = runs
        self._owner = owner
        self._vault = vault
        self._forgetting = forgetting
        self._due: dict[str, float] = {}
        self._swept = 0.0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Takes them by itself while the context is open."""
        task = asyncio.create_task(self._run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.wait({task})

    async def take(self, run: str) -> bytes:
        """Take one now; returns it as a TakenCheckpoint.

        Raises:
            NotFoundError: the run is not under way here.
            UnavailableError: store or archive do not answer.
        """
        return encode(await self._take(run, "demand"))

    async def _run(self) -> None:
        while True:
            try:
                await self._look(time.time())
            except FencedError as error:
                # The partition finds out by itself at its next write.
                log.info("no more checkpoints of partition %d: %s", self._owner.partition, error)
                return
            except SeedbedError as error:
                log.warning("checkpoints of partition %d wait: %s", self._owner.partition, error)
            await asyncio.sleep(LOOK_EVERY)

    async def _look(self, now: float) -> None:
        live = self._runs.live
        for name in self._due.keys() - live.keys():
            del self._due[name]
        for name, state in list(live.items()):
            if self._is_due(name, state, now):
                await self._try(name, now)
        if now >= self._swept + SWEEP_EVERY:
            self._swept = now
            await self._vault.sweep(self._owner, now)
            if self._forgetting is not None:
                await self._forgetting.sweep(self._owner, now)

    def _is_due(self, name: str, state: RunState, now: float) -> bool:
        if now < self._due.get(name, 0.0):
            return False
        policy, last = state.spec.checkpoint, state.checkpoint
        if not policy.enabled or state.started is None:
            self._due[name] = now + RETRY_AFTER
            return False
        due = (last.at if last else state.started) + _interval(name, policy)
        unchanged = last is not None and state.revision <= last.revision
        if now < due or unchanged:
            self._due[name] = due if now < due else now + 10 * LOOK_EVERY
            return False
        return True

    async def _try(self, name: str, now: float) -> None:
        try:
            await self._take(name, "interval")
        except FencedError:
            raise
        except NotFoundError:
            return  # it has ended meanwhile
        except SeedbedError as error:
            log.warning("no checkpoint of %s now: %s", name, error)
            self._due[name] = now + RETRY_AFTER
        except Exception:
            # A defect that one run's state meets must not stop the others' checkpoints.
            log.exception("no checkpoint of %s: unexpected failure", name)
            self._due[name] = now + RETRY_AFTER

    async def _take(self, run: str, cause: str) -> TakenCheckpoint:
        asked = Capture(run)
        await self._runs.ask(asked)
        captured = asked.captured
        assert captured is not None
        policy = captured.policy
        for left in reversed(range(TRIES)):
            try:
                row = await self._vault.keep(
                    captured,
                    self._owner,
                    cause=cause,
                    retention=seconds(policy.retention),
                    most=policy.keep,
                )
                break
            except ConflictError:
                # An attempt whose answer was lost may have been written: the next number is free.
                if not left:
                    raise
        # The note itself is one revision more: nothing has changed until there is another.
        record = RunCheckpointed(
            row.created_at,
            row.number,
            row.id,
            row.size_bytes,
            row.compression_ratio,
            row.revision + 1,
        )
        await self._runs.ask(Note(run, record))
        return TakenCheckpoint(
            row.number, row.id, row.created_at, row.size_bytes, row.compression_ratio
        )


def _interval(run: str, policy: CheckpointPolicy) -> float:
    share = hashlib.sha256(run.encode()).digest()[0] / 255
    return seconds(policy.interval) * (1 + JITTER * share)
