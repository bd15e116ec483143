"""Goals over HTTP: taken apart into trees of tasks, which are kept.

POST   /api/v3/tasks/decompose                       takes a goal apart; answers the tree's address
GET    /api/v3/tasks/{namespace}                     the namespace's trees
GET    /api/v3/tasks/{namespace}/{id}/hierarchy      a tree: `?under=ID&levels=N`, or `?form=html` to look at
DELETE /api/v3/tasks/{namespace}/{id}                forgets one

Who may create Workflows in the namespace may have goals taken apart, who may get, list or delete them may
do that with trees. A model is asked with the caller's own token, so that the model service counts the
caller's money.
"""

from __future__ import annotations

import asyncio
import time
from typing import TypedDict

import aiohttp
from aiohttp import web
from pydantic import Field, ValidationError

from seedbed.crds.base import Model, Name
from seedbed.crds.errors import InvalidError, NotFoundError, UnavailableError
from seedbed.crds.goal import MOST_LEVELS, MOST_TASKS, GoalTemplate, GoalText
from seedbed.runtime.api.access import Action
from seedbed.runtime.api.answers import TOKEN_HEADER, answer, require
from seedbed.runtime.openapi import JSON, Nothing, says
from seedbed.runtime.store.goals import GoalRow, Goals
from seedbed.runtime.workflow.planning.goals.model import ModelPlanner
from seedbed.runtime.workflow.planning.goals.planner import Bounds, Planner, decompose
from seedbed.runtime.workflow.planning.goals.template import TemplatePlanner, first_of
from seedbed.runtime.workflow.planning.goals.tree import (
    GoalTree,
    HierarchyTold,
    hierarchy,
    read_tree,
)
from seedbed.runtime.workflow.planning.goals.view import POLICY, page

_CREATED = 201
_LONGEST = 300.0
_AT_ONCE = 4


class Decompose(Model):
    """What a caller asks for."""

    namespace: Name = Field(description="Where the tree belongs.")
    goal: GoalText = Field(description="What is to be reached.")
    template: GoalTemplate | None = Field(default=None, description="Rules of a known domain.")
    model: str | None = Field(
        default=None, max_length=128, description="Model for goals that no rule knows."
    )
    max_tasks: int = Field(default=10_000, ge=1, le=MOST_TASKS)
    max_depth: int = Field(default=120, ge=1, le=MOST_LEVELS)
    max_calls: int = Field(default=100, ge=1, le=10_000)


class TreeTold(TypedDict):
    """A tree that is kept; `madeAt` is Unix time."""

    id: str
    goal: str
    tasks: int
    depth: int
    madeAt: float
    hierarchy: str


class TreeMade(TreeTold):
    """The same of one that was just made: what it took, and what cut it short."""

    leaves: int
    calls: int
    cut: str


class TreesTold(TypedDict):
    """Those of a namespace."""

    trees: list[TreeTold]


class GoalPages:
    """The pages.

    Args:
        goals: where trees are kept.
        gateway_url: the model service; without it only templates plan.
    """

    def __init__(self, goals: Goals, gateway_url: str = "") -> None:
        self._goals = goals
        self._gateway = gateway_url
        # Large trees take a while: the other pages must not wait for many of them.
        self._free = asyncio.Semaphore(_AT_ONCE)

    def routes(self) -> list[web.RouteDef]:
        """Where they stand."""
        one = "/api/v3/tasks/{namespace}/{id}"
        return [
            web.post("/api/v3/tasks/decompose", self.decompose),
            web.get("/api/v3/tasks/{namespace}", self.listed),
            web.get(f"{one}/hierarchy", self.hierarchy),
            web.delete(one, self.remove),
        ]

    @says(Decompose, status=_CREATED, answers=TreeMade)
    async def decompose(self, request: web.Request) -> web.Response:
        """Take a goal apart and keep the tree."""
        try:
            asked = Decompose.model_validate_json(await request.read())
        except ValidationError as error:
            raise InvalidError("body", first_of(error)) from error
        await require(request, Action("create", "workflows", asked.namespace))
        bounds = Bounds(asked.max_tasks, asked.max_depth, asked.max_calls)
        async with self._free:
            try:
                async with asyncio.timeout(_LONGEST):
                    tree = await self._tree(request, asked, bounds)
            except TimeoutError:
                message = f"the goal was not taken apart within {_LONGEST:g} s"
                raise UnavailableError(message) from None
            document = await asyncio.to_thread(tree.document)
        row = GoalRow(
            asked.namespace, tree.digest, time.time(), tree.goal, len(tree.tasks), tree.depth
        )
        await self._goals.put(row, document)
        made: TreeMade = {
            **_told(row),
            "leaves": len(tree.leaves),
            "calls": tree.calls,
            "cut": tree.cut,
        }
        return answer(made, status=_CREATED)

    async def _tree(self, request: web.Request, asked: Decompose, bounds: Bounds) -> GoalTree:
        planners: list[Planner] = []
        if asked.template is not None:
            planners.append(TemplatePlanner(asked.template))
        if asked.model is None:
            if not planners:
                raise InvalidError("body", "needs `template`, `model` or both")
            # Rules only compute: in a thread with a loop of its own nobody waits for them.
            work = decompose(asked.goal, planners, bounds)
            return await asyncio.to_thread(asyncio.run, work)
        if not self._gateway:
            raise InvalidError("model", "this API knows no model service")
        token = request.headers.get(TOKEN_HEADER) or request.headers.get("Authorization") or ""
        headers = {"Authorization": token, "X-Seedbed-Namespace": asked.namespace}
        async with aiohttp.ClientSession(self._gateway, headers=headers) as session:
            planners.append(ModelPlanner(session, asked.model))
            return await decompose(asked.goal, planners, bounds)

    @says(answers=TreesTold)
    async def listed(self, request: web.Request) -> web.Response:
        """The namespace's trees, the newest first."""
        namespace = request.match_info["namespace"]
        await require(request, Action("list", "workflows", namespace))
        return answer({"trees": [_told(row) for row in await self._goals.of_namespace(namespace)]})

    @says(query=("form", "under", "levels"), gives=(JSON, "text/html"), answers=HierarchyTold)
    async def hierarchy(self, request: web.Request) -> web.Response:
        """A tree, or the part of it below a task."""
        namespace, digest = request.match_info["namespace"], request.match_info["id"]
        await require(request, Action("get", "workflows", namespace))
        form = request.query.get("form", "json")
        if form not in ("json", "html"):
            raise InvalidError("form", "expected json or html")
        under, levels = _number(request, "under", 0), _number(request, "levels", MOST_LEVELS)
        document = await self._goals.document(namespace, digest)
        if document is None:
            raise NotFoundError("Goal tree", f"{namespace}/{digest}")
        tree = await asyncio.to_thread(read_tree, document)
        if form == "html":
            shown = await asyncio.to_thread(page, tree)
            headers = {"Content-Security-Policy": POLICY}
            return web.Response(text=shown, content_type="text/html", headers=headers)
        nested = await asyncio.to_thread(hierarchy, tree, under, levels)
        head = (
            f'{{"id":"{namespace}/{digest}","total":{len(tree.tasks)},"depth":{tree.depth},"root":'
        )
        return web.Response(body=head.encode() + nested + b"}", content_type="application/json")

    @says(answers=Nothing)
    async def remove(self, request: web.Request) -> web.Response:
        """Forget one."""
        namespace, digest = request.match_info["namespace"], request.match_info["id"]
        await require(request, Action("delete", "workflows", namespace))
        if not await self._goals.remove(namespace, digest):
            raise NotFoundError("Goal tree", f"{namespace}/{digest}")
        return answer({})


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 9:  # noqa: PLR2004  # more tasks there are never
        raise InvalidError(name, "must be a number from 0")
    return int(text)


def _told(row: GoalRow) -> TreeTold:
    return {
        "id": f"{row.namespace}/{row.digest}",
        "goal": row.goal,
        "tasks": row.tasks,
        "depth": row.depth,
        "madeAt": row.made_at,
        "hierarchy": f"/api/v3/tasks/{row.namespace}/{row.digest}/hierarchy",
    }
