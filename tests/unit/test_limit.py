"""A lane's time limit: as `asyncio.timeout`, again and again, with one timer."""

from __future__ import annotations

import asyncio

import pytest

from seedbed.runtime.worker.limit import Limit
from tests.conftest import run_async


async def _for_ever() -> None:
    await asyncio.Event().wait()


def test_what_takes_too_long_ends_with_timeout_error_every_time() -> None:
    async def body() -> None:
        limit = Limit()
        for _ in range(3):
            with pytest.raises(TimeoutError), limit.within(0.02):
                await _for_ever()
            assert limit.expired
        limit.close()

    run_async(body())


def test_a_shorter_limit_after_a_longer_one_holds() -> None:
    async def body() -> None:
        limit = Limit()
        with limit.within(3600.0):
            await asyncio.sleep(0)
        assert not limit.expired
        with pytest.raises(TimeoutError), limit.within(0.02):
            await _for_ever()
        limit.close()

    run_async(body())


def test_a_timer_that_was_set_for_an_earlier_context_leaves_the_next_one_its_time() -> None:
    async def body() -> None:
        limit = Limit()
        with limit.within(0.02):
            pass
        with limit.within(3600.0):
            # Longer than the first context had.
            await asyncio.sleep(0.05)
        assert not limit.expired
        limit.close()

    run_async(body())


def test_cancellation_by_others_stays_cancellation() -> None:
    async def body() -> None:
        limit = Limit()

        async def work() -> None:
            with limit.within(3600.0):
                await _for_ever()

        task = asyncio.create_task(work())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        limit.close()

    run_async(body())


def test_it_can_be_ended_before_its_time_and_not_outside_of_its_context() -> None:
    async def body() -> None:
        limit = Limit()
        limit.expire()
        asyncio.get_running_loop().call_later(0.01, limit.expire)
        with pytest.raises(TimeoutError), limit.within(3600.0):
            await _for_ever()
        limit.expire()
        await asyncio.sleep(0)
        limit.close()

    run_async(body())
