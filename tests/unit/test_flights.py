"""Calls that share one, without a network: who asks again, and who hears what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from seedbed.crds.errors import InvalidError, SeedbedError
from seedbed.runtime.llm.batch.collapse import CollapseStage
from seedbed.runtime.llm.batch.settings import Batching
from seedbed.runtime.llm.call import Attempt, Call, Identity, Reply, Rest
from seedbed.runtime.llm.metrics import ModelMetrics
from seedbed.runtime.llm.requests import ChatMessage, ChatRequest
from seedbed.runtime.llm.resilience.targets import Clock, TooLateError
from tests.conftest import run_async

ASK = ChatRequest(model="m", messages=(ChatMessage(role="user", content="go"),), temperature=0)


class Shared:
    """The stage over an end of the chain that the test writes; time stands still."""

    def __init__(self, rest: Rest) -> None:
        self.now = 0.0
        self.asked = 0
        self._rest = rest
        self.stage = CollapseStage(Batching(), Clock(lambda: self.now), ModelMetrics())

    async def rest(self, call: Call) -> Reply:
        self.asked += 1
        return await self._rest(call)

    async def ask(self, deadline: float = 10.0, **fields: object) -> Call:
        """One call to its end; gives what is known of it."""
        async with AsyncExitStack() as closing:
            call = Call(ASK, Identity(), deadline, closing, candidates=("m",))
            for name, value in fields.items():
                setattr(call, name, value)
            reply = await self.stage(call, self.rest)
            assert reply.whole is not None
        return call


@asynccontextmanager
async def shared(rest: Rest) -> AsyncIterator[Shared]:
    found = Shared(rest)
    async with found.stage.running():
        yield found


def answered(call: Call) -> Reply:
    call.attempts.append(Attempt("m", "ok"))
    call.served_by = "m"
    return Reply(whole={"choices": []})


async def turns(count: int = 5) -> None:
    """Let what can go on go on."""
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_limit_that_was_the_first_callers_own_is_not_the_others() -> None:
    async def body() -> None:
        held = asyncio.Event()

        async def rest(call: Call) -> Reply:
            await held.wait()
            if both.asked == 1:
                both.now = 2.0
                raise TooLateError("no answer within 1 s")
            return answered(call)

        async with shared(rest) as both:
            first = asyncio.create_task(both.ask(deadline=1.0))
            await turns()
            second = asyncio.create_task(both.ask(deadline=10.0))
            await turns()
            held.set()
            with pytest.raises(TooLateError):
                await first
            assert (await second).served_by == "m"
            assert both.asked == 2

    run_async(body())


def test_who_leaves_while_its_money_is_counted_lets_the_others_ask_anew() -> None:
    async def body() -> None:
        counting = asyncio.Event()

        async def never(model: str, worst: int | None) -> None:
            counting.set()
            await asyncio.Event().wait()

        async def rest(call: Call) -> Reply:
            await call.afford("m", 1)
            return answered(call)

        async with shared(rest) as both:
            first = asyncio.create_task(both.ask(afford=never))
            await counting.wait()
            second = asyncio.create_task(both.ask())
            await turns()
            first.cancel()
            assert (await second).served_by == "m"
            assert both.asked == 2

    run_async(body())


def test_who_cannot_pay_does_not_take_over() -> None:
    async def body() -> None:
        held = asyncio.Event()
        asked: list[str] = []

        async def poor(model: str, worst: int | None) -> None:
            asked.append("poor")
            raise InvalidError("budget", "none is left")

        async def rich(model: str, worst: int | None) -> None:
            asked.append("rich")

        async def rest(call: Call) -> Reply:
            await call.afford("m", 7)
            await held.wait()
            return answered(call)

        async with shared(rest) as three:
            first = asyncio.create_task(three.ask())
            await turns()
            others = [asyncio.create_task(three.ask(afford=each)) for each in (poor, rich)]
            await turns()
            first.cancel()
            await asyncio.wait({first})
            assert asked == ["poor", "rich"]
            held.set()
            calls = [await each for each in others]
            assert [call.notes["Batch"] for call in calls] == ["joined", "leader"]
            assert three.asked == 1

    run_async(body())


@pytest.mark.parametrize("error", [InvalidError("request", "wrong"), KeyError("a defect")])
def test_every_failure_reaches_all(error: Exception) -> None:
    async def body() -> None:
        async def rest(_: Call) -> Reply:
            await turns(20)
            raise error

        async with shared(rest) as both:
            calls = [asyncio.create_task(both.ask()) for _ in range(3)]
            await asyncio.wait(calls)
            assert [each.exception() for each in calls] == [error] * 3
            assert both.asked == 1
            assert isinstance(error, SeedbedError | KeyError)

    run_async(body())


def test_what_is_under_way_at_the_end_is_given_up() -> None:
    async def body() -> None:
        async def rest(_: Call) -> Reply:
            await asyncio.Event().wait()
            raise AssertionError

        found = Shared(rest)
        async with found.stage.running():
            call = asyncio.create_task(found.ask())
            await turns()
        with pytest.raises(SeedbedError, match="the service ends"):
            await call

    run_async(body())
