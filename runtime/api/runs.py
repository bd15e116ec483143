"""Runs over HTTP: what has become of a Workflow's newest run.

GET /api/v3/workflows/{namespace}/{name}          its summary
GET /api/v3/workflows/{namespace}/{name}/steps    its step log
GET /api/v3/workflows/{namespace}/{name}/result   its result, of any size
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, TypedDict

from aiohttp import web

from seedbed.crds.errors import NotFoundError
from seedbed.crds.messages import RunSummary
from seedbed.runtime.api.access import Action
from seedbed.runtime.api.answers import answer, require
from seedbed.runtime.openapi import says
from seedbed.runtime.store.port import RunRow, Store
from seedbed.runtime.workflow.history import Attempt


class History(Protocol):
    """Reads what a run has left in the store."""

    async def steps(self, run: str) -> Sequence[Attempt]:
        """Each attempt that ended, in order of the journal."""

    async def result(self, run: str) -> Any:
        """The result of a run that has ended."""


class StepLog(TypedDict):
    """What has become of a run's steps."""

    run: str
    steps: list[Attempt]


class RunResult(TypedDict):
    """The result of a run that has ended."""

    run: str
    result: Any


class RunPages:
    """The three pages. Whoever may get the Workflow may read its runs."""

    def __init__(self, store: Store, history: History) -> None:
        self._store = store
        self._history = history

    def routes(self) -> list[web.RouteDef]:
        """Where they stand."""
        base = "/api/v3/workflows/{namespace}/{name}"
        return [
            web.get(base, self.summary),
            web.get(f"{base}/steps", self.steps),
            web.get(f"{base}/result", self.result),
        ]

    @says(answers=RunSummary)
    async def summary(self, request: web.Request) -> web.Response:
        """The newest RunSummary."""
        row = await self._newest(request)
        return web.Response(body=row.summary, content_type="application/json")

    @says(answers=StepLog)
    async def steps(self, request: web.Request) -> web.Response:
        """Each execution unit, in order of the journal."""
        row = await self._newest(request)
        return answer({"run": row.run, "steps": [*await self._history.steps(row.run)]})

    @says(answers=RunResult)
    async def result(self, request: web.Request) -> web.Response:
        """The result; an error of the code `not_found` while there is none."""
        row = await self._newest(request)
        if not row.finished:
            raise NotFoundError("Result", f"of {row.run}, which has not ended")
        return answer({"run": row.run, "result": await self._history.result(row.run)})

    async def _newest(self, request: web.Request) -> RunRow:
        return await newest_run(request, self._store)


async def newest_run(request: web.Request, store: Store) -> RunRow:
    """The newest run of the Workflow that the request's path names, for who may get the Workflow.

    Raises:
        NotFoundError: where it has none.
    """
    namespace, name = request.match_info["namespace"], request.match_info["name"]
    await require(request, Action("get", "workflows", namespace, name))
    rows = await store.runs(namespace, name)
    if not rows:
        raise NotFoundError("Run", f"of Workflow {namespace}/{name}")
    return rows[0]
