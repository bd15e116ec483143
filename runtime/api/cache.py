"""The cache of model answers over HTTP.

GET  /api/v3/cache/stats?namespace=&days=   every tier counted, savings, times, the measured wrong-hit rate
POST /api/v3/cache/invalidate               {"namespace", "tag", "model"}: forget what is meant

Who may list the namespace's Workflows may read; who may create them may have answers forgotten. Without
a namespace the statistics are those of all, which needs the right in all of them.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TypedDict

from aiohttp import web
from pydantic import Field, ValidationError

from seedbed.crds.base import Model, Name
from seedbed.crds.errors import InvalidError
from seedbed.crds.invalid import invalid
from seedbed.runtime.api.access import Action
from seedbed.runtime.api.answers import answer, require
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.llm.cache.invalidation import invalidate
from seedbed.runtime.llm.cache.stats import CacheSummary, summary
from seedbed.runtime.openapi import says
from seedbed.runtime.store.answers import AnswerStore, Selection

DAYS = 30
_DAY = 86_400.0


class Forget(Model):
    """Which answers to forget; all of the namespace where neither tag nor model is given."""

    namespace: Name
    tag: str = Field(default="", max_length=64)
    model: str = Field(default="", max_length=128)


class CacheStatistics(CacheSummary):
    """What the gateways have counted since a day."""

    since: str


class Forgotten(TypedDict):
    """How many answers."""

    forgotten: int


class CachePages:
    """The pages."""

    def __init__(self, store: AnswerStore, coordinator: Coordinator | None) -> None:
        self._store = store
        self._coordinator = coordinator

    def routes(self) -> list[web.RouteDef]:
        """Where they stand."""
        return [
            web.get("/api/v3/cache/stats", self.stats),
            web.post("/api/v3/cache/invalidate", self.invalidate),
        ]

    @says(query=("namespace", "days"), answers=CacheStatistics)
    async def stats(self, request: web.Request) -> web.Response:
        """What the gateways have counted, a second ago."""
        namespace = request.query.get("namespace", "")
        await require(request, Action("list", "workflows", namespace))
        days = _days(request.query.get("days", str(DAYS)))
        return answer(await counted(self._store, namespace, days))

    @says(Forget, answers=Forgotten)
    async def invalidate(self, request: web.Request) -> web.Response:
        """Forgets answers in the store and in every gateway."""
        try:
            found = Forget.model_validate_json(await request.read())
        except ValidationError as error:
            raise invalid(error) from error
        await require(request, Action("create", "workflows", found.namespace))
        chosen = Selection(found.namespace, found.tag, found.model)
        return answer({"forgotten": await invalidate(self._store, self._coordinator, chosen)})


async def counted(store: AnswerStore, namespace: str, days: int) -> CacheStatistics:
    """The statistics of the last days, today included; see `summary`."""
    since = datetime.fromtimestamp(time.time() - (days - 1) * _DAY, UTC).strftime("%Y-%m-%d")
    return {"since": since, **summary(await store.counts(namespace, since))}


def _days(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 3650:  # noqa: PLR2004  # ten years
        raise InvalidError("days", "expected a whole number from 1 to 3650")
    return int(text)
