"""Plans over HTTP: documents with steps that are too large for an object.

POST   /api/v3/plans/{namespace}            keeps a document; answers its `url` and `sha256`
GET    /api/v3/plans/{namespace}            the namespace's plans
DELETE /api/v3/plans/{namespace}/{sha256}   forgets one; runs that began have their steps

Who may create Workflows in the namespace may push, who may list or delete them may do that.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from typing import TypedDict

from aiohttp import web

from seedbed.crds.errors import InvalidError, NotFoundError
from seedbed.crds.steps_document import DOCUMENT_LIMIT, read_steps
from seedbed.crds.steps_source import PUSHED
from seedbed.runtime.api.access import Action
from seedbed.runtime.api.answers import answer, require
from seedbed.runtime.openapi import Nothing, says
from seedbed.runtime.store.plans import PlanRow, Plans

_CREATED = 201
_CHUNK = 64 * 1024


class PlanTold(TypedDict):
    """A plan that is kept; `pushedAt` is Unix time."""

    url: str
    sha256: str
    steps: int
    bytes: int
    pushedAt: float


class PlansTold(TypedDict):
    """Those of a namespace."""

    plans: list[PlanTold]


class PlanPages:
    """The pages."""

    def __init__(self, plans: Plans) -> None:
        self._plans = plans
        # A large document takes memory while it is read.
        self._free = asyncio.Semaphore(2)

    def routes(self) -> list[web.RouteDef]:
        """Where they stand."""
        base = "/api/v3/plans/{namespace}"
        return [
            web.post(base, self.push),
            web.get(base, self.listed),
            web.delete(f"{base}/{{digest}}", self.remove),
        ]

    @says(takes="application/octet-stream", status=_CREATED, answers=PlanTold)
    async def push(self, request: web.Request) -> web.Response:
        """Keep a document, after a look at every step of it."""
        namespace = await _allowed(request, "create")
        async with self._free:
            data = await _body(request)
            steps = len(await asyncio.to_thread(read_steps, data))
        digest = hashlib.sha256(data).hexdigest()
        row = PlanRow(namespace, digest, time.time(), steps, len(data))
        await self._plans.put(row, data)
        return answer(_told(row), status=_CREATED)

    @says(answers=PlansTold)
    async def listed(self, request: web.Request) -> web.Response:
        """The namespace's plans, the last pushed first."""
        namespace = await _allowed(request, "list")
        return answer({"plans": [_told(row) for row in await self._plans.of_namespace(namespace)]})

    @says(answers=Nothing)
    async def remove(self, request: web.Request) -> web.Response:
        """Forget one."""
        namespace = await _allowed(request, "delete")
        digest = request.match_info["digest"]
        if not await self._plans.remove(namespace, digest):
            raise NotFoundError("Plan", f"{namespace}/{digest}")
        return answer({})


async def _allowed(request: web.Request, verb: str) -> str:
    namespace = request.match_info["namespace"]
    await require(request, Action(verb, "workflows", namespace))
    return namespace


async def _body(request: web.Request) -> bytes:
    """The body, larger than other pages take."""
    data = bytearray()
    async for chunk in request.content.iter_chunked(_CHUNK):
        data += chunk
        if len(data) > DOCUMENT_LIMIT:
            raise InvalidError("body", f"has more than {DOCUMENT_LIMIT} bytes")
    return bytes(data)


def _told(row: PlanRow) -> PlanTold:
    return {
        "url": f"{PUSHED}{row.digest}",
        "sha256": row.digest,
        "steps": row.steps,
        "bytes": row.size,
        "pushedAt": row.pushed_at,
    }
