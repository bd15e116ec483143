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
from kubernetes.aio import client

from seedbed.cli.cluster import ClusterSource
from seedbed.cli.events import acted, listed
from seedbed.cli.following import reconnecting, step_of
from seedbed.cli.seedbed_api import Api
from seedbed.crds.addresses import partition_of
from seedbed.runtime.api.access import Access, Action, Caller, ForbiddenError
from seedbed.runtime.bus.events import DeadLetter, Event
from seedbed.runtime.workflow.step_items import StepItems
from tests.api_service import serving_api
from tests.callers import AllowAll
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
async def command_line(http: aiohttp.ClientSession) -> AsyncIterator[ClusterSource]:
    """What `seedbed --api URL` uses."""
    async with client.ApiClient(client.Configuration()) as nowhere:
        yield ClusterSource(nowhere, "team", Api(url=str(http._base_url), token="mine"))


@asynccontextmanager
async def api(at: Place, access: Access | None = None) -> AsyncIterator[aiohttp.ClientSession]:
    more = {"events": at.bus.events, "items": StepItems(at.store, at.bus)}
    mine = {"Authorization": "Bearer mine"}
    async with (
        serving_api(at.store, access, coordinator=at.coordinator, **more) as url,
        aiohttp.ClientSession(url, headers=mine) as http,
    ):
        yield http


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
            # Another run of the same Workflow is not told from the middle.
            after = at.request(step("other", "echo", args={"x": 1}))
            await at.submit(after)
            for known in (ids[0], ids[-1]):
                told = await events(http, path, known)
                assert told[0]["event"] == "run.started"
                assert [e["data"]["name"] for e in told if e["event"] == "step.succeeded"] == [
                    "other"
                ]
            assert await events(http, path, told[-2]["id"]) == []

    run_async(body())


@pytest.mark.req("DSX-22")
def test_the_first_ten_of_a_hundred_items_are_there_before_the_step_has_ended(
    place: Open, tmp_path: Path
) -> None:
    async def body() -> None:
        gate = tmp_path / "gate"
        async with running(place) as at, api(at) as http:
            args = {"count": 100, "pause_at": 10, "gate": str(gate)}
            plan = at.request(
                step("many", "numbers", args=args), step("few", "squares", args={"count": 3})
            )
            await at.submit(plan)
            base = f"/api/v3/workflows/{at.namespace}/plan/steps"
            first = await events(http, f"{base}/many/items", most=10)
            assert [one["data"]["item"] for one in first] == list(range(10))
            async with http.get(base) as answer:
                assert "many" not in [one["name"] for one in (await answer.json())["steps"]]
            gate.touch()
            rest = await events(http, f"{base}/many/items", after=first[-1]["id"])
            assert [one["data"]["item"] for one in rest[:-1]] == list(range(10, 100))
            assert rest[-1]["event"] == "end"
            assert rest[-1]["data"] == {"state": "Succeeded"}
            await at.ended(plan.run)
            again = await events(http, f"{base}/many/items")
            assert again == [*first, *rest]
            async with command_line(http) as source:
                told = [one async for one in source.items(at.namespace, "plan", "few")]
            assert [one["data"].get("item") for one in told] == [0, 1, 4, None]
            squares = await events(http, f"{base}/few/items")
            assert [one["data"]["item"] for one in squares[:-1]] == [0, 1, 4]

    run_async(body())


def test_who_may_not_get_the_workflow_may_not_follow_it(tmp_path: Path) -> None:
    async def body() -> None:
        path = "/api/v3/workflows/team/plan/events"
        async with embedded(tmp_path) as at:
            for access, status in ((NoRights(), 403), (AllowAll(), 404)):
                async with api(at, access) as http, http.get(path) as answer:
                    assert answer.status == status

    run_async(body())


def test_the_command_line_follows_a_run_through_the_api(tmp_path: Path) -> None:
    async def body() -> None:
        async with running(lambda: embedded(tmp_path)) as at, api(at) as http:
            plan = at.request(
                step("first", "echo", args={"x": 1}),
                step("then", "note", needs=["first"], args={"folder": str(tmp_path), "label": "x"}),
            )
            await at.submit(plan)
            async with command_line(http) as source:
                got = [event async for event in source.follow("team", "plan")]
            told = [step_of(event) for event in got]
            states = [(one["name"], one["state"]) for one in told if one is not None]
            assert states == [
                ("first", "Scheduled"),
                ("first", "Succeeded"),
                ("then", "Scheduled"),
                ("then", "Succeeded"),
            ]
            assert [event["kind"] for event in got[-2:]] == ["run.finished", "end"]

    run_async(body())


def test_a_broken_stream_goes_on_behind_its_last_event() -> None:
    asked: list[str] = []

    class Answer:
        status = 200

        def __init__(self, *lines: bytes) -> None:
            self.lines = lines

        @property
        async def content(self) -> AsyncIterator[bytes]:
            for line in self.lines:
                yield line
            raise aiohttp.ClientPayloadError("cut")

    answers = [
        Answer(b":\n", b"\n", b"id: 1.0\n", b"event: a\n", b"data: {}\n", b"\n"),
        Answer(b"id: 1.1\n", b"event: b\n", b"data: {}\n", b"\n", b"event: end\n", b"\n"),
    ]

    @asynccontextmanager
    async def connect(after: str) -> AsyncIterator[Any]:
        asked.append(after)
        yield answers[len(asked) - 1]

    async def body() -> None:
        got = [event["id"] async for event in reconnecting(connect)]
        assert got == ["1.0", "1.1", ""]
        assert asked == ["", "1.0"]

    run_async(body())


def test_dead_letters_are_listed_replayed_and_discarded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    async def body() -> None:
        async with embedded(tmp_path) as at, api(at) as http:
            for number in range(3):
                event = Event("run-1", "invoice", 1.0, b"private", "critical")
                reason = f"cannot reach bank {number}"
                await at.bus.events.bury(DeadLetter(event, "billing", 5, reason, 2.0))
            async with command_line(http) as source:
                assert await listed(source, "json") == 0
                told = json.loads(capsys.readouterr().out)["deadLetters"]
                assert [one["number"] for one in told] == [1, 2, 3]
                assert told[0]["reason"] == "cannot reach bank 0"
                assert told[0]["event"]["kind"] == "invoice"
                assert "private" not in json.dumps(told)
                assert await acted(source, "POST", "/replay", [1], every=False) == 0
                assert await acted(source, "POST", "/replay", [1], every=False) == 1
                where = partition_of("run-1")
                async with at.bus.events.follow("billing", where, ("critical",)) as follower:
                    delivered = await follower.next(5.0)
                    assert delivered is not None
                    assert [one.payload for one in delivered.events] == [b"private"]
                assert await acted(source, "DELETE", "", [], every=True) == 0
                capsys.readouterr()
                assert await listed(source, "table") == 0
                assert capsys.readouterr().out == "no dead letters\n"
        async with embedded(tmp_path) as at, api(at, NoRights()) as http:
            for method, path in (("GET", ""), ("POST", "/1/replay"), ("DELETE", "/1")):
                async with http.request(method, f"/api/v3/dead-letters{path}") as answer:
                    assert answer.status == 403

    run_async(body())
