"""Checkpoints through the HTTP API, with operator, engine and workers behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from seedbed.cli.embedded.cluster import MemoryCluster, key_of
from seedbed.controllers.plan import Defaults, Key
from seedbed.crds.errors import ConflictError, NotFoundError
from seedbed.operator.reconciler import Reconciler
from seedbed.runtime.api.access import Action, Caller, ForbiddenError, UnauthenticatedError
from seedbed.runtime.api.app import serve
from seedbed.runtime.api.checkpoints import Acting, CheckpointPages
from seedbed.runtime.workflow.history import StoredHistory
from tests.conftest import run_async
from tests.integration.test_checkpoints import NAMESPACE, Place, opened

HEAD = {"apiVersion": "seedbed.dev/v1alpha1"}
EDITOR, READER = Caller("editor"), Caller("reader")


class Rights:
    """Two callers: one may do everything in the namespace, the other only read."""

    async def caller(self, token: str) -> Caller:
        known = {"edit": EDITOR, "read": READER}
        if token not in known:
            raise UnauthenticatedError("the bearer token is not valid")
        return known[token]

    async def require(self, caller: Caller, action: Action) -> None:
        if caller == READER and action.verb != "get":
            raise ForbiddenError(f"{caller.name} may not {action}")


class MemoryWorkflows:
    """Workflows in the embedded cluster, with rights like the API server's."""

    def __init__(self, cluster: MemoryCluster) -> None:
        self._cluster = cluster

    async def get(self, token: str, namespace: str, name: str) -> Mapping[str, Any]:
        found = self._cluster.get(Key("Workflow", namespace, name))
        if found is None:
            raise NotFoundError("Workflow", f"{namespace}/{name}")
        return found

    async def patch(
        self, token: str, namespace: str, name: str, patch: Mapping[str, Any]
    ) -> Mapping[str, Any]:
        self._check(token)
        obj = await self.get(token, namespace, name)
        return await self._cluster.apply(merged(obj, patch))

    async def create(self, token: str, workflow: Mapping[str, Any]) -> Mapping[str, Any]:
        self._check(token)
        if self._cluster.get(key_of(workflow)) is not None:
            raise ConflictError("the name is taken")
        return await self._cluster.apply(workflow)

    def _check(self, token: str) -> None:
        if token != "edit":
            raise ForbiddenError("workflows is forbidden")


def merged(obj: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, Mapping):
        return patch
    made = dict(obj) if isinstance(obj, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            made.pop(name, None)
        else:
            made[name] = merged(made.get(name), value)
    return made


class Api:
    """The API as a user has it, and the cluster behind it."""

    http: aiohttp.ClientSession

    def __init__(self, cluster: MemoryCluster) -> None:
        self.cluster = cluster

    async def __call__(
        self, method: str, path: str, body: Any = None, token: str = "edit"
    ) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"}
        url = f"/api/v3/workflows/{NAMESPACE}/{path}"
        async with self.http.request(method, url, json=body, headers=headers) as answer:
            return answer.status, await answer.json()

    async def pool(self, name: str) -> None:
        meta = {"name": name, "namespace": NAMESPACE}
        await self.cluster.apply({**HEAD, "kind": "Pool", "metadata": meta, "spec": {}})

    async def status(
        self, name: str, condition: Callable[[Mapping[str, Any]], bool]
    ) -> Mapping[str, Any]:
        """A Workflow's status once it is as wanted."""
        while True:
            obj = self.cluster.get(Key("Workflow", NAMESPACE, name)) or {}
            status: Mapping[str, Any] = obj.get("status") or {}
            if condition(status):
                return status
            await asyncio.sleep(0.02)


@asynccontextmanager
async def served(place: Place) -> AsyncIterator[Api]:
    cluster = MemoryCluster()
    ports: asyncio.Queue[int] = asyncio.Queue()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(place.serving())
        lease = await stack.enter_async_context(place.coordinator.lease())
        leading = await place.coordinator.campaign("operator", "me", lease)
        reconciler = Reconciler(cluster, place.bus, place.coordinator, leading, Defaults())
        cluster.listen(lambda how, obj: reconciler.notice(obj, deleted=how == "DELETED"))
        tasks = await stack.enter_async_context(asyncio.TaskGroup())
        api = Api(cluster)
        await api.pool("general")
        running = [
            tasks.create_task(reconciler.run()),
            tasks.create_task(
                serve(
                    store=place.store,
                    history=StoredHistory(place.store),
                    coordinator=place.coordinator,
                    access=Rights(),
                    host="127.0.0.1",
                    port=0,
                    more=[
                        CheckpointPages(
                            place.store, place.rows, Acting(place.bus, MemoryWorkflows(cluster))
                        )
                    ],
                    started=ports.put_nowait,
                )
            ),
        ]
        async with aiohttp.ClientSession(f"http://127.0.0.1:{await ports.get()}") as api.http:
            yield api
        for task in running:
            task.cancel()


def workflow(place: Place, name: str) -> dict[str, Any]:
    """The plan of `Place`."""
    meta = {"name": name, "namespace": NAMESPACE}
    return {**HEAD, "kind": "Workflow", "metadata": meta, "spec": dict(place.plan().spec)}


@pytest.mark.req("COG-3.1.4")
def test_create_fetch_restore_and_fork(tmp_path: Path) -> None:
    async def body() -> None:
        url = f"sqlite:///{tmp_path}/store.db"
        async with opened(tmp_path, url) as place, served(place) as api:
            steps = workflow(place, "plan")
            steps["spec"]["suspend"] = True
            await api.cluster.apply(steps)
            await api.status("plan", lambda s: s.get("phase") == "Suspended")
            status, empty = await api("POST", "plan/checkpoints")
            assert (status, empty["number"], empty["ended"]) == (201, 1, 0)
            steps["spec"]["suspend"] = False
            await api.cluster.apply(steps)
            ended = await api.status("plan", lambda s: s.get("phase") == "Succeeded")
            assert ended["lastCheckpoint"]["id"] == empty["id"]
            assert ended["lastCheckpoint"]["number"] == 1
            first = ended["runId"]
            # Fetch: by number, by id, in the list.
            listed = (await api("GET", "plan/checkpoints", token="read"))[1]
            assert listed == {"run": first, "checkpoints": [empty]}
            for name in ("1", empty["id"]):
                assert await api("GET", f"plan/checkpoints/{name}", token="read") == (200, empty)
            # Restore: a new run of the same Workflow, with the same result.
            status, told = await api("POST", "plan/restore", {"checkpoint": empty["id"]})
            assert (status, told["checkpoint"]["number"]) == (202, 1)
            again = await api.status(
                "plan", lambda s: s.get("phase") == "Succeeded" and s["runId"] != first
            )
            assert again["result"] == ended["result"]
            assert again["forkedFrom"] == {"run": first, "checkpoint": 1, "taken": 0, "again": 0}
            assert len(place.executed()) == 8
            status, refused = await api("POST", f"plan/restore?run={first}", {"checkpoint": 1})
            assert (status, refused["error"]["code"]) == (409, "conflict")
            # Fork: another Workflow, another parameter.
            wish = {"name": "other", "params": {"word": "b"}}
            status, told = await api("POST", "plan/fork", wish)
            assert (status, told["workflow"]) == (201, "other")
            forked = await api.status("other", lambda s: s.get("phase") == "Succeeded")
            assert forked["result"] == "second-b-aside-last"
            assert (forked["forkedFrom"]["taken"], forked["forkedFrom"]["again"]) == (2, 2)
            assert len(place.executed()) == 10
            assert (await api("POST", "plan/fork", wish))[0] == 409

    run_async(body())


def test_what_is_refused_changes_nothing(tmp_path: Path) -> None:
    async def body() -> None:
        url = f"sqlite:///{tmp_path}/store.db"
        async with opened(tmp_path, url) as place, served(place) as api:
            await api.cluster.apply(workflow(place, "plan"))
            await api.status("plan", lambda s: s.get("phase") == "Succeeded")
            before = api.cluster.get(Key("Workflow", NAMESPACE, "plan"))
            for method, path, sent, expected in (
                ("POST", "plan/checkpoints", None, 404),  # the run has ended
                ("GET", "plan/checkpoints/7", None, 404),
                ("GET", "plan/checkpoints/nothing", None, 404),
                ("GET", "plan/checkpoints?run=other", None, 404),
                ("POST", "plan/restore", {"checkpoint": 7}, 404),
                ("POST", "plan/restore", {"checkpoint": True}, 400),
                ("POST", "plan/restore", {}, 400),
                ("POST", "plan/restore", {"number": 1}, 400),
                ("POST", "plan/restore", [], 400),
                ("POST", "plan/fork", {}, 400),
                ("POST", "plan/fork", {"name": "x", "params": 3}, 400),
                ("GET", "unknown/checkpoints", None, 404),
            ):
                assert (await api(method, path, sent))[0] == expected, (path, sent)
            for path in ("plan/checkpoints", "plan/fork"):
                status, told = await api("POST", path, {"name": "x"}, token="read")
                assert (status, told["error"]["code"]) == (403, "forbidden")
            assert (await api("GET", "plan/checkpoints", token="nobody"))[0] == 401
            assert api.cluster.get(Key("Workflow", NAMESPACE, "plan")) == before
            assert api.cluster.get(Key("Workflow", NAMESPACE, "x")) is None

    run_async(body())


def test_a_running_plan_is_restored_and_its_run_says_why_it_ended(tmp_path: Path) -> None:
    async def body() -> None:
        url = f"sqlite:///{tmp_path}/store.db"
        async with opened(tmp_path, url) as place, served(place) as api:
            steps = workflow(place, "plan")
            steps["spec"]["suspend"] = True
            await api.cluster.apply(steps)
            before = await api.status("plan", lambda s: s.get("phase") == "Suspended")
            assert (await api("POST", "plan/checkpoints"))[0] == 201
            assert (await api("POST", "plan/restore", {"checkpoint": 1}))[0] == 202
            after = await api.status(
                "plan", lambda s: s["runId"] != before["runId"] and s["phase"] == "Suspended"
            )
            assert after["forkedFrom"]["run"] == before["runId"]
            ended = await place.ended(before["runId"])
            assert (ended.phase, ended.reason) == ("Failed", "Cancelled")
            assert ended.message == "another run goes on from checkpoint 1"

    run_async(body())
