"""Batches of offline work over HTTP, for people; programs use OpenAI's protocol at the model service.

GET  /api/v3/batches?namespace=&after=&limit=   the newest first
GET  /api/v3/batches/ID
POST /api/v3/batches/ID/cancel                  what is done by then is kept

Who may list the namespace's Workflows may read; who may create them may cancel. Without a namespace
those of all are listed, which needs the right in all of them. A batch has OpenAI's form, and what it
cost under `seedbed`.
"""

from __future__ import annotations

import re

from aiohttp import web

from seedbed.crds.errors import InvalidError, NotFoundError
from seedbed.runtime.api.access import Action
from seedbed.runtime.api.answers import answer, require
from seedbed.runtime.llm.batch.offline.form import BatchTold, PageOf, batch_form, page_form
from seedbed.runtime.openapi import says
from seedbed.runtime.store.batches import BatchRow, SqlBatches, cancelled

MOST = 100
_LIMIT = re.compile("[0-9]{1,3}")


class BatchPages:
    """The pages."""

    def __init__(self, batches: SqlBatches) -> None:
        self._batches = batches

    def routes(self) -> list[web.RouteDef]:
        """Where they stand."""
        return [
            web.get("/api/v3/batches", self.listed),
            web.get("/api/v3/batches/{id}", self.batch),
            web.post("/api/v3/batches/{id}/cancel", self.cancel),
        ]

    @says(query=("namespace", "limit", "after"), answers=PageOf[BatchTold])
    async def listed(self, request: web.Request) -> web.Response:
        """A page of batches."""
        namespace = request.query.get("namespace", "")
        await require(request, Action("list", "workflows", namespace))
        limit = _limit(request.query.get("limit", str(MOST)))
        after = request.query.get("after", "")
        return answer(await batches_of(self._batches, namespace, after, limit))

    @says(answers=BatchTold)
    async def batch(self, request: web.Request) -> web.Response:
        """One batch."""
        row = await self._allowed(request, "list")
        return answer(batch_form(row))

    @says(answers=BatchTold)
    async def cancel(self, request: web.Request) -> web.Response:
        """Has a batch end early."""
        row = await self._allowed(request, "create")
        return answer(batch_form(await cancelled(self._batches, row.id)))

    async def _allowed(self, request: web.Request, verb: str) -> BatchRow:
        """The batch, where the caller may do so in its namespace."""
        row = await found(self._batches, request.match_info["id"])
        await require(request, Action(verb, "workflows", row.namespace))
        return row


async def found(batches: SqlBatches, name: str) -> BatchRow:
    """One batch.

    Raises:
        NotFoundError: where there is none.
    """
    row = await batches.batch(name)
    if row is None:
        raise NotFoundError("batch", name)
    return row


async def batches_of(
    batches: SqlBatches, namespace: str, after: str = "", limit: int = MOST
) -> PageOf[BatchTold]:
    """A page of batches in OpenAI's form, of a namespace or of all, behind the one named `after`."""
    behind = await found(batches, after) if after else None
    rows = await batches.listed(namespace, behind, limit + 1)
    return page_form([batch_form(row) for row in rows], limit)


def _limit(text: str) -> int:
    if not _LIMIT.fullmatch(text) or not 1 <= int(text) <= MOST:
        raise InvalidError("limit", f"must be a whole number from 1 to {MOST}")
    return int(text)
