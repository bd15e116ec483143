"""What the engine told last of each Workflow's run."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable

from seedbed.controllers.plan import Key
from seedbed.controllers.workflow_status import FINISHED
from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import RunSummary
from seedbed.crds.wire import decode
from seedbed.runtime.bus.port import Message

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 0.5
"""Longest age of a run's counters in a status."""
MILESTONE_SECONDS = 0.05
"""Longest age of what a user waits for: a run that is over by then costs one write of its status."""


class RunReports:
    """Keeps the newest summary of each Workflow.

    Args:
        news: called with a Workflow whose run has ended.
        soon: called with one to look at after some seconds.
    """

    def __init__(self, news: Callable[[Key], None], soon: Callable[[Key, float], None]) -> None:
        self._news, self._soon = news, soon
        self._known: dict[Key, RunSummary] = {}

    def of(self, key: Key) -> RunSummary | None:
        """The newest summary of a Workflow."""
        return self._known.get(key)

    def forget(self, key: Key) -> None:
        """The Workflow is gone."""
        self._known.pop(key, None)

    async def follow(self, messages: AsyncIterator[Message]) -> None:
        """Take summaries in until cancelled."""
        async for message in messages:
            try:
                self.take(decode(RunSummary, message.payload))
            except InvalidError as error:
                log.warning("a summary that cannot be read: %s", error)

    def take(self, summary: RunSummary) -> None:
        """The engine has told of a run."""
        if summary.parent:
            return  # the run of a step: who waits for it is another run
        key = Key("Workflow", summary.namespace, summary.workflow)
        known = self._known.get(key)
        if known is not None and known.run == summary.run and _older(summary, known):
            return
        self._known[key] = summary
        if summary.phase in FINISHED:
            self._news(key)
        elif known is not None and _milestone(known) == _milestone(summary):
            # Only counters moved. A status that is a moment old spares a write for each step.
            self._soon(key, PROGRESS_SECONDS)
        else:
            self._soon(key, MILESTONE_SECONDS)


def _older(summary: RunSummary, known: RunSummary) -> bool:
    """Whether a summary tells nothing new.

    Forecasts change while nothing happens in a run, and so does whether its owner can go on with it.
    """
    said = (summary.eta, summary.advice, summary.stuck)
    other = said != (known.eta, known.advice, known.stuck)
    return summary.revision < known.revision or (summary.revision == known.revision and not other)


def _milestone(run: RunSummary) -> tuple[object, ...]:
    """What the user or a Pod waits for, as opposed to progress."""
    return (run.run, run.phase, run.reason, run.containers)
