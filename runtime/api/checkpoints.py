"""Checkpoints over HTTP: list, take, look at, go back to, fork from.

GET  /api/v3/workflows/{namespace}/{name}/checkpoints       of the newest run, or of `?run=`
POST /api/v3/workflows/{namespace}/{name}/checkpoints       take one now
GET  /api/v3/workflows/{namespace}/{name}/checkpoints/{id}  one, by number or UUID
POST /api/v3/workflows/{namespace}/{name}/restore           `{"checkpoint": NUMBER_OR_UUID}`
POST /api/v3/workflows/{namespace}/{name}/fork              `{"name": ..., "checkpoint"?: ..., "params"?: {}}`

Reading needs the right to get the Workflow, taking one the right to update it. Restoring and forking
patch and create Workflows with the caller's own token.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypedDict

import orjson
from aiohttp import web

from seedbed.crds.addresses import engine_address, partition_of
from seedbed.crds.checkpoint import forked, restored
from seedbed.crds.engine_requests import TakeCheckpoint
from seedbed.crds.errors import InvalidError, NotFoundError, UnavailableError
from seedbed.crds.messages import TakenCheckpoint
from seedbed.crds.wire import decode, encode
from seedbed.runtime.api.access import Action
from seedbed.runtime.api.answers import answer, bearer_token, require
from seedbed.runtime.api.objects import Workflows
from seedbed.runtime.api.runs import newest_run
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.openapi import JSON, says
from seedbed.runtime.store.checkpoints import CheckpointRow, Checkpoints
from seedbed.runtime.store.port import RunRow, Store

_ENGINE_WAIT = 30.0
_ACCEPTED, _CREATED = 202, 201


class CheckpointTold(TypedDict):
    """A checkpoint; times are Unix times."""

    id: str
    run: str
    number: int
    createdAt: float
    expiresAt: float
    cause: str
    ended: int
    total: int
    base: int | None
    contentBytes: int
    sizeBytes: int
    compressionRatio: float
    key: str
    digest: str


class CheckpointsTold(TypedDict):
    """Those of a run."""

    run: str
    checkpoints: list[CheckpointTold]


class RestoreTold(TypedDict):
    """From where a Workflow goes on."""

    workflow: str
    checkpoint: CheckpointTold


class ForkFrom(TypedDict):
    """A run, and one of its checkpoints."""

    run: str
    checkpoint: int | None


class ForkTold(TypedDict):
    """The Workflow that was made."""

    workflow: str
    forkFrom: ForkFrom


@dataclass(frozen=True, slots=True)
class Acting:
    """What the pages that change something need beside the store."""

    bus: Bus
    workflows: Workflows


class CheckpointPages:
    """The five pages; without `acting` those that change something answer 503."""

    def __init__(self, store: Store, rows: Checkpoints, acting: Acting | None) -> None:
        self._store = store
        self._rows = rows
        self._acting = acting

    def routes(self) -> list[web.RouteDef]:
        """Where they stand."""
        base = "/api/v3/workflows/{namespace}/{name}"
        return [
            web.get(f"{base}/checkpoints", self.listed),
            web.post(f"{base}/checkpoints", self.take),
            web.get(f"{base}/checkpoints/{{checkpoint_id}}", self.one),
            web.post(f"{base}/restore", self.restore),
            web.post(f"{base}/fork", self.fork),
        ]

    @says(query=("run",), answers=CheckpointsTold)
    async def listed(self, request: web.Request) -> web.Response:
        """The checkpoints of a run, oldest first."""
        row = await self._run(request, request.query.get("run"))
        found = await self._rows.of_run(row.run)
        return answer({"run": row.run, "checkpoints": [told(one) for one in found]})

    @says(query=("run",), answers=CheckpointTold)
    async def one(self, request: web.Request) -> web.Response:
        """One checkpoint."""
        wanted = request.match_info["checkpoint_id"]
        return answer(told(await self._found(request, wanted)))

    @says(status=_CREATED, answers=CheckpointTold)
    async def take(self, request: web.Request) -> web.Response:
        """Take a checkpoint of the run under way; answers when it is kept."""
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        await require(request, Action("update", "workflows", namespace, name))
        row = await newest_run(request, self._store)
        asked = encode(TakeCheckpoint(row.run))
        address = engine_address(partition_of(row.run))
        kept = await self._act().bus.request(address, asked, wait=_ENGINE_WAIT)
        taken = decode(TakenCheckpoint, kept)
        found = await self._rows.by_id(taken.id)
        if found is None:
            raise NotFoundError("Checkpoint", taken.id)
        return answer(told(found), status=_CREATED)

    @says(takes=JSON, query=("run",), status=_ACCEPTED, answers=RestoreTold)
    async def restore(self, request: web.Request) -> web.Response:
        """Have the Workflow go on from one of its checkpoints, as a new run."""
        body = await _body(request, {"checkpoint"})
        found = await self._found(request, body.get("checkpoint"))
        workflows, token = self._act().workflows, bearer_token(request)
        namespace, name = request.match_info["namespace"], request.match_info["name"]
        workflow = await workflows.get(token, namespace, name)
        patch = restored(workflow, found.run, found.number)
        await workflows.patch(token, namespace, name, patch)
        return answer({"workflow": name, "checkpoint": told(found)}, status=_ACCEPTED)

    @says(takes=JSON, query=("run",), status=_CREATED, answers=ForkTold)
    async def fork(self, request: web.Request) -> web.Response:
        """Make a Workflow that goes on from a run of this one, with other parameters."""
        body = await _body(request, {"name", "checkpoint", "params", "again"})
        new, params = body.get("name"), body.get("params") or {}
        if not isinstance(new, str) or not new:
            raise InvalidError("name", "the new Workflow needs one")
        if not isinstance(params, dict):
            raise InvalidError("params", "expected an object")
        again = body.get("again") or []
        if not isinstance(again, list) or not all(isinstance(one, str) for one in again):
            raise InvalidError("again", "expected a list of names of steps")
        wanted = body.get("checkpoint")
        found = await self._found(request, wanted) if wanted is not None else None
        run = found.run if found else (await newest_run(request, self._store)).run
        workflows, token = self._act().workflows, bearer_token(request)
        workflow = await workflows.get(
            token, request.match_info["namespace"], request.match_info["name"]
        )
        number = found.number if found else None
        manifest = forked(
            workflow, name=new, run=run, checkpoint=number, params=params, again=again
        )
        made = await workflows.create(token, manifest)
        fork = {"run": run, "checkpoint": number}
        return answer({"workflow": made["metadata"]["name"], "forkFrom": fork}, status=_CREATED)

    def _act(self) -> Acting:
        if self._acting is None:
            raise UnavailableError("this API only reads")
        return self._acting

    async def _run(self, request: web.Request, name: str | None) -> RunRow:
        newest = await newest_run(request, self._store)
        if name in (None, newest.run):
            return newest
        for row in await self._store.runs(newest.namespace, newest.workflow):
            if row.run == name:
                return row
        raise NotFoundError("Run", f"{name} of Workflow {newest.namespace}/{newest.workflow}")

    async def _found(self, request: web.Request, wanted: Any) -> CheckpointRow:
        """A checkpoint of the Workflow: of its newest run by number, of any by UUID."""
        row = await self._run(request, request.query.get("run"))
        if isinstance(wanted, str) and not wanted.isdecimal():
            found = await self._rows.by_id(wanted)
            if found is not None:
                await self._run(request, found.run)
                return found
        elif isinstance(wanted, int | str) and not isinstance(wanted, bool):
            for one in await self._rows.of_run(row.run):
                if one.number == int(wanted):
                    return one
        else:
            raise InvalidError("checkpoint", "expected a number or an id")
        raise NotFoundError("Checkpoint", f"{wanted} of {row.run}")


def told(row: CheckpointRow) -> CheckpointTold:
    """A checkpoint as the API shows it."""
    return {
        "id": row.id,
        "run": row.run,
        "number": row.number,
        "createdAt": row.created_at,
        "expiresAt": row.expires_at,
        "cause": row.cause,
        "ended": row.ended,
        "total": row.total,
        "base": row.base or None,
        "contentBytes": row.content_bytes,
        "sizeBytes": row.size_bytes,
        "compressionRatio": round(row.compression_ratio, 3),
        "key": row.key,
        "digest": row.digest,
    }


async def _body(request: web.Request, known: set[str]) -> dict[str, Any]:
    try:
        body = orjson.loads(await request.read() or b"{}")
    except orjson.JSONDecodeError as error:
        raise InvalidError("body", "expected JSON") from error
    if not isinstance(body, dict):
        raise InvalidError("body", "expected an object")
    for name in body:
        if name not in known:
            raise InvalidError(
                str(name), f"is not known here; there are {', '.join(sorted(known))}"
            )
    return body
