"""Writing what runs have decided: records of many runs in one commit, under the owner's token."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from seedbed.crds.errors import ConflictError, FencedError, UnavailableError
from seedbed.crds.messages import RunSummary, StepKey
from seedbed.crds.wire import encode
from seedbed.runtime.coordination.port import Ownership
from seedbed.runtime.store.port import Commit, Entry, RunRow, Store
from seedbed.runtime.workflow import metrics
from seedbed.runtime.workflow.record_form import encode_records
from seedbed.runtime.workflow.records import Record
from seedbed.runtime.workflow.snapshot import shortest
from seedbed.runtime.workflow.state import RunState

log = logging.getLogger(__name__)

FIRST_RETRY = 0.05
LONGEST_RETRY = 2.0
SNAPSHOT_AFTER = 4 * 1024 * 1024
"""Bytes of journal behind a snapshot that make the next one worth while, or twice the last one's size."""

T = TypeVar("T")


async def until_answered(call: Callable[[], Awaitable[T]]) -> T:
    """Ask the store again and again while it does not answer; ends with the caller's task."""
    wait = FIRST_RETRY
    while True:
        try:
            return await call()
        except UnavailableError as error:
            log.warning("the store does not answer: %s", error)
            await asyncio.sleep(wait)
            wait = min(LONGEST_RETRY, wait * 2)


@dataclass(slots=True)
class LiveRun:
    """A run in its owner's memory.

    Attributes:
        seq: position of its last journal entry.
        stored: whether the store knows the run.
        records: decided and applied, not journalled yet.
        tail: bytes journalled since the last snapshot.
        snapshot: size of the last snapshot.
        values: what the store must keep for the run from its first commit on, by content hash.
        taken_over: how many of the records come from an earlier run.
        due: Unix time at which it is looked at again, however little happens.
        told: Unix time of the last summary.
        handed: attempt and Unix time of what was put into a work queue and is not decided.
        times: seconds that items of steps with `stragglers` took, sorted, by step.
        doubled: attempts that were started a second time.
    """

    state: RunState
    seq: int = 0
    stored: bool = True
    records: list[Record] = field(default_factory=list)
    tail: int = 0
    snapshot: int = 0
    values: Mapping[str, bytes] = field(default_factory=dict)
    taken_over: int = 0
    due: float | None = None
    told: float = 0.0
    handed: dict[StepKey, tuple[int, float]] = field(default_factory=dict)
    times: dict[str, list[float]] = field(default_factory=dict)
    doubled: dict[StepKey, int] = field(default_factory=dict)

    @property
    def changed(self) -> bool:
        """Whether it has something to write."""
        return bool(self.records) or not self.stored


class Journal:
    """The journals of one partition's runs.

    Every method raises FencedError once the partition belongs to somebody else, or may do so.
    """

    def __init__(self, partition: int, ownership: Ownership, store: Store) -> None:
        self._partition = partition
        self._ownership = ownership
        self._store = store

    async def claim(self) -> list[RunRow]:
        """Take the partition over; returns the runs that go on."""
        number = self._partition
        await until_answered(lambda: self._store.claim(number, self._ownership.token))
        return await until_answered(lambda: self._store.unfinished(number))

    async def append(
        self, runs: Mapping[str, LiveRun], summaries: Mapping[str, RunSummary]
    ) -> Sequence[Entry]:
        """Write the new records of runs in one commit, and the summaries that there are.

        Returns:
            The entries, which are durable now.
        """
        commit = self._commit(runs, summaries)
        if commit.empty:
            return ()
        metrics.GROUP_SIZE.observe(sum([len(run.records) for run in runs.values()]))
        began = time.perf_counter()
        await self._write(commit)
        metrics.COMMIT_SECONDS.observe(time.perf_counter() - began)
        return commit.entries

    async def add(self, run: str, records: Sequence[Record]) -> Entry:
        """Write records of a run that is not in memory, behind its last entry.

        Raises:
            UnavailableError: its journal cannot be read now.
        """
        encoded = encode_records(records)
        entry = Entry(run, await self._store.last(run) + 1, encoded.data)
        uses = [(run, digest) for digest in encoded.values]
        await self._write(Commit(entries=[entry], values=encoded.values, uses=uses))
        return entry

    async def tell(self, summary: RunSummary) -> None:
        """Write what is said of a run, which has nothing else to write."""
        told = {summary.run: (encode(summary), summary.finished is not None)}
        await self._write(Commit(summaries=told))

    def _commit(self, runs: Mapping[str, LiveRun], summaries: Mapping[str, RunSummary]) -> Commit:
        rows: list[RunRow] = []
        entries: list[Entry] = []
        snapshots: list[Entry] = []
        values: dict[str, bytes] = {}
        uses: list[tuple[str, str]] = []
        told: dict[str, tuple[bytes, bool]] = {}
        for name, run in runs.items():
            if name in summaries:
                summary = encode(summaries[name])
                told[name] = (summary, run.state.finished is not None)
            if not run.stored:
                rows.append(self._row(run, summary))
                values.update(run.values)
                uses += [(name, digest) for digest in run.values]
                run.stored, run.values = True, {}
            if run.records:
                encoded = encode_records(run.records)
                if encoded.values:
                    values.update(encoded.values)
                    uses += [(name, digest) for digest in encoded.values]
                run.seq += 1
                run.tail += len(encoded.data)
                entries.append(Entry(name, run.seq, encoded.data))
            if run.tail > max(SNAPSHOT_AFTER, 2 * run.snapshot) and not run.state.finished:
                made, aside = _snapshot(name, run)
                snapshots.append(made)
                values.update(aside)
                uses += [(name, digest) for digest in aside]
        return Commit(rows, entries, told, values, snapshots, uses)

    def _row(self, run: LiveRun, summary: bytes) -> RunRow:
        request = run.state.request
        of = (request.run, self._partition, request.namespace, request.workflow)
        return RunRow(*of, encode(request), summary, finished=False)

    async def _write(self, commit: Commit) -> None:
        """Write until it is written."""
        try:
            await self._write_once(commit)
        except UnavailableError:
            await until_answered(partial(self._write_again, commit))

    async def _write_once(self, commit: Commit) -> None:
        if not self._ownership.held:
            raise FencedError(self._ownership.name, self._ownership.token)
        await self._store.commit(self._partition, self._ownership.token, commit)

    async def _write_again(self, commit: Commit) -> None:
        # Nobody else writes under this token, so an attempt whose answer was lost has written the
        # group.
        with suppress(ConflictError):
            await self._write_once(commit)


def _snapshot(name: str, run: LiveRun) -> tuple[Entry, Mapping[str, bytes]]:
    """A run's snapshot, and the large values that it refers to."""
    encoded = encode_records(shortest(run.state))
    run.tail, run.snapshot = 0, len(encoded.data)
    return Entry(name, run.seq, encoded.data), encoded.values
