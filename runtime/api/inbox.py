"""What people and other systems tell a run over HTTP.

POST /api/v3/workflows/{namespace}/{name}/approvals/{step}  `{"decision": "approve"|"reject", "comment"?}`
POST /api/v3/workflows/{namespace}/{name}/events/{event}    any JSON, which becomes the waiting step's output

Each needs a right of its own, beside the one to get the Workflow: to create `workflows/approvals` or
`workflows/events`. So a person may decide without being able to edit the plan, and the decision carries
the name that Kubernetes knows the caller by. An event that may be sent twice has the header
`Idempotency-Key`, or `?key=`: of one key and run the first counts.
"""

from __future__ import annotations

import uuid
from dataclasses import asdict
from typing import Any, TypedDict

import orjson
from aiohttp import web
from pydantic import ValidationError

from seedbed.crds.addresses import engine_address, partition_of
from seedbed.crds.engine_requests import Approve, Signal
from seedbed.crds.errors import InvalidError
from seedbed.crds.flow import Approval
from seedbed.crds.invalid import invalid
from seedbed.crds.messages import Decision, RunSummary
from seedbed.crds.values import written
from seedbed.crds.wire import decode, encode
from seedbed.runtime.api.access import Action
from seedbed.runtime.api.answers import CALLER, answer, require
from seedbed.runtime.api.runs import newest_run
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.openapi import JSON, says
from seedbed.runtime.store.port import Store

KEY_HEADER = "Idempotency-Key"
_ENGINE_WAIT = 15.0
_LONGEST_KEY = 128


class ApprovalTold(TypedDict):
    """A decision that is durable."""

    run: str
    decision: Decision
    phase: str


class EventTold(TypedDict):
    """An event that is durable; `id` is its key."""

    run: str
    event: str
    id: str
    phase: str


class InboxPages:
    """The two pages."""

    def __init__(self, store: Store, bus: Bus) -> None:
        self._store = store
        self._bus = bus

    def routes(self) -> list[web.RouteDef]:
        """Where they stand."""
        base = "/api/v3/workflows/{namespace}/{name}"
        return [
            web.post(f"{base}/approvals/{{step}}", self.approve),
            web.post(f"{base}/events/{{event}}", self.signal),
        ]

    @says(Approval, answers=ApprovalTold)
    async def approve(self, request: web.Request) -> web.Response:
        """Decide about a step; answers when the decision is durable."""
        run = await self._run(request, "approvals")
        body = await _body(request)
        if isinstance(body, dict) and "by" in body:
            raise InvalidError("by", "is the caller, and is not told")
        given = _read(Approval, body)
        decision = Decision(given.decision, request[CALLER].name, given.comment)
        summary = await self._ask(Approve(run, request.match_info["step"], decision))
        return answer({"run": run, "decision": asdict(decision), "phase": summary.phase})

    @says(takes=JSON, query=("key",), answers=EventTold)
    async def signal(self, request: web.Request) -> web.Response:
        """Tell of an event; answers when it is durable."""
        run = await self._run(request, "events")
        key = request.headers.get(KEY_HEADER) or request.query.get("key") or str(uuid.uuid4())
        if len(key) > _LONGEST_KEY:
            raise InvalidError(KEY_HEADER, f"has {len(key)} characters, at most {_LONGEST_KEY}")
        name, payload = request.match_info["event"], await _body(request)
        summary = await self._ask(Signal(run, name, key, payload, request[CALLER].name))
        return answer({"run": run, "event": name, "id": key, "phase": summary.phase})

    async def _run(self, request: web.Request, right: str) -> str:
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        await require(request, Action("create", f"workflows/{right}", namespace, name))
        return (await newest_run(request, self._store)).run

    async def _ask(self, message: Approve | Signal) -> RunSummary:
        address = engine_address(partition_of(message.run))
        told = await self._bus.request(address, encode(message), wait=_ENGINE_WAIT)
        return decode(RunSummary, told)


async def _body(request: web.Request) -> Any:
    try:
        body = orjson.loads(await request.read() or b"null")
        written(body)
    except orjson.JSONDecodeError as error:
        raise InvalidError("body", "expected JSON") from error
    except TypeError as error:
        raise InvalidError("body", str(error)) from error
    return body


def _read(form: type[Approval], body: Any) -> Approval:
    try:
        return form.model_validate(body)
    except ValidationError as error:
        raise invalid(error) from error
