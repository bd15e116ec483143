"""When which run of a partition is looked at although nothing happens, and when it is told of.

A heap holds the next time of each run, so that runs that only wait cost a turn nothing, however many
there are.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping

from seedbed.runtime.workflow.journal import LiveRun
from seedbed.runtime.workflow.records import (
    Record,
    StepExpanded,
    StepFailed,
    StepScheduled,
    StepSkipped,
    StepSucceeded,
)

STARVED_LOOK = 0.1
"""Seconds after which a run that waits for a Pool with full hands asks again."""
TELL_EVERY = 0.2
"""Seconds between two summaries of a run whose steps only come and go."""
_PROGRESS = frozenset((StepSucceeded, StepFailed, StepSkipped, StepExpanded))


class Reminders:
    """The times of a partition's runs."""

    def __init__(self) -> None:
        self._times: list[tuple[float, str]] = []
        self._starved: set[str] = set()
        self._untold: set[str] = set()

    def wait(self, now: float, longest: float) -> float:
        """Seconds until a run is to be looked at."""
        wait = STARVED_LOOK if self._starved else longest
        if self._times:
            wait = min(wait, self._times[0][0] - now)
        return max(0.0, wait)

    def take(self, now: float) -> set[str]:
        """The runs to look at now."""
        names = set(self._starved)
        while self._times and self._times[0][0] <= now:
            names.add(heapq.heappop(self._times)[1])
        return names

    def note(self, name: str, run: LiveRun) -> None:
        """A run has decided: it may have another time now."""
        if run.state.starved:
            self._starved.add(name)
        else:
            self._starved.discard(name)
        due = run.state.due()
        if due is not None and due != run.due:
            heapq.heappush(self._times, (due, name))
        run.due = due

    def to_tell(self, runs: Mapping[str, LiveRun], now: float) -> dict[str, LiveRun]:
        """Those of the runs that are told of now; of the others, a moment later."""
        return {name: run for name, run in runs.items() if self._is_told(name, run, now)}

    def tell(self, name: str) -> None:
        """Have a run told of, though nothing changes."""
        self._untold.add(name)

    def forget(self, name: str) -> None:
        """A run is over; times that are left of it do no harm."""
        self._starved.discard(name)
        self._untold.discard(name)

    def _is_told(self, name: str, run: LiveRun, now: float) -> bool:
        if not run.changed and name not in self._untold:
            return False
        if now < run.told + TELL_EVERY and all(map(_is_progress, run.records)):
            if name not in self._untold:
                self._untold.add(name)
                heapq.heappush(self._times, (run.told + TELL_EVERY, name))
            return False
        self._untold.discard(name)
        run.told = now
        return True


def _is_progress(record: Record) -> bool:
    """Whether a record tells of no more than that steps come and go."""
    if isinstance(record, StepScheduled):
        return record.kind != "container"
    return type(record) in _PROGRESS
