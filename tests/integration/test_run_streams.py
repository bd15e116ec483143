"""A run followed over HTTP while it goes, in one process and on real servers."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from seedbed.runtime.api.access import Access, Action, AllowAll, Caller, ForbiddenError
from seedbed.runtime.api.app import serve
from seedbed.runtime.workflow.history import StoredHistory
from tests.conftest import run_async
from tests.integration.test_workflow_engine import Open, Place, embedded, on_servers, running, step
from tests.servers import EtcdServer, NatsServer


@pytest.fixture(params=["embedded", "servers"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    if request.param == "embedded":
        return lambda: embedded(tmp_path)
    nats: NatsServer = request.getfixturevalue("nats_server")
    etcd: EtcdServer = request.getfixturevalue("etcd_server")
    url: str = request.getfixturevalue("postgres_url")
    return lambda: on_servers(nats, etcd, url)


class NoRights(AllowAll):
    async def require(self, caller: Caller, action: Action) -> None:
        raise ForbiddenError(f"{caller.name} may not {action}")


@asynccontextmanager
async def api(at: Place, access: Access | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    ports: asyncio.Queue[int] = asyncio.Queue()
    serving = asyncio.create_task(
        serve(
            store=at.store,
            history=StoredHistory(at.store),
            coordinator=at.coordinator,
            access=access or AllowAll(),
            host="127.0.0.1",
            port=0,
            events=at.bus.events,
            started=ports.put_nowait,
        )
    )
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{await ports.get()}") as http:
            yield http
    finally:
        serving.cancel()
        await asyncio.gather(serving, return_exceptions=True)


async def events(
    http: aiohttp.ClientSession, path: str, after: str = "", most: int = 100_000
) -> list[dict[str, Any]]:
    """Server-sent events as objects with `id`, `event` and `data`, until the end or `most`."""
    found: list[dict[str, Any]] = []
    async with http.get(path, headers={"Last-Event-ID": after} if after else {}) as answer:
        if answer.status == 204:
            return []
        assert answer.status == 200
        assert answer.content_type == "text/event-stream"
        current: dict[str, Any] = {}
        async for line in answer.content:
            text = line.decode().rstrip("\n")
            if text and not text.startswith(":"):
                name, _, value = text.partition(": ")
                current[name] = json.loads(value) if name == "data" else value
            elif current:
                if "event" in current:
                    found.append(current)
                current = {}
                if len(found) == most:
                    break
    return found


def test_a_run_is_followed_from_its_beginning_to_its_end(place: Open, tmp_path: Path) -> None:
    async def body() -> None:
        async with running(place) as at, api(at) as http:
            fan = step(
                "each",
                "note",
                forEach="lists.range(40)",
                args={"folder": str(tmp_path), "label": "x", "wait": 0.02},
            )
            plan = at.request(step("first", "echo", args={"x": 1}), {**fan, "needs": ["first"]})
            await at.submit(plan)
            path = f"/api/v3/workflows/{at.namespace}/plan/events"
            async with asyncio.TaskGroup() as tasks:
                whole = tasks.create_task(events(http, path))
                part = tasks.create_task(events(http, path, most=20))
            got, early = whole.result(), part.result()
            assert early == got[:20]
            assert got[-1]["event"] == "end"
            assert got[-2]["event"] == "run.finished"
            assert got[-2]["data"]["phase"] == "Succeeded"
            assert got[0]["event"] == "run.started"
            ids = [event["id"] for event in got[:-1]]
            assert len(set(ids)) == len(ids)
            succeeded = [e["data"]["name"] for e in got if e["event"] == "step.succeeded"]
            assert sorted(succeeded) == sorted(["first", *(f"each[{n}]" for n in range(40))])
            assert await events(http, path, ids[19]) == got[20:]
            assert await events(http, path, ids[-1]) == []

    run_async(body())


def test_who_may_not_get_the_workflow_may_not_follow_it(tmp_path: Path) -> None:
    async def body() -> None:
        path = "/api/v3/workflows/team/plan/events"
        async with embedded(tmp_path) as at:
            for access, status in ((NoRights(), 403), (AllowAll(), 404)):
                async with api(at, access) as http, http.get(path) as answer:
                    assert answer.status == status

    run_async(body())
