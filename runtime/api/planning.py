"""Analysis of runs over HTTP: what holds a Workflow's newest run up, and when it will end.

GET /api/v3/workflows/{namespace}/{name}/critical-path    longest path, slack, expected end
GET /api/v3/workflows/{namespace}/{name}/bottlenecks      steps that the end waits for, slowest paths
GET /api/v3/workflows/{namespace}/{name}/optimisation     what would make the plan shorter
GET /api/v3/workflows/{namespace}/{name}/profile          where the workers' time went
GET /api/v3/workflows/{namespace}/{name}/graph.svg        a picture: `?form=gantt` (the default) or `layers`
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

from aiohttp import web

from seedbed.runtime.api.answers import answer
from seedbed.runtime.api.runs import newest_run
from seedbed.runtime.openapi import answer_of, says
from seedbed.runtime.store.port import RunRow, Store
from seedbed.runtime.workflow.planning.insight import (
    PAGES,
    Analysis,
    of_run,
)
from seedbed.runtime.workflow.planning.picture import picture_named

T = TypeVar("T")

KEPT = 4
"""Analyses of ended runs that are kept: whoever looks at one page looks at the next."""


class PlanningPages:
    """The pages. Whoever may get the Workflow may read them."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[str, Analysis] = {}

    def routes(self) -> list[web.RouteDef]:
        """Where they stand."""
        base = "/api/v3/workflows/{namespace}/{name}"
        told = [web.get(f"{base}/{page}", self._page(tell)) for page, tell in PAGES.items()]
        return [*told, web.get(f"{base}/graph.svg", self.picture)]

    def _page(
        self, tell: Callable[[Analysis], Mapping[str, Any]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        @says(answers=answer_of(tell))
        async def page(request: web.Request) -> web.Response:
            return answer(await self._told(request, tell))

        page.__doc__ = tell.__doc__
        return page

    @says(query=("form",), gives=("image/svg+xml",))
    async def picture(self, request: web.Request) -> web.Response:
        """The run over time, or as a graph."""
        form = request.query.get("form", "gantt")
        draw = picture_named(form)
        title = "Workflow {namespace}/{name}".format(**request.match_info)
        drawn = await self._told(request, lambda found: draw(found, title))
        # An SVG opened by itself may hold scripts; this one never runs any.
        headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'"}
        return web.Response(text=drawn, content_type="image/svg+xml", headers=headers)

    async def _told(self, request: web.Request, tell: Callable[[Analysis], T]) -> T:
        found = await self._analysis(await newest_run(request, self._store))
        # Large graphs take a while: the other requests must not wait for them.
        return await asyncio.to_thread(tell, found)

    async def _analysis(self, row: RunRow) -> Analysis:
        """The analysis of a run: of one that has ended, the same for all pages."""
        found = self._known.get(row.run) or await of_run(self._store, row)
        if row.finished:
            self._known[row.run] = found
            if len(self._known) > KEPT:
                # What was read longest ago stands first.
                del self._known[next(iter(self._known))]
        return found
