"""Errors as answers in OpenAI's form, which every client of that protocol can read."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable

import orjson
from aiohttp import web
from pydantic import BaseModel

from seedbed.crds.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    QueueFullError,
    RetryableError,
    SeedbedError,
    UnavailableError,
)
from seedbed.runtime.llm.budget.stage import UnpricedError
from seedbed.runtime.llm.budget.teller import BudgetExceededError
from seedbed.runtime.llm.identity import NotAllowedError, NotKnownError
from seedbed.runtime.llm.providers import MalformedError, RateLimitedError, RefusedError
from seedbed.runtime.llm.requests import Json
from seedbed.runtime.store.port import StoreRefusedError

log = logging.getLogger(__name__)

_STATUS: tuple[tuple[type[SeedbedError], int, str], ...] = (
    (NotKnownError, 401, "authentication_error"),
    (NotAllowedError, 403, "permission_error"),
    (InvalidError, 400, "invalid_request_error"),
    (NotFoundError, 404, "invalid_request_error"),
    (ConflictError, 409, "invalid_request_error"),
    (BudgetExceededError, 402, "insufficient_quota"),
    (UnpricedError, 402, "insufficient_quota"),
    (QueueFullError, 429, "rate_limit_error"),
    (RateLimitedError, 429, "rate_limit_error"),
    (MalformedError, 502, "server_error"),
    (UnavailableError, 503, "server_error"),
    (RefusedError, 502, "server_error"),
    (SeedbedError, 500, "server_error"),
)
_FIRST_ERROR = 400


class Problem(BaseModel):
    """What was wrong; `param` names the field of the request."""

    message: str
    type: str
    param: str | None
    code: str | None


class Failure(BaseModel):
    """An error, in OpenAI's form."""

    error: Problem


def _form(message: str, kind: str, param: str | None = None, code: str | None = None) -> Json:
    problem = Problem(message=message, type=kind, param=param, code=code)
    return Failure(error=problem).model_dump()


def told(error: SeedbedError) -> tuple[int, Json]:
    """Status and body of an error."""
    status, kind = next((s, k) for form, s, k in _STATUS if isinstance(error, form))
    return status, _form(error.message, kind, getattr(error, "field", None), error.code)


@web.middleware
async def in_openai_form(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Every error becomes an answer that tells what was wrong.

    Where a stream has begun there is no second answer: its connection ends.
    """
    try:
        return await handler(request)
    except SeedbedError as error:
        if request.writer.output_size:
            raise
        if isinstance(error, StoreRefusedError):
            log.exception("a request failed because the database refuses it")
        status, body = told(error)
        wait = error.retry_after if isinstance(error, RetryableError) else None
        return _answer(status, body, {"Retry-After": f"{wait:.0f}"} if wait else {})
    except web.RequestPayloadError:
        status, body = told(InvalidError("body", "cannot be read as its headers say"))
        return _answer(status, body, {})
    except web.HTTPException as error:
        if error.status < _FIRST_ERROR:
            raise
        return _answer(error.status, _form(error.reason, "invalid_request_error"), {})
    except Exception:
        if request.writer.output_size:
            raise
        log.exception("a request failed for no reason that anybody thought of")
        return _answer(500, _form("it failed", "server_error", code="internal"), {})


def _answer(status: int, body: Json, headers: dict[str, str]) -> web.Response:
    return web.Response(
        body=orjson.dumps(body), status=status, content_type="application/json", headers=headers
    )
