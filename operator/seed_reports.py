"""What the pods of SeedLayers told last, by SeedLayer and pod."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable

from seedbed.controllers.plan import Key
from seedbed.crds.errors import InvalidError
from seedbed.crds.seed_messages import SeedReport
from seedbed.crds.wire import decode
from seedbed.runtime.bus.port import Message

log = logging.getLogger(__name__)


class SeedReports:
    """Keeps the newest report of each pod.

    Args:
        news: called with a SeedLayer whose pods have moved.
        counters: called where only figures have.
    """

    def __init__(self, news: Callable[[Key], None], counters: Callable[[Key], None]) -> None:
        self._news = news
        self._counters = counters
        self._known: dict[Key, dict[str, SeedReport]] = {}

    def of(self, key: Key) -> tuple[SeedReport, ...]:
        """The newest report of each of its pods, by pod."""
        return tuple(report for _, report in sorted(self._known.get(key, {}).items()))

    def forget(self, key: Key) -> None:
        """The SeedLayer is gone."""
        self._known.pop(key, None)

    async def follow(self, messages: AsyncIterator[Message]) -> None:
        """Take reports in until cancelled."""
        async for message in messages:
            try:
                self.take(decode(SeedReport, message.payload))
            except InvalidError as error:
                log.warning("a report of a SeedLayer that cannot be read: %s", error)

    def take(self, report: SeedReport) -> None:
        """A pod has told."""
        key = Key("SeedLayer", report.namespace, report.layer)
        known = self._known.setdefault(key, {})
        before = known.get(report.pod)
        if before is not None and before.uid == report.uid and before.at > report.at:
            return
        known[report.pod] = report
        told = self._counters if before and _milestone(before) == _milestone(report) else self._news
        told(key)


def _milestone(report: SeedReport) -> tuple[object, ...]:
    """What people wait for, as opposed to figures."""
    return (report.uid, report.phase, report.activity, report.stages, report.checkpoint)
