"""One instance of a named process in the whole cluster."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack, suppress
from typing import Any

from seedbed.crds.errors import UnavailableError
from seedbed.runtime.coordination.lease import LeaseLostError, while_held
from seedbed.runtime.coordination.port import Coordinator, Ownership

RETRY_SECONDS = 1.0

Body = Callable[[Ownership], Coroutine[Any, Any, None]]


async def run_singleton(
    coordinator: Coordinator, name: str, holder: str, body: Body, *, ttl: float = 10.0
) -> None:
    """Run `body` once this process owns `name`, until the body ends.

    Any number of processes may call this: one runs, the others wait in order of arrival, and the
    next takes over when the holder ends or dies (after at most `ttl` seconds). When the lease is
    lost, the body is cancelled and this process waits again behind the others. What the body raises
    is raised here.

    Args:
        coordinator: where the name is owned.
        name: the name of the one process.
        holder: who this process is, for those who look.
        body: what to run; it is given the ownership to write under.
        ttl: seconds after which a dead holder is succeeded.
    """
    while True:
        async with AsyncExitStack() as stack:
            try:
                lease = await stack.enter_async_context(coordinator.lease(ttl))
                ownership = await coordinator.campaign(f"singleton/{name}", holder, lease)
            except UnavailableError:
                owned = False
            else:
                owned = True
            if owned:
                with suppress(LeaseLostError):
                    await while_held(lease, body(ownership))
                    return
        await asyncio.sleep(RETRY_SECONDS)
