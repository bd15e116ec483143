"""Workflows as objects of the API server, read and written with the caller's own token.

The API has no rights of its own to them: what a caller may not do with kubectl, they may not do here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote

import aiohttp
import orjson

from seedbed.crds.base import GROUP, VERSION
from seedbed.crds.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    SeedbedError,
    UnavailableError,
)
from seedbed.runtime.api.access import (
    ACCOUNT,
    ForbiddenError,
    UnauthenticatedError,
    api_server,
)

Raw = Mapping[str, Any]
_MERGE_PATCH = "application/merge-patch+json"
_REFUSED = 400


class Workflows(Protocol):
    """Errors: NotFoundError, ForbiddenError, ConflictError, InvalidError, UnavailableError."""

    async def get(self, token: str, namespace: str, name: str) -> Raw:
        """One Workflow."""

    async def patch(self, token: str, namespace: str, name: str, patch: Raw) -> Raw:
        """Change one by a merge patch."""

    async def create(self, token: str, workflow: Raw) -> Raw:
        """Make one; a name that is taken is a conflict."""


class KubernetesWorkflows:
    """Workflows on an API server; make one with `kubernetes_workflows`."""

    def __init__(self, session: aiohttp.ClientSession, server: str) -> None:
        self._session = session
        self._server = server

    async def get(self, token: str, namespace: str, name: str) -> Raw:
        """See the port."""
        return await self._ask("GET", token, namespace, name)

    async def patch(self, token: str, namespace: str, name: str, patch: Raw) -> Raw:
        """See the port."""
        return await self._ask("PATCH", token, namespace, name, patch)

    async def create(self, token: str, workflow: Raw) -> Raw:
        """See the port."""
        return await self._ask("POST", token, workflow["metadata"]["namespace"], "", workflow)

    async def _ask(
        self, method: str, token: str, namespace: str, name: str, body: Raw | None = None
    ) -> Raw:
        base = f"{self._server}/apis/{GROUP}/{VERSION}/namespaces/{quote(namespace, safe='')}"
        path = f"{base}/workflows" + (f"/{quote(name, safe='')}" if name else "")
        form = _MERGE_PATCH if method == "PATCH" else "application/json"
        headers = {"Authorization": f"Bearer {token}", "Content-Type": form}
        data = None if body is None else orjson.dumps(body)
        try:
            async with self._session.request(method, path, data=data, headers=headers) as answer:
                told: Raw = orjson.loads(await answer.read())
                if answer.status >= _REFUSED:
                    raise _refusal(answer.status, str(told.get("message", "")), namespace, name)
                return told
        except (aiohttp.ClientError, TimeoutError, orjson.JSONDecodeError) as error:
            raise UnavailableError(f"the API server does not answer: {error}") from error


def _refusal(status: int, message: str, namespace: str, name: str) -> SeedbedError:
    match status:
        case 401:
            return UnauthenticatedError(message)
        case 403:
            return ForbiddenError(message)
        case 404:
            return NotFoundError("Workflow", f"{namespace}/{name}")
        case 409:
            return ConflictError(message)
        case 400 | 422:
            return InvalidError("workflow", message)
    return UnavailableError(f"the API server answered {status}: {message}")


@asynccontextmanager
async def kubernetes_workflows(
    server: str = "", account: Path = ACCOUNT
) -> AsyncIterator[KubernetesWorkflows]:
    """Workflows of the cluster that this pod runs in; arguments as in `kubernetes_access`."""
    async with api_server(server, account) as (session, found):
        yield KubernetesWorkflows(session, found)
