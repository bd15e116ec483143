"""The work queue: each key once, one worker a key, failures wait longer and longer."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from seedbed.operator.queue import FIRST_RETRY, LONGEST_RETRY, WorkQueue
from tests.conftest import run_async


def queue() -> WorkQueue[str]:
    return WorkQueue(jitter=lambda: 1.0)


def test_a_key_added_often_is_taken_once() -> None:
    async def body() -> None:
        work = queue()
        for _ in range(1000):
            work.add("a")
        assert await work.take() == "a"
        assert len(work) == 0

    run_async(body())


def test_a_key_in_work_is_not_given_to_a_second_worker_but_comes_again() -> None:
    async def body() -> None:
        work = queue()
        work.add("a")
        key = await work.take()
        work.add("a")
        second = asyncio.ensure_future(work.take())
        await asyncio.sleep(0)
        assert not second.done()
        work.done(key)
        assert await second == "a"

    run_async(body())


def test_take_waits_for_a_key() -> None:
    async def body() -> None:
        work = queue()
        taken = asyncio.ensure_future(work.take())
        await asyncio.sleep(0)
        assert not taken.done()
        work.add("a")
        assert await taken == "a"

    run_async(body())


def test_an_earlier_appointment_stands_and_a_later_one_gives_way() -> None:
    async def body() -> None:
        work = queue()
        work.add_after("a", 30.0)
        work.add_after("a", 0.01)
        work.add_after("a", 60.0)
        assert await work.take() == "a"
        work.close()

    run_async(body())


@given(failures=st.integers(min_value=1, max_value=40))
def test_waits_double_up_to_a_limit_and_start_anew_after_success(failures: int) -> None:
    async def body() -> None:
        work = queue()
        waits = [work.retry("a") for _ in range(failures)]
        assert waits == [min(LONGEST_RETRY, FIRST_RETRY * 2**n) for n in range(failures)]
        work.forget("a")
        assert work.retry("a") == FIRST_RETRY
        assert work.retry("b", after=12.0) == 12.0
        work.close()

    run_async(body())


@given(st.lists(st.sampled_from("abcde"), max_size=60), st.integers(min_value=1, max_value=4))
def test_whatever_is_added_is_looked_at_after_it_was_added(keys: list[str], workers: int) -> None:
    async def body() -> None:
        work = queue()
        added: dict[str, int] = {}
        seen: dict[str, int] = {}
        busy: set[str] = set()

        async def worker() -> None:
            while True:
                key = await work.take()
                assert key not in busy
                busy.add(key)
                seen[key] = added[key]
                await asyncio.sleep(0)
                busy.discard(key)
                work.done(key)

        tasks = [asyncio.ensure_future(worker()) for _ in range(workers)]
        for at, key in enumerate(keys):
            added[key] = at
            work.add(key)
            if at % 3 == 0:
                await asyncio.sleep(0)
        while not work.idle:
            await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert seen == added

    run_async(body())


def test_keys_that_failed_for_long_come_soon_where_the_cause_may_be_over() -> None:
    async def body() -> None:
        work = queue()
        for _ in range(12):
            work.retry("failed")
        work.add_after("planned", LONGEST_RETRY)
        work.hurry(0.01)
        assert await work.take() == "failed"
        work.done("failed")
        assert work.retry("failed") < 2.0, "it does not wait as long as before either"
        assert len(work) == 0, "what did not fail has its time"
        work.close()

    run_async(body())
