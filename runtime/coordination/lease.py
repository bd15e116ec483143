"""A lease as its holder sees it, and work that ends with it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Coroutine
from typing import Any, TypeVar

from seedbed.crds.errors import UnavailableError
from seedbed.runtime.coordination.port import Lease

T = TypeVar("T")


class LeaseLostError(UnavailableError):
    """The lease ended while work went on under it; the work was cancelled."""

    code = "lease_lost"


class HeldLease:
    """A lease that counts down on this process's monotonic clock, which runs on while it is paused.

    Attributes:
        id: the server's number for it.
    """

    def __init__(self, lease_id: int, ttl: float, until: float = math.inf) -> None:
        self.id = lease_id
        self._ttl = ttl
        self._until = until
        self._lost = asyncio.Event()

    @property
    def ttl(self) -> float:
        """Seconds it lives without a keep-alive."""
        return self._ttl

    @property
    def alive(self) -> bool:
        """Whether it is certainly still valid."""
        return not self._lost.is_set() and time.monotonic() < self._until

    @property
    def lost(self) -> asyncio.Event:
        """Set once it has ended."""
        return self._lost

    @property
    def remaining(self) -> float:
        """Seconds until it is over by this process's clock; negative where it is."""
        return self._until - time.monotonic()

    def renew(self, sent: float, ttl: float) -> None:
        """Count from `sent`, the monotonic time before a keep-alive that the server answered.

        An answer that comes after the lease was over by our clock does not bring it back.
        """
        if self.alive:
            self._until = sent + ttl

    def end(self) -> None:
        """It is over."""
        self._lost.set()


async def while_held(lease: Lease, work: Coroutine[Any, Any, T]) -> T:
    """Run `work` to its end, or cancel it when the lease is lost.

    Raises:
        LeaseLostError: where the lease ended first; the work has then ended too.
    """
    task = asyncio.ensure_future(work)
    lost = asyncio.ensure_future(lease.lost.wait())
    try:
        await asyncio.wait({task, lost}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise LeaseLostError("the lease ended")
    finally:
        for each in (task, lost):
            each.cancel()
        await asyncio.wait({task, lost})
