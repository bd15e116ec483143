"""Runs that cannot be resumed: what is said of them, when they are tried again, how they are ended.

A journal that cannot be read, a plan or a value that is gone, records of a version that this code does
not know: one such run must not keep the others of its partition from going on, and nobody may have to
read a log to learn of it. Its summary says so, in the store and to the operator; it is tried again until
it goes on; and it can be cancelled. What its steps give meanwhile is added to its journal, and counts once
the run goes on.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field, replace

from seedbed.crds.addresses import summaries_topic
from seedbed.crds.errors import InvalidError, SeedbedError, UnavailableError
from seedbed.crds.messages import RunSummary, StepKey, StepResult
from seedbed.crds.wire import decode, encode
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.store.port import RunRow
from seedbed.runtime.workflow import metrics
from seedbed.runtime.workflow.journal import Journal
from seedbed.runtime.workflow.records import StepReported
from seedbed.runtime.workflow.telling import tell_end, tell_entries, tell_stuck

log = logging.getLogger(__name__)

CANNOT_RESUME = "CannotResume"
FIRST_RETRY = 5.0
LONGEST_RETRY = 300.0
"""Seconds after which such a run is tried again, twice as many each time, at most so many."""
_WHY = 300
_WHAT_TO_DO = (
    "It is tried again by itself: bring back what is missing, or the version of Seedbed that wrote it. "
    "Or fork it from its last checkpoint, or delete the Workflow, which ends it"
)


@dataclass(slots=True)
class _Left:
    """A run that is left.

    Attributes:
        busy: held by who reads its journal to go on with it, or writes there.
        reported: attempts whose results are kept.
    """

    summary: RunSummary
    wait: float
    again: float
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    reported: set[tuple[StepKey, int]] = field(default_factory=set)


class Stuck:
    """The runs of one partition that their owner cannot go on with."""

    def __init__(self, number: int, journal: Journal, bus: Bus) -> None:
        self._number = number
        self._journal = journal
        self._bus = bus
        self._left: dict[str, _Left] = {}
        self._count = metrics.STUCK.labels(str(number))

    def __contains__(self, run: object) -> bool:
        return run in self._left

    def __iter__(self) -> Iterator[str]:
        return iter(self._left)

    def summary(self, run: str) -> RunSummary:
        """What is said of a run that is here."""
        return self._left[run].summary

    async def leave(self, row: RunRow, error: Exception) -> None:
        """A run could not be resumed: say so where that is new, and try again later.

        Raises:
            FencedError: a newer owner exists.
        """
        known = self._left.get(row.run)
        wait = min(LONGEST_RETRY, known.wait * 2) if known else FIRST_RETRY
        summary, again = _stuck(row, error), time.time() + wait
        if known is None:
            self._left[row.run] = _Left(summary, wait, again)
            log.error("run %s cannot be resumed, others go on", row.run, exc_info=error)
        new = known is None or known.summary.message != summary.message
        if known is not None:
            known.summary, known.wait, known.again = summary, wait, again
        self._count.set(len(self._left))
        if new:
            await self._tell(summary)
            tell_stuck(self._bus.events, summary)

    def due(self, now: float) -> Iterable[str]:
        """The runs to try again."""
        return [name for name, left in self._left.items() if left.again <= now]

    @asynccontextmanager
    async def trying(self, run: str) -> AsyncIterator[None]:
        """Whoever is in here alone reads the run's journal, and nothing is written there."""
        left = self._left.get(run)
        async with left.busy if left else nullcontext():
            yield

    def is_tried(self, run: str) -> bool:
        """Whether it may go on in a moment: whoever asks something of it asks again."""
        return self._left[run].busy.locked()

    async def keep(self, run: str, results: Sequence[StepResult]) -> None:
        """Write down what steps of a run gave that is here and not being tried.

        Raises:
            SeedbedError: it was not written.
        """
        left = self._left[run]
        new = [each for each in results if (each.key, each.attempt) not in left.reported]
        if not new:
            return
        async with left.busy:
            entry = await self._journal.add(run, [_reported(each) for each in new])
        left.reported.update((each.key, each.attempt) for each in new)
        tell_entries(self._bus.events, [entry])

    def forget(self, run: str) -> None:
        """It goes on, or is gone."""
        self._left.pop(run, None)
        self._count.set(len(self._left))

    async def end(self, run: str, reason: str) -> RunSummary:
        """End a run that nobody can go on with; its journal stays as it is.

        Raises:
            FencedError: a newer owner exists.
        """
        left = self._left[run]
        summary = replace(
            left.summary,
            revision=left.summary.revision + 1,
            phase="Failed",
            reason="Cancelled",
            message=reason,
            finished=time.time(),
            stuck=False,
        )
        async with left.busy:
            await self._tell(summary)
        tell_end(self._bus.events, summary)
        self.forget(run)
        return summary

    def close(self) -> None:
        """The partition moves: they are another's."""
        self._left.clear()
        self._count.set(0)

    async def _tell(self, summary: RunSummary) -> None:
        await self._journal.tell(summary)
        with suppress(UnavailableError):
            await self._bus.publish(summaries_topic(self._number), encode(summary))


def _reported(result: StepResult) -> StepReported:
    times = (time.time(), result.worker, result.started, result.finished)
    return StepReported(result.key, result.attempt, *times, result.output, result.error)


def was_stuck(row: RunRow) -> bool:
    """Whether what was last said of a run is that it cannot be resumed."""
    with suppress(InvalidError):
        return decode(RunSummary, row.summary).stuck
    return False


def _stuck(row: RunRow, error: Exception) -> RunSummary:
    """What is said of a run that cannot be resumed: what was said of it last, and why it does not go on."""
    try:
        before = decode(RunSummary, row.summary)
    except InvalidError:
        before = RunSummary(row.run, row.namespace, row.workflow, 0, "Running", "")
    why = error.message if isinstance(error, SeedbedError) else f"{type(error).__name__}: {error}"
    return replace(
        before,
        reason=CANNOT_RESUME,
        message=f"the run cannot be resumed: {why[:_WHY].rstrip('.')}. {_WHAT_TO_DO}",
        eta=None,
        stuck=True,
    )
