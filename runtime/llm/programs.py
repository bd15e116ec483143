"""Agents as models: a request for `agent/NAME` is answered by the Agent, on a worker of its Pool.

What a model alone cannot do, such as a chain of thought over typed fields, an Agent's program does; it
runs where Agents' steps run, and its own questions to models come back here and are paid by the Agent's
budget. The last message of the user is the input where the Agent has one input of text, else a JSON
object with all inputs. The answer is the output where there is one, else a JSON object; what the
strategy adds to it, such as its reasoning, is left out.

A worker that has gone away is passed over, another one asked. One that fails in the middle is not:
the Agent may have had effects.
"""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import orjson

from seedbed.crds.addresses import agent_setting, worker_address
from seedbed.crds.agent import AgentSpec
from seedbed.crds.base import seconds
from seedbed.crds.errors import InvalidError, NotFoundError, SeedbedError, UnavailableError
from seedbed.crds.messages import StepError, StepKey, StepResult, StepTask
from seedbed.crds.signature import Signature
from seedbed.crds.wire import decode, encode
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.coordination.registry import Service, discover
from seedbed.runtime.llm.call import Attempt, Call, Reply
from seedbed.runtime.llm.providers import RefusedError
from seedbed.runtime.llm.requests import ChatRequest, Json

PREFIX = "agent/"
ANSWERS = "answers"
"""What a worker says it can: to answer a request at once."""
_SPARE = 1.0
"""Seconds that the way to the worker and back may take of the caller's time."""


class Programs:
    """Agents of the caller's namespace, reached over the bus.

    Args:
        bus: gives it, or None as long as it is not there.
        now: the clock that deadlines are told in.
    """

    def __init__(
        self, bus: Callable[[], Bus | None], coordinator: Coordinator, now: Callable[[], float]
    ) -> None:
        self._bus = bus
        self._coordinator = coordinator
        self._now = now

    async def answer(self, call: Call) -> Reply:
        """An Agent's answer as a chat completion.

        Raises:
            NotFoundError: where the namespace has no such Agent.
            InvalidError: where the request is not what the Agent takes.
            UnavailableError: where no worker of its Pool answers now.
            RefusedError: where the Agent failed for good.
        """
        asked = call.request
        if not isinstance(asked, ChatRequest) or asked.tools is not None or asked.n > 1:
            raise InvalidError("model", "an Agent takes chats without tools, one answer at a time")
        for field in sorted(asked.further):
            raise InvalidError(field, "is nothing that an Agent takes")
        namespace, name = call.identity.namespace, asked.model.removeprefix(PREFIX)
        spec = await self._spec(namespace, name)
        left = call.deadline - self._now() - _SPARE
        if left <= 0:
            raise UnavailableError(f"no time is left to ask the Agent {name!r}")
        task = StepTask(
            run=f"ask-{secrets.token_hex(8)}",
            namespace=namespace,
            workflow="",
            key=StepKey("ask"),
            attempt=1,
            kind="agent",
            program={**spec.model_dump(mode="json", by_alias=True), "agentName": name},
            inputs=_inputs(asked, Signature.parse(spec.signature)),
            timeout=min(left, seconds(spec.timeout)),
        )
        try:
            result = await self._result(task, spec.pool.name)
            content = _content(result, Signature.parse(spec.signature), asked.model)
        except SeedbedError as error:
            call.attempts.append(Attempt(asked.model, error.code))
            raise
        call.attempts.append(Attempt(asked.model, "ok"))
        call.served_by = asked.model
        call.notes["Worker"] = result.worker
        whole = _completion(task.run, asked.model, content)
        return Reply(chunks=_chunks(whole, content)) if asked.stream else Reply(whole=whole)

    async def _spec(self, namespace: str, name: str) -> AgentSpec:
        key = agent_setting(namespace, name)
        found = (await self._coordinator.settings(key)).get(key) if name else None
        if found is None:
            raise NotFoundError("agent", name)
        spec = AgentSpec.model_validate_json(found)
        if spec.suspend:
            raise UnavailableError(f"the Agent {name!r} is suspended")
        return spec

    async def _result(self, task: StepTask, pool: str) -> StepResult:
        where = {"namespace": task.namespace, "pool": pool}
        workers = await discover(self._coordinator, "worker", (ANSWERS,), where)
        random.shuffle(workers)
        for worker in workers:
            found = await self._of(worker, task)
            if found is not None:
                return found
        raise UnavailableError(f"no worker of the Pool {pool!r} answers now", 5.0)

    async def _of(self, worker: Service, task: StepTask) -> StepResult | None:
        """A worker's answer; None where it is not there any more."""
        bus = self._bus()
        if bus is None:
            raise UnavailableError("the bus to the workers is not there yet", 5.0)
        began = self._now()
        wait = task.timeout + _SPARE
        try:
            payload = encode(task)
            return decode(
                StepResult,
                await bus.request(worker_address(worker.instance), payload, wait=wait),
            )
        except UnavailableError:
            if self._now() - began >= task.timeout:
                raise
            return None


def _inputs(asked: ChatRequest, signature: Signature) -> dict[str, Any]:
    for place in asked.media().at.values():
        raise InvalidError(place, "an Agent is asked in words")
    said = [message.content or "" for message in asked.messages if message.role == "user"]
    if not said:
        raise InvalidError("messages", "an Agent is asked by a message of the user")
    names = [each.name for each in signature.inputs]
    if len(names) == 1 and signature.inputs[0].type.accepts(""):
        return {names[0]: said[-1]}
    try:
        found = orjson.loads(said[-1])
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        wanted = ", ".join(names)
        raise InvalidError("messages", f"the last one has to be a JSON object with {wanted}")
    for problem in signature.input_problems(found, "messages"):
        raise problem
    return found


def _content(result: StepResult, signature: Signature, model: str) -> str:
    if result.error is not None:
        raise _failure(result.error, model)
    names = [each.name for each in signature.outputs]
    found = {name: result.output[name] for name in names}
    alone = found[names[0]] if len(names) == 1 else None
    return alone if isinstance(alone, str) else orjson.dumps(found).decode()


def _failure(error: StepError, model: str) -> SeedbedError:
    told = f"model {model!r}: {error.message}"
    if error.code == "invalid":
        return InvalidError("messages", error.message)
    return UnavailableError(told) if error.retryable else RefusedError(model, error.message)


def _completion(run: str, model: str, content: str) -> Json:
    message = {"role": "assistant", "content": content}
    return {
        "id": run,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": model,
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
    }


async def _chunks(whole: Json, content: str) -> AsyncIterator[Json]:
    """The answer as a stream of one piece: an Agent has its answer all at once."""
    head = {**whole, "object": "chat.completion.chunk"}
    usage = head.pop("usage")
    delta = {"role": "assistant", "content": content}
    yield {**head, "choices": [{"index": 0, "delta": delta, "finish_reason": None}]}
    yield {**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    yield {**head, "choices": [], "usage": usage}
