"""The work queues of Pools that are gone: emptied of what no run wants any more, and dropped.

A Pool that is deleted and made again finds its queue as it was: while a run that has not ended waits for a
step in it, or anybody pulls from it, the queue stays. So this may be done by any engine at any time, also
where its view of the Pools is an old one; only one does it, so that it is done once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from seedbed.crds.errors import InvalidError, RetryableError
from seedbed.crds.messages import StepTask
from seedbed.crds.wire import decode
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.store.port import Store

GONE_SECONDS = 120.0
"""How long a Pool has to be gone: for the bus, what was put twice by then was put once."""
SWEEP_SECONDS = 30.0
log = logging.getLogger(__name__)


class RetiredQueues:
    """Looks for them now and then.

    Args:
        bus: with the queues.
        store: knows which runs have ended.
        pulled: whether a queue is that of a Pool that exists.
        mine: whether this process is the one to do it.
    """

    def __init__(
        self, bus: Bus, store: Store, pulled: Callable[[str], bool], mine: Callable[[], bool]
    ) -> None:
        self._bus, self._store = bus, store
        self._pulled, self._mine = pulled, mine
        self._gone: dict[str, float] = {}

    async def run(self) -> None:
        """Sweep until cancelled."""
        while True:
            await asyncio.sleep(SWEEP_SECONDS)
            try:
                await self.sweep(time.monotonic())
            except RetryableError as error:
                log.info("queues of former Pools are looked at later: %s", error)

    async def sweep(self, now: float) -> None:
        """Drop what has been without a Pool for long.

        Raises:
            RetryableError: the bus or the store does not answer.
        """
        if not self._mine():
            self._gone.clear()
            return
        lone = [queue for queue in await self._bus.queues() if not self._pulled(queue)]
        self._gone = {queue: self._gone.get(queue, now) for queue in lone}
        ended: dict[str, bool] = {}

        async def unwanted(payload: bytes) -> bool:
            return await self._unwanted(payload, ended)

        for queue, since in self._gone.items():
            if now >= since + GONE_SECONDS and await self._bus.drop_queue(queue, unwanted):
                log.info(
                    "the queue %s is dropped: its Pool is gone, and no run waits for it", queue
                )

    async def _unwanted(self, payload: bytes, ended: dict[str, bool]) -> bool:
        """Whether no run waits for a step; what is known of a run is kept for this sweep."""
        try:
            run = decode(StepTask, payload).run
        except InvalidError:
            return False  # of another version: not ours to judge
        if run not in ended:
            row = await self._store.run(run)
            ended[run] = row is None or row.finished
        return ended[run]
