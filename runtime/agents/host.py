"""Answers for Agents: takes a step's program and inputs, gives its outputs.

One host serves all calls of a worker, many at once: it holds one HTTP session and the programs it
has built, and everything that belongs to a single call lives on that call's stack.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import aiohttp
import dspy

from seedbed.crds.errors import SeedbedError, TerminalError
from seedbed.runtime.agents.adapter import JsonAnswerAdapter
from seedbed.runtime.agents.errors import AnswerMalformedError, AnswerTimeoutError
from seedbed.runtime.agents.lm import ModelServiceEngine, language_model
from seedbed.runtime.agents.program import AgentProgram, build, fingerprint, inside
from seedbed.runtime.llm.token import bearer

_PROGRAMS_KEPT = 256
_CONNECT_WITHIN = 10.0
_CACHE = {"Allowed": "", "ExactOnly": "exact", "Off": "bypass"}


@dataclass(frozen=True, slots=True)
class Behalf:
    """On whose behalf an Agent is asked, so that the right budgets pay."""

    namespace: str
    workflow: str = ""
    run: str = ""

    def headers(self, agent: str) -> dict[str, str]:
        """As the model service reads it."""
        return {
            "X-Seedbed-Namespace": self.namespace,
            "X-Seedbed-Agent": agent,
            "X-Seedbed-Workflow": self.workflow,
            "X-Seedbed-Run": self.run,
        }


class ProgramFailedError(TerminalError):
    """DSPy itself refused the call, which no other attempt would change."""

    code = "program_failed"


class AgentHost:
    """Hosts Agents against one model service. An async context manager."""

    def __init__(self, gateway_url: str) -> None:
        """`gateway_url` is the model service's address, such as `http://models:8080`."""
        self._url = gateway_url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None
        self._programs: OrderedDict[str, AgentProgram] = OrderedDict()

    async def __aenter__(self) -> Self:
        # Each call has its own time limit, so the session has none but for connecting.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_WITHIN)
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(
            self._url,
            timeout=timeout,
            connector=connector,
            headers={"Content-Type": "application/json"},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def answer(
        self,
        program: Mapping[str, Any],
        inputs: Mapping[str, Any],
        *,
        timeout: float,  # noqa: ASYNC109 - part of the task, and reported as this Agent's own error
        behalf: Behalf | None = None,
        traceparent: str = "",
        idempotency_key: str = "",
    ) -> dict[str, Any]:
        """Ask an Agent once.

        Args:
            program: the AgentSpec as JSON, with the Agent's name under `agentName`.
            inputs: values by name.
            timeout: seconds for the whole call.
            behalf: who pays; what the model service believes without a token where none is given.
            traceparent: W3C trace context, passed on.
            idempotency_key: the same for every attempt, passed on.

        Returns:
            Values by name, in the signature's order; ChainOfThought has `reasoning` first.

        Raises:
            UnknownModuleError: where the strategy is unknown.
            InvalidError: naming the field of the spec or of the inputs that is wrong.
            NotFoundError: where the model service has no such model.
            ModelRefusedError: where it refuses the request for good.
            UnavailableError: where it cannot be reached or refuses for now.
            AnswerMalformedError: where the model's answer does not fit the signature.
            AnswerTimeoutError: where there was no answer in time.
            BudgetExceededError: where no budget pays for the call now.
        """
        assert self._session is not None, "the host is used inside `async with`"
        agent = self._program(program)
        for problem in agent.signature.input_problems(inputs, "inputs"):
            raise problem
        headers = {
            "traceparent": traceparent,
            "Idempotency-Key": idempotency_key,
            "Authorization": bearer(),
            "X-Seedbed-Timeout": f"{timeout:g}",
            "X-Seedbed-Cache": _CACHE[agent.spec.model.cache],
            **(behalf.headers(agent.name) if behalf is not None else {}),
        }
        engine = ModelServiceEngine(self._session, {k: v for k, v in headers.items() if v})
        try:
            async with asyncio.timeout(timeout):
                found = await _ask(agent, engine, inputs)
        except AnswerMalformedError:
            await engine.tell_outcome(good=False)
            raise
        except TimeoutError as error:
            raise AnswerTimeoutError(agent.name, timeout) from error
        await engine.tell_outcome(good=True)
        return found

    def _program(self, program: Mapping[str, Any]) -> AgentProgram:
        key = fingerprint(program)
        if key not in self._programs:
            self._programs[key] = build(program)
            if len(self._programs) > _PROGRAMS_KEPT:
                self._programs.popitem(last=False)
        self._programs.move_to_end(key)
        return self._programs[key]


async def _ask(
    agent: AgentProgram, engine: ModelServiceEngine, inputs: Mapping[str, Any]
) -> dict[str, Any]:
    model = agent.spec.model
    lm = language_model(engine, model)
    adapter = JsonAnswerAdapter(agent.signature, model.max_tokens)
    try:
        with dspy.context(lm=lm, adapter=adapter, disable_history=True, trace=None):
            given = {inside(name): value for name, value in inputs.items()}
            found = await agent.module.acall(**given)
    except dspy.LMError as error:
        # DSPy wraps what an engine raises; the error that says what happened is behind it.
        if isinstance(error.__cause__, SeedbedError):
            raise error.__cause__ from None
        raise ProgramFailedError(f"agent {agent.name!r}: {error}") from error
    return {each.name: found[each.name] for each in agent.signature.outputs}
