"""All runs of a Workflow over HTTP.

GET /api/v3/workflows/{namespace}/{name}/stats    how many, how long, how often well; each step too
GET /api/v3/workflows/{namespace}/{name}/runs     the newest ones, with the runs inside of them
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from seedbed.runtime.api.access import Action
from seedbed.runtime.api.answers import answer, require
from seedbed.runtime.openapi import answer_of, says
from seedbed.runtime.store.port import Store
from seedbed.runtime.workflow.record_of_runs import PAGES


class RecordPages:
    """The pages. Whoever may get the Workflow may read them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def routes(self) -> list[web.RouteDef]:
        """Where they stand."""
        base = "/api/v3/workflows/{namespace}/{name}"
        return [web.get(f"{base}/{page}", self._page(tell)) for page, tell in PAGES.items()]

    def _page(
        self, tell: Callable[[Store, str, str], Awaitable[Mapping[str, Any]]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        @says(answers=answer_of(tell))
        async def page(request: web.Request) -> web.Response:
            namespace, name = request.match_info["namespace"], request.match_info["name"]
            await require(request, Action("get", "workflows", namespace, name))
            return answer(await tell(self._store, namespace, name))

        page.__doc__ = tell.__doc__
        return page
