"""Handing steps to workers: only what is journalled, again where it may be lost, never for containers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from seedbed.crds.errors import QueueFullError, UnavailableError
from seedbed.crds.messages import encode, work_queue
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.workflow.journal import LiveRun
from seedbed.runtime.workflow.records import Record, StepFailed, StepScheduled, StepSucceeded
from seedbed.runtime.workflow.state import Unit

log = logging.getLogger(__name__)

RESEND_GRACE = 60.0
"""Seconds beyond a step's time limit after which it is handed out again without being asked."""
AGAIN_AFTER = 0.5


class Dispatch:
    """Puts scheduled steps into the work queues.

    Args:
        again: called with a run's name when some of its steps could not be put and should be tried again.
    """

    def __init__(self, bus: Bus, again: Callable[[str], None]) -> None:
        self._bus = bus
        self._again = again

    async def follow(self, run: LiveRun, records: Iterable[Record], now: float) -> None:
        """Hand out what these records, now durable, have scheduled."""
        fresh: dict[str, Unit] = {}
        for record in records:
            if isinstance(record, StepScheduled) and record.kind != "container":
                if run.state.awaits(record.key, record.attempt):
                    fresh[str(record.key)] = run.state.scheduled[record.key]
            elif isinstance(record, StepSucceeded | StepFailed):
                run.handed.pop(record.key, None)
        await self._put_all(run, fresh.values(), now)

    async def look(self, run: LiveRun, now: float) -> None:
        """Hand out every scheduled step that no worker can know of, or that got no answer for long."""
        units = [unit for unit in run.state.scheduled.values() if _is_due(run, unit, now)]
        await self._put_all(run, units, now)

    async def _put_all(self, run: LiveRun, units: Iterable[Unit], now: float) -> None:
        for unit in units:
            run.handed[unit.key] = (unit.attempt, now)
        await asyncio.gather(*(self._put(run, unit) for unit in units))

    async def _put(self, run: LiveRun, unit: Unit) -> None:
        task = run.state.task(unit)
        assert unit.task is not None
        queue = work_queue(task.namespace, unit.task.pool)
        item = f"{task.idempotency_key}/{unit.attempt}"
        try:
            await self._bus.put_work(queue, item, encode(task))
        except (UnavailableError, QueueFullError) as error:
            log.info("%s of %s waits: %s", unit.key, task.run, error)
            run.handed.pop(unit.key, None)
            asyncio.get_running_loop().call_later(AGAIN_AFTER, self._again, task.run)


def _is_due(run: LiveRun, unit: Unit, now: float) -> bool:
    if unit.task is None or unit.task.kind == "container":
        return False
    attempt, at = run.handed.get(unit.key, (0, 0.0))
    return attempt != unit.attempt or now > at + unit.task.timeout + RESEND_GRACE
