"""Waits with a time limit each, on one timer."""

from __future__ import annotations

import asyncio

import pytest

from seedbed.runtime.bus.patience import Patience
from tests.conftest import run_async


def _future() -> asyncio.Future[str]:
    return asyncio.get_running_loop().create_future()


def test_each_wait_ends_in_its_own_time_whatever_others_have() -> None:
    async def body() -> None:
        patience = Patience()
        answered, early, late = _future(), _future(), _future()

        async def wait(awaited: asyncio.Future[str], seconds: float) -> str:
            try:
                return await patience.wait(awaited, seconds)
            except TimeoutError:
                return f"over after {seconds:g}"

        async with asyncio.TaskGroup() as tasks:
            patient = tasks.create_task(wait(answered, 3600.0))
            ended = [tasks.create_task(wait(late, 0.06)), tasks.create_task(wait(early, 0.01))]
            await asyncio.wait(ended)
            # Those who waited have left; the one with more time still waits.
            assert early.cancelled()
            assert not patient.done()
            answered.set_result("answer")
        assert [each.result() for each in ended] == ["over after 0.06", "over after 0.01"]
        assert patient.result() == "answer"
        patience.close()

    run_async(body())


def test_a_timer_that_rings_for_a_wait_that_is_over_goes_on_for_the_others() -> None:
    async def body() -> None:
        patience = Patience()
        quick = _future()
        quick.set_result("at once")
        assert await patience.wait(quick, 0.01) == "at once"
        with pytest.raises(TimeoutError):
            await patience.wait(_future(), 0.05)
        with pytest.raises(TimeoutError):
            await patience.wait(_future(), 0.01)
        patience.close()

    run_async(body())


def test_cancelling_who_waits_is_no_timeout() -> None:
    async def body() -> None:
        patience, awaited = Patience(), _future()
        waiting = asyncio.create_task(patience.wait(awaited, 3600.0))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert awaited.cancelled()
        patience.close()

    run_async(body())
