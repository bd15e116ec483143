"""Requests for Agents on their way to a worker and back, without an Agent's libraries."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import orjson
import pytest

from seedbed.crds.addresses import agent_setting, worker_address
from seedbed.crds.errors import InvalidError, SeedbedError, UnavailableError
from seedbed.crds.messages import StepError, StepResult, StepTask
from seedbed.crds.wire import decode, encode
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.llm.call import Call, Identity
from seedbed.runtime.llm.programs import Programs
from seedbed.runtime.llm.providers import RefusedError
from seedbed.runtime.llm.requests import ChatMessage, ChatRequest
from tests.conftest import run_async

HERE = {"namespace": "team", "pool": "general"}


class Workers:
    """Workers that answer as a test says."""

    def __init__(self) -> None:
        self.bus = MemoryBus()
        self.coordinator = MemoryCoordinator()
        self.tasks: list[StepTask] = []
        self.now = asyncio.get_running_loop().time
        self.programs = Programs(lambda: self.bus, self.coordinator, self.now)
        self.error: StepError | None = None

    async def agent(self, signature: str) -> None:
        spec = {"pool": {"name": "general"}, "signature": signature}
        await self.coordinator.put(agent_setting("team", "reader"), orjson.dumps(spec))

    async def register(self, name: str, **metadata: str) -> None:
        entry = {"capabilities": ["answers"], "metadata": {**HERE, **metadata}}
        await self.coordinator.put(f"services/worker/{name}", orjson.dumps(entry))

    @asynccontextmanager
    async def working(self, name: str) -> AsyncIterator[None]:
        async def answer(payload: bytes) -> bytes:
            task = decode(StepTask, payload)
            self.tasks.append(task)
            output = {"reasoning": "so", "summary": "short", "length": 7}
            result = StepResult(task.run, task.key, task.attempt, name, output, self.error)
            return encode(result)

        await self.register(name)
        async with self.bus.serve(worker_address(name), answer):
            yield

    async def ask(self, text: str, **fields: Any) -> Call:
        """One call; its answer's text is in its notes."""
        request = ChatRequest.model_validate(
            {"model": "agent/reader", "messages": [{"role": "user", "content": text}], **fields}
        )
        call = Call(request, Identity("team"), self.now() + 5, AsyncExitStack())
        reply = await self.programs.answer(call)
        assert reply.whole is not None
        call.notes["text"] = reply.whole["choices"][0]["message"]["content"]
        return call


@pytest.mark.req("DSX-18")
def test_inputs_and_outputs_by_the_agents_signature() -> None:
    async def body() -> None:
        here = Workers()
        await here.agent("text -> summary")
        async with here.working("one"):
            call = await here.ask("a licence")
            assert call.notes["text"] == "short"
            assert (call.served_by, call.notes["Worker"]) == ("agent/reader", "one")
            assert here.tasks[0].inputs == {"text": "a licence"}
            assert here.tasks[0].program["agentName"] == "reader"
            assert here.tasks[0].timeout < 5
            await here.agent("text, limit: int -> summary, length: int")
            call = await here.ask('{"text": "a", "limit": 3}')
            assert orjson.loads(call.notes["text"]) == {"summary": "short", "length": 7}
            assert here.tasks[1].inputs == {"text": "a", "limit": 3}
            for wrong in ("a", '{"text": "a"}', '{"text": "a", "limit": "b"}'):
                with pytest.raises(InvalidError):
                    await here.ask(wrong)
            with pytest.raises(InvalidError, match="without tools"):
                await here.ask("a", tools=[{"type": "function", "function": {"name": "f"}}])
            assert len(here.tasks) == 2, "what is wrong reaches no worker"

    run_async(body())


@pytest.mark.req("DSX-18")
def test_workers_of_other_pools_are_not_asked_and_those_gone_are_passed_over() -> None:
    async def body() -> None:
        here = Workers()
        await here.agent("text -> summary")
        await here.register("elsewhere", pool="other")
        with pytest.raises(UnavailableError, match="no worker of the Pool"):
            await here.ask("a")
        for number in range(3):
            await here.register(f"gone{number}")
        async with here.working("one"):
            served = [await here.ask("a") for _ in range(10)]
        assert all(call.notes["Worker"] == "one" for call in served)

    run_async(body())


@pytest.mark.parametrize(
    ("error", "form"),
    [
        (StepError("invalid", "not so", retryable=False), InvalidError),
        (StepError("program_failed", "no", retryable=False), RefusedError),
        (StepError("timeout", "late"), UnavailableError),
    ],
)
def test_a_failed_program_is_told_and_not_tried_again(
    error: StepError, form: type[SeedbedError]
) -> None:
    async def body() -> None:
        here = Workers()
        await here.agent("text -> summary")
        here.error = error
        async with here.working("one"), here.working("two"):
            with pytest.raises(form, match=error.message):
                await here.ask("a")
        assert len(here.tasks) == 1

    run_async(body())


def test_a_message_of_the_user_is_needed() -> None:
    async def body() -> None:
        here = Workers()
        await here.agent("text -> summary")
        request = ChatRequest(
            model="agent/reader", messages=(ChatMessage(role="system", content="x"),)
        )
        call = Call(request, Identity("team"), here.now() + 5, AsyncExitStack())
        with pytest.raises(InvalidError, match="message of the user"):
            await here.programs.answer(call)

    run_async(body())
