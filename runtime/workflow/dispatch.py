"""Handing steps to workers: only what is journalled, again where it may be lost, never for containers.

One task puts what has been scheduled into the work queues, many items at once, while the partition goes
on deciding. What ends before it was put is left out. On a bus in this process nothing is to be waited
for, and the partition puts the items itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict, deque
from collections.abc import Callable, Iterable
from contextlib import suppress

from seedbed.crds.addresses import unwanted_topic, work_queue
from seedbed.crds.errors import QueueFullError, UnavailableError
from seedbed.crds.messages import StepKey, Unwanted
from seedbed.crds.run_ids import attempt_id
from seedbed.crds.wire import encode
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.workflow import metrics
from seedbed.runtime.workflow.journal import LiveRun
from seedbed.runtime.workflow.overflow import QUEUE_SHED
from seedbed.runtime.workflow.records import (
    Record,
    RunEnding,
    RunFinished,
    StepFailed,
    StepScheduled,
    StepSkipped,
    StepSucceeded,
)
from seedbed.runtime.workflow.stragglers import learn, stragglers
from seedbed.runtime.workflow.units import Unit

log = logging.getLogger(__name__)

RESEND_GRACE = 60.0
"""Seconds beyond a step's time limit after which it is handed out again without being asked."""
AGAIN_AFTER = 0.5
MOST_AT_ONCE = 250
"""Steps put in one go."""

_Put = tuple[LiveRun, Unit, int]
_OF_WORKERS = ("agent", "call")
_ENDED = (StepSucceeded, StepFailed)
_OVER = (RunEnding, RunFinished)


class Dispatch:
    """Puts scheduled steps into the work queues while `run` runs.

    Args:
        again: called with a run's name when some of its steps could not be put and should be tried again.
    """

    def __init__(self, bus: Bus, again: Callable[[str], None]) -> None:
        self._bus = bus
        self._again = again
        self._waiting: deque[_Put] = deque()
        self._unwanted: defaultdict[str, list[str]] = defaultdict(list)
        self._changed = asyncio.Event()

    def follow(self, run: LiveRun, records: Iterable[Record], now: float) -> None:
        """Hand out what these records, now durable, have scheduled."""
        handed, awaits, scheduled = run.handed, run.state.awaits, run.state.scheduled
        raced = run.state.graph.raced
        for record in records:
            if isinstance(record, StepScheduled):
                if record.kind in _OF_WORKERS and awaits(record.key, record.attempt):
                    self._put(run, scheduled[record.key], now)
            elif isinstance(record, _ENDED):
                put = handed.pop(record.key, None)
                if type(record) is StepFailed and record.error.code == QUEUE_SHED:
                    self._drop(run, record.key, record.attempt)
                if put and raced and record.key.step in raced:
                    if run.doubled.get(record.key) == put[0]:
                        self._drop(run, record.key, put[0])
                    learn(run, record.key, now - put[1])
            elif isinstance(record, StepSkipped):
                # Where it was handed out, that was before its branch decided.
                if put := handed.pop(record.key, None):
                    self._drop(run, record.key, put[0])
            elif isinstance(record, _OVER):
                self._drop_left(run)
        if raced:
            self._race(run, now)

    def look(self, run: LiveRun, now: float) -> None:
        """Hand out every scheduled step that no worker can know of, or that got no answer for long."""
        for unit in run.state.scheduled.values():
            if _is_due(run, unit, now):
                self._put(run, unit, now)
        if run.state.graph.raced:
            self._race(run, now)

    def _race(self, run: LiveRun, now: float) -> None:
        """Start what straggles a second time."""
        for unit in stragglers(run, now):
            log.info("%s of %s straggles: started again", unit.key, run.state.request.run)
            metrics.DOUBLED.inc()
            self._put(run, unit, now)

    def _drop(self, run: LiveRun, key: StepKey, attempt: int) -> None:
        """Tell workers that nobody awaits the result of an attempt any more."""
        request = run.state.request
        self._unwanted[request.namespace].append(attempt_id(request.run, key, attempt))
        self._changed.set()

    def _drop_left(self, run: LiveRun) -> None:
        """A run has its outcome: what workers still do for it is of no use."""
        for key in [key for key in run.handed if key not in run.state.scheduled]:
            self._drop(run, key, run.handed.pop(key)[0])

    async def run(self) -> None:
        """Put what is scheduled, until cancelled."""
        while True:
            self._changed.clear()
            if not self._waiting and not self._unwanted:
                await self._changed.wait()
            if self._unwanted:
                await self._tell_unwanted()
            await self._put_waiting()

    async def put_on_local(self) -> None:
        """Put what is scheduled now, where that takes no time."""
        if self._bus.local:
            await self._put_waiting()

    async def _put_waiting(self) -> None:
        while self._waiting:
            by_queue: dict[str, list[_Put]] = {}
            for _ in range(min(MOST_AT_ONCE, len(self._waiting))):
                run, unit, attempt = put = self._waiting.popleft()
                if run.state.awaits(unit.key, attempt):
                    assert unit.task is not None
                    queue = work_queue(run.state.request.namespace, unit.task.pool)
                    by_queue.setdefault(queue, []).append(put)
            for queue, some in by_queue.items():
                await self._put_all(queue, some)
            if self._waiting:
                await asyncio.sleep(0)

    async def _tell_unwanted(self) -> None:
        told, self._unwanted = self._unwanted, defaultdict(list)
        for namespace, attempts in told.items():
            for first in range(0, len(attempts), MOST_AT_ONCE):
                some = Unwanted(tuple(attempts[first : first + MOST_AT_ONCE]))
                with suppress(UnavailableError):  # they go on until their time limit
                    await self._bus.publish(unwanted_topic(namespace), encode(some))

    def _put(self, run: LiveRun, unit: Unit, now: float) -> None:
        run.handed[unit.key] = (unit.attempt, now)
        self._waiting.append((run, unit, unit.attempt))
        if not self._bus.local:
            self._changed.set()

    async def _put_all(self, queue: str, puts: Iterable[_Put]) -> None:
        items = []
        for run, unit, attempt in puts:
            task = run.state.task(unit)
            again = "/again" if run.doubled.get(unit.key) == attempt else ""
            items.append((f"{task.idempotency_key}/{attempt}{again}", encode(task)))
        try:
            await self._bus.put_all(queue, items)
        except (UnavailableError, QueueFullError) as error:
            log.info("%d steps for %s wait: %s", len(items), queue, error)
            names = set()
            for run, unit, _ in puts:
                run.handed.pop(unit.key, None)
                names.add(run.state.request.run)
            for name in names:
                asyncio.get_running_loop().call_later(AGAIN_AFTER, self._again, name)


def _is_due(run: LiveRun, unit: Unit, now: float) -> bool:
    if unit.task is None or unit.task.kind not in _OF_WORKERS:
        return False
    attempt, at = run.handed.get(unit.key, (0, 0.0))
    return attempt != unit.attempt or now > at + unit.task.timeout + RESEND_GRACE
