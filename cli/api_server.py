"""Requests to a Kubernetes API server, with the user's own rights; what it refuses, as our errors."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
from kubernetes.aio import client

from seedbed.controllers.plan import Raw
from seedbed.crds.errors import ConflictError, SeedbedError, TerminalError, UnavailableError

WAIT = 15.0
"""Seconds that a server has for its answer."""
ERROR = 400
"""The first status that tells of an error."""
_UNAUTHORISED, _FORBIDDEN, _MISSING, _CONFLICT, _GONE, _TOO_MANY = 401, 403, 404, 409, 410, 429
_FAILED = 500


class MissingError(TerminalError):
    """The server has no such thing."""

    code = "not_found"


class DeniedError(TerminalError):
    """The server knows the user, or not, and refuses."""

    code = "denied"


class ApiServer:
    """An API server, as the user's kubeconfig reaches it."""

    def __init__(self, opened: client.ApiClient) -> None:
        self._client = opened

    async def token(self) -> str:
        """`Bearer TOKEN` of the user; empty for one who is known otherwise, as by a certificate."""
        known = (await self._client.configuration.auth_settings()).get("BearerToken")
        return str(known["value"]) if known else ""

    async def json(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        """What stands at a path."""
        return json.loads(await self.text(path, query))

    async def text(
        self,
        path: str,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        """The same as text."""
        async with self.opened(path, query or {}, WAIT, headers) as answer:
            return await answer.text()

    async def patch(self, path: str, patch: Raw) -> None:
        """Change an object by a merge patch."""
        form = {"Content-Type": "application/merge-patch+json"}
        async with self.opened(path, {}, WAIT, form, method="PATCH", body=patch):
            return

    @asynccontextmanager
    async def opened(
        self,
        path: str,
        query: Mapping[str, Any],
        wait: float,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        body: Mapping[str, Any] | bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer to read from, for at most `wait` seconds.

        Raises:
            UnavailableError: the server does not answer, or fails.
            MissingError, DeniedError, ConflictError, TerminalError: it refuses.
        """
        form = {"Content-Type": "application/json"} if isinstance(body, Mapping) else {}
        request = await self._client.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", **form, **(headers or {})},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            async with asyncio.timeout(wait):
                made = await self._client.call_api(*request, _request_timeout=wait)
                answer: aiohttp.ClientResponse = made.response
                async with answer:
                    if answer.status >= ERROR:
                        raise refusal(answer.status, await answer.text(), path)
                    yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            host = self._client.configuration.host
            raise UnavailableError(f"the API server at {host} does not answer: {error}") from error


def refusal(status: int, body: str, path: str) -> SeedbedError:
    """What a server said, as one of our errors."""
    try:
        told = json.loads(body)
        message = str(told.get("message") or told.get("error", {}).get("message") or body)
    except (ValueError, AttributeError):
        message = body.strip()
    if status == _MISSING:
        return MissingError(message or f"{path}: there is no such page")
    if status in (_UNAUTHORISED, _FORBIDDEN):
        return DeniedError(message or "the server refuses: no right to do this")
    if status == _CONFLICT:
        return ConflictError(message)
    if status in (_GONE, _TOO_MANY) or status >= _FAILED:
        return UnavailableError(message or f"the server failed with {status}")
    return TerminalError(message)
