"""The Store port: runs, their journals, snapshots and values.

Everything a run does is a record in its journal, appended before it is acted on. Writes to a
partition carry the fencing token of its owner; a store that has seen a newer token refuses them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from msgspec import Struct

from seedbed.crds.errors import SeedbedError


class StoreRefusedError(SeedbedError):
    """The database refused what trying again does not change.

    Something is wrong with it (a table, a right, its files), or with what was to be written.
    """

    code = "database_refused"


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as the store lists it.

    Attributes:
        request: the RunRequest as JSON.
        summary: the newest RunSummary as JSON.
        finished: whether the run has ended.
    """

    run: str
    partition: int
    namespace: str
    workflow: str
    request: bytes
    summary: bytes
    finished: bool


class Entry(Struct, frozen=True):
    """One group of journal records of one run.

    Attributes:
        seq: position in the run's journal, from 1, without gaps.
        records: the records, encoded by the engine.
    """

    run: str
    seq: int
    records: bytes


class Commit(Struct, frozen=True):
    """What one group commit writes to one partition, all or nothing.

    Attributes:
        runs: runs to insert; a run that exists already is left as it is.
        entries: journal entries to append. An entry whose `(run, seq)` exists is a conflict.
        summaries: newest summary by run, with whether the run has finished.
        values: large values by content hash; one that exists is left as it is.
        uses: which run needs which of these values, so that they stay as long as it does.
        snapshots: a run's state after `seq`, which makes the journal up to there redundant.
    """

    runs: Sequence[RunRow] = ()
    entries: Sequence[Entry] = ()
    summaries: Mapping[str, tuple[bytes, bool]] | None = None
    values: Mapping[str, bytes] | None = None
    snapshots: Sequence[Entry] = ()
    uses: Sequence[tuple[str, str]] = ()

    @property
    def empty(self) -> bool:
        """Whether there is nothing to write."""
        return not (self.runs or self.entries or self.summaries or self.values or self.snapshots)


class Store(Protocol):
    """Durable state.

    Every method may raise UnavailableError when the database does not answer, and StoreRefusedError
    where trying again does not help.
    """

    async def migrate(self) -> None:
        """Bring the schema to this version; safe to call from several processes at once."""

    async def claim(self, partition: int, token: int) -> None:
        """Take a partition over: from now on smaller tokens are refused.

        Raises:
            FencedError: where a larger token has claimed it.
        """

    async def commit(self, partition: int, token: int, commit: Commit) -> None:
        """Write a group durably; when it returns, it is on disk.

        Raises:
            FencedError: where a larger token has claimed the partition; nothing is written.
            ConflictError: where an entry's position is taken; nothing is written.
        """

    async def unfinished(self, partition: int) -> list[RunRow]:
        """The partition's runs that have not ended, oldest first."""

    async def run(self, run: str) -> RunRow | None:
        """One run, or None."""

    async def named(self, names: Sequence[str]) -> list[RunRow]:
        """Those of many runs that are there, in no particular order."""

    async def runs(self, namespace: str, workflow: str | None = None) -> list[RunRow]:
        """Runs of a namespace, newest first, at most 1,000; those of one Workflow where named."""

    async def ended(self, namespace: str, workflow: str, most: int) -> list[str]:
        """The last runs of a Workflow that have ended, newest first, by their ids alone."""

    async def journal(self, run: str, after: int = 0, *, limit: int = 0) -> list[Entry]:
        """A run's journal entries behind position `after`, in order; the first `limit` where one is set."""

    async def last(self, run: str) -> int:
        """Position of a run's last journal entry; 0 where it has none."""

    async def snapshot(self, run: str) -> Entry | None:
        """A run's newest snapshot, or None."""

    async def value(self, digest: str) -> bytes | None:
        """A large value by content hash, or None."""

    async def superseded(self, partition: int) -> list[RunRow]:
        """Runs of a partition that have ended and have a successor, oldest first, at most 100."""

    async def delete_run(self, run: str) -> None:
        """Forget a run, its journal and the values that no other run needs; no error where it is gone."""

    async def close(self) -> None:
        """Release every connection."""
