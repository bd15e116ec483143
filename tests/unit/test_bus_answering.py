"""What the NATS adapter makes of its client's ways."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from seedbed.runtime.bus.nats_work import answering


@pytest.mark.req("SNK-02")
def test_a_cancellation_that_the_client_forgets_ends_the_task() -> None:
    async def forgetful() -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(60)

    async def body() -> None:
        went_on = False

        async def ask() -> None:
            nonlocal went_on
            with answering("queues"):
                await forgetful()
            went_on = True

        task = asyncio.create_task(ask())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        assert (task.cancelled(), went_on) == (True, False)

    asyncio.run(body())


def test_who_ends_may_still_ask() -> None:
    async def body() -> None:
        asked = False

        async def ending() -> None:
            nonlocal asked
            try:
                await asyncio.sleep(60)
            finally:
                with answering("the end"):
                    await asyncio.sleep(0)
                asked = True

        task = asyncio.create_task(ending())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait({task}, timeout=10)
        assert (task.cancelled(), asked) == (True, True)

    asyncio.run(body())
