"""What every page of the API shares: JSON answers, errors as answers, the caller and their rights."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import orjson
from aiohttp import hdrs, web
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
from seedbed.runtime.api.access import (
    Access,
    Action,
    Caller,
    ForbiddenError,
    UnauthenticatedError,
)
from seedbed.runtime.openapi import PATH
from seedbed.runtime.store.port import StoreRefusedError

TOKEN_HEADER = "X-Seedbed-Authorization"  # noqa: S105  # the name of a header
"""Holds the caller's token where the API server's proxy, which takes `Authorization` out, is between."""

_Page = Callable[[web.Request], Awaitable[web.StreamResponse]]


PUBLIC = frozenset({"/healthz", PATH})
"""Paths that anybody may call."""

ACCESS = web.AppKey("access", Access)
CALLER = web.RequestKey("caller", Caller)

_STATUS: tuple[tuple[type[SeedbedError], int], ...] = (
    (UnauthenticatedError, 401),
    (ForbiddenError, 403),
    (InvalidError, 400),
    (NotFoundError, 404),
    (ConflictError, 409),
    (QueueFullError, 429),
    (UnavailableError, 503),
    (RetryableError, 503),
    (SeedbedError, 500),
)
_log = logging.getLogger(__name__)


def answer(
    value: Any, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> web.Response:
    """A JSON answer."""
    data = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    return web.Response(body=data, status=status, content_type="application/json", headers=headers)


class Problem(BaseModel):
    """What was wrong."""

    code: str
    message: str


class Failure(BaseModel):
    """An error."""

    error: Problem


def _form(code: str, message: str) -> dict[str, Any]:
    return Failure(error=Problem(code=code, message=message)).model_dump()


def failure(error: SeedbedError) -> web.Response:
    """An error as an answer."""
    status = next(number for form, number in _STATUS if isinstance(error, form))
    headers: dict[str, str] = {}
    if isinstance(error, UnauthenticatedError):
        headers[hdrs.WWW_AUTHENTICATE] = "Bearer"
    if isinstance(error, RetryableError) and error.retry_after is not None:
        headers[hdrs.RETRY_AFTER] = str(max(1, round(error.retry_after)))
    return answer(_form(error.code, error.message), status=status, headers=headers)


@web.middleware
async def errors_as_answers(request: web.Request, handler: _Page) -> web.StreamResponse:
    """Every error becomes JSON; a defect is logged and tells nothing."""
    try:
        return await handler(request)
    except SeedbedError as error:
        if isinstance(error, StoreRefusedError):
            _log.exception("%s %s failed", request.method, request.path)
        return failure(error)
    except web.RequestPayloadError:
        return failure(InvalidError("body", "cannot be read as its headers say"))
    except web.HTTPException as error:
        code = error.reason.lower().replace(" ", "_")
        return answer(_form(code, error.reason), status=error.status)
    except Exception:  # noqa: BLE001  # the edge: a caller gets an answer whatever happens
        _log.exception("%s %s failed", request.method, request.path)
        return failure(SeedbedError("the server failed; its log tells why"))


@web.middleware
async def with_caller(request: web.Request, handler: _Page) -> web.StreamResponse:
    """Nobody gets past without being known, but to what is public."""
    if request.path in PUBLIC:
        return await handler(request)
    request[CALLER] = await request.app[ACCESS].caller(bearer_token(request))
    return await handler(request)


def bearer_token(request: web.Request) -> str:
    """The caller's token; empty where the request has none."""
    header = request.headers.get(hdrs.AUTHORIZATION) or request.headers.get(TOKEN_HEADER) or ""
    scheme, _, token = header.partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


async def require(request: web.Request, action: Action) -> None:
    """Pass where the caller of the request may do it; see `Access.require`."""
    await request.app[ACCESS].require(request[CALLER], action)
