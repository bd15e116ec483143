"""Money and quality over HTTP: what model calls have cost, and what routing has learnt.

GET  /api/v3/costs?namespace=&by=&workflow=&agent=&since=   by namespace, workflow, agent, model, day or user
GET  /api/v3/routing/report?namespace=                      cost and quality by task, as curves
POST /api/v3/outcomes                                       whether an answer was good

Who may list the namespace's Workflows may read; who may create them may tell outcomes. Without a
namespace all are meant, which needs the right in all of them.
"""

from __future__ import annotations

import math
from typing import Any, NotRequired, TypedDict

from aiohttp import web
from pydantic import Field, ValidationError

from seedbed.crds.base import Model, Name
from seedbed.crds.errors import InvalidError
from seedbed.crds.invalid import invalid
from seedbed.crds.money import dollars
from seedbed.runtime.api.access import Action
from seedbed.runtime.api.answers import answer, require
from seedbed.runtime.llm.report import Report, report
from seedbed.runtime.llm.routing.marks import sent
from seedbed.runtime.llm.routing.predictor import Outcomes
from seedbed.runtime.openapi import Nothing, says
from seedbed.runtime.store.ledger import DIMENSIONS, Ledger
from seedbed.runtime.store.outcomes import OutcomeRow, OutcomeStore


class Outcome(Model):
    """Whether an answer was good; task, model and hardness are told with each answer to `auto`."""

    namespace: Name
    task: str = Field(min_length=1, max_length=128)
    model: str = Field(min_length=1, max_length=128)
    hardness: int = Field(ge=0, le=4)
    good: float = Field(ge=0, le=1)
    marks: str | None = Field(default=None, max_length=256)


class Cost(TypedDict):
    """Spending under one key, which stands under the name of the dimension; money is text."""

    namespace: NotRequired[str]
    workflow: NotRequired[str]
    agent: NotRequired[str]
    model: NotRequired[str]
    day: NotRequired[str]
    user: NotRequired[str]
    dollars: str
    calls: int
    prompt_tokens: int
    completion_tokens: int


class Costs(TypedDict):
    """Spending by one dimension, and all of it."""

    by: str
    dollars: str
    costs: list[Cost]


class CostPages:
    """The pages."""

    def __init__(self, ledger: Ledger, outcomes: OutcomeStore) -> None:
        self._ledger = ledger
        self._outcomes = outcomes

    def routes(self) -> list[web.RouteDef]:
        """Where they stand."""
        return [
            web.get("/api/v3/costs", self.costs),
            web.get("/api/v3/routing/report", self.report),
            web.post("/api/v3/outcomes", self.outcome),
        ]

    @says(query=("namespace", "by", "workflow", "agent", "since"), answers=Costs)
    async def costs(self, request: web.Request) -> web.Response:
        """Spending by one dimension, and all of it."""
        query = request.query
        namespace = query.get("namespace", "")
        await require(request, Action("list", "workflows", namespace))
        found = await spending(
            self._ledger,
            query.get("by", "model"),
            namespace=namespace,
            workflow=query.get("workflow", ""),
            agent=query.get("agent", ""),
            since=_since(query.get("since", "0")),
        )
        return answer(found)

    @says(query=("namespace",), answers=Report)
    async def report(self, request: web.Request) -> web.Response:
        """What routing knows of a namespace's tasks."""
        namespace = request.query.get("namespace", "")
        if not namespace:
            raise InvalidError("namespace", "is needed: what is learnt is never shared")
        await require(request, Action("list", "workflows", namespace))
        return answer(await curves(self._ledger, self._outcomes, namespace))

    @says(Outcome, status=201, answers=Nothing)
    async def outcome(self, request: web.Request) -> web.Response:
        """Learns one outcome."""
        try:
            found = Outcome.model_validate_json(await request.read())
        except ValidationError as error:
            raise invalid(error) from error
        await require(request, Action("create", "workflows", found.namespace))
        row = OutcomeRow(found.namespace, found.task, found.model, found.hardness, 1.0, found.good)
        shown = b"" if found.marks is None else sent(found.marks)
        await self._outcomes.add(row, shown)
        return answer({}, status=201)


async def spending(ledger: Ledger, by: str, **given: Any) -> Costs:
    """Spending as JSON; money is text, so that nothing is rounded.

    Args:
        ledger: has it.
        by: one of `DIMENSIONS`.
        given: namespace, workflow, agent, since; see `Ledger.costs`.
    """
    dimension = next((each for each in DIMENSIONS if each == by), None)
    if dimension is None:
        raise InvalidError("by", f"expected one of {', '.join(DIMENSIONS)}")
    rows = await ledger.costs(dimension, **given)
    costs: list[Cost] = []
    for row in rows:
        cost: Cost = {
            "dollars": dollars(row.nanos),
            "calls": row.calls,
            "prompt_tokens": row.prompt_tokens,
            "completion_tokens": row.completion_tokens,
        }
        cost[dimension] = row.key
        costs.append(cost)
    return {"by": by, "dollars": dollars(sum(row.nanos for row in rows)), "costs": costs}


async def curves(ledger: Ledger, outcomes: OutcomeStore, namespace: str) -> Report:
    """What routing knows of a namespace's tasks; see `report`."""
    spent = await ledger.costs("model", namespace=namespace)
    costs = {cost.key: cost.nanos / cost.calls for cost in spent if cost.calls}
    rows = await outcomes.all(namespace)
    return report([Outcomes(r.task, r.model, r.hardness, r.asked, r.good) for r in rows], costs)


def _since(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise InvalidError("since", "expected a Unix time")
    return found
