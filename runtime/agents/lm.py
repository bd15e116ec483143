"""The way from DSPy to the model service: an engine of DSPy's LM, over one aiohttp session.

DSPy's own engines would bring LiteLLM into every worker: eight seconds and 150 MiB for what the
model service does once for all.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import dspy
import orjson
from dspy.lm15 import Message, Request, Response, Usage

from seedbed.crds.agent import AgentModel
from seedbed.crds.errors import (
    NotFoundError,
    SeedbedError,
    TerminalError,
    UnavailableError,
)
from seedbed.runtime.agents.errors import AnswerMalformedError, BudgetExceededError

log = logging.getLogger(__name__)

Json = dict[str, Any]
_CACHE = "cache"
_TELL_SECONDS = 1.0
_BETWEEN = 502
"""Without a code it comes from a proxy on the way, which finds nobody behind it for a moment."""
_MALFORMED = ("provider_malformed", "answer_malformed")
_FINISH = {"length": "length", "content_filter": "content_filter"}


class ModelRefusedError(TerminalError):
    """The model service will not answer this request, however often it is asked.

    Attributes:
        status: HTTP's.
        reason: the service's code for why.
    """

    code = "model_refused"

    def __init__(self, status: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ModelServiceEngine:
    """Asks the model service for one call of an Agent.

    Attributes:
        session: shared by all calls; its base address is the service's.
        headers: trace context and idempotency key of this call.
        told: what the service said of each answer: its cost, and how its model was chosen.
    """

    session: aiohttp.ClientSession
    headers: Mapping[str, str]
    told: list[Json] = field(default_factory=list)

    async def complete(self, request: Request) -> Response:
        """One attempt.

        Raises:
            NotFoundError: where the service has no such model.
            ModelRefusedError: where it refuses for good.
            UnavailableError: where it cannot be reached or refuses for now.
        """
        try:
            async with self.session.post(
                "/v1/chat/completions", data=orjson.dumps(_asked(request)), headers=self.headers
            ) as http:
                body = await http.read()
                if not http.ok:
                    raise _refusal(
                        http.status, http.headers.get("Retry-After"), body, request.model
                    )
        except (aiohttp.ClientError, OSError) as error:
            reason = str(error) or type(error).__name__
            raise UnavailableError(f"the model service cannot be reached: {reason}") from error
        response = _response(body, request.model)
        self.told.append(orjson.loads(body).get("seedbed") or {})
        return response

    async def tell_outcome(self, *, good: bool) -> None:
        """Tell the service whether the last answer fitted, where it chose the model by itself.

        Nobody depends on it: where the service does not take it soon, nothing is learnt.
        """
        last = self.told[-1] if self.told else {}
        # What the cache gives again was told when a model gave it.
        if "route" not in last or last.get("model") == _CACHE:
            return
        outcome = {
            "task": last["task"],
            "model": last["model"],
            "hardness": int(last["hardness"]),
            "good": float(good),
            "marks": last.get("marks"),
        }
        try:
            async with (
                asyncio.timeout(_TELL_SECONDS),
                self.session.post(
                    "/api/v3/outcomes", data=orjson.dumps(outcome), headers=self.headers
                ) as http,
            ):
                if not http.ok:
                    log.info("an outcome was not taken: HTTP %d", http.status)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            log.info("an outcome was not taken: %s", error)


class _NoSyncEngine:
    """DSPy wants a synchronous engine beside the other; agents are never asked that way."""

    def complete(self, request: Request) -> Response:
        raise TypeError(f"model {request.model!r} is asked asynchronously only")


def language_model(engine: ModelServiceEngine, model: AgentModel) -> Any:
    """A DSPy LM for one call. It neither caches nor retries: others decide about that."""
    return dspy.LM(
        model.name,
        engine=_NoSyncEngine(),
        async_engine=engine,
        temperature=model.temperature,
        seed=model.seed,
        cache=False,
        num_retries=0,
    )


def _asked(request: Request) -> Json:
    config = request.config
    messages = [{"role": message.role, "content": message.text} for message in request.messages]
    if request.system:
        messages.insert(0, {"role": "system", "content": str(request.system)})
    form = config.response_format
    options = {
        "temperature": config.temperature,
        "max_tokens": config.max_tokens,
        "seed": config.seed,
        "response_format": form and {"type": "json_schema", "json_schema": _schema(form)},
    }
    set_options = {key: value for key, value in options.items() if value is not None}
    return {"model": request.model, "messages": messages, **set_options}


def _schema(form: Mapping[str, Any]) -> Json:
    return {"name": form.get("name", "answer"), "schema": form["schema"]}


def _response(body: bytes, model: str) -> Response:
    try:
        answer = orjson.loads(body)
        choice = answer["choices"][0]
        text = choice["message"]["content"] or ""
    except (orjson.JSONDecodeError, LookupError, TypeError) as error:
        raise AnswerMalformedError(
            "answer", "the model service's answer has another form"
        ) from error
    if not text:
        raise AnswerMalformedError("answer", "the model answered nothing")
    usage = answer.get("usage") or {}
    return Response(
        id=answer.get("id"),
        model=answer.get("model") or model,
        message=Message.assistant(text),
        finish_reason=_FINISH.get(choice.get("finish_reason"), "stop"),
        usage=Usage(
            input_tokens=usage.get("prompt_tokens"), output_tokens=usage.get("completion_tokens")
        ),
    )


def _refusal(status: int, wait: str | None, body: bytes, model: str) -> SeedbedError:
    try:
        told = orjson.loads(body)["error"]
        message, reason = str(told["message"]), str(told.get("code"))
    except (orjson.JSONDecodeError, LookupError, TypeError):
        message, reason = f"the model service answered HTTP {status}", ""
    if reason == "model_not_found":
        return NotFoundError("model", model)
    if reason == BudgetExceededError.code:
        return BudgetExceededError(message)
    if (
        status in (429, 500, 503, 504)
        or reason in _MALFORMED
        or (status == _BETWEEN and not reason)
    ):
        return UnavailableError(message, float(wait) if wait and wait.isdigit() else None)
    return ModelRefusedError(status, reason, message)
