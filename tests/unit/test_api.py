"""The HTTP API: nobody unknown gets in, Kubernetes says who may do what, errors name their reason."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest
from aiohttp import web

from seedbed.cli.cluster import ClusterSource
from seedbed.cli.seedbed_api import Api
from seedbed.crds.addresses import engine_address, flag_setting, partition_of
from seedbed.crds.engine_requests import Approve, Signal, decode_request
from seedbed.crds.errors import NotFoundError, UnavailableError
from seedbed.crds.feature_flag import FeatureFlagSpec
from seedbed.crds.messages import Decision, RunSummary
from seedbed.crds.wire import encode
from seedbed.runtime.api.access import (
    Access,
    Action,
    Caller,
    ForbiddenError,
    KubernetesAccess,
    UnauthenticatedError,
)
from seedbed.runtime.api.flags import LiveFlags
from seedbed.runtime.api.inbox import InboxPages
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.coordination.registry import register
from seedbed.runtime.store.port import RunRow, Store
from seedbed.runtime.telemetry.health import serving_app
from seedbed.runtime.workflow.history import Attempt
from tests.api_service import serving_api
from tests.callers import AllowAll
from tests.conftest import run_async

SUMMARY = RunSummary("r-2", "team-a", "audit", 1, "Succeeded", "")
TEAM = Caller("system:serviceaccount:team-a:bot")


class Rights:
    """Access with one known token and a list of what is allowed."""

    def __init__(self, *allowed: str) -> None:
        self._allowed = allowed

    async def caller(self, token: str) -> Caller:
        if token != "good":
            raise UnauthenticatedError("the bearer token is not valid")
        return TEAM

    async def require(self, caller: Caller, action: Action) -> None:
        if str(action) not in self._allowed:
            raise ForbiddenError(f"{caller.name} may not {action}")


class Runs:
    """A store with one Workflow's runs."""

    async def runs(self, namespace: str, workflow: str | None = None) -> list[RunRow]:
        if (namespace, workflow) == ("broken", "w"):
            raise UnavailableError("no database", retry_after=3)
        if (namespace, workflow) == ("defect", "w"):
            raise ZeroDivisionError("secret detail")
        if (namespace, workflow) == ("team-a", "running"):
            return [RunRow("r-3", 1, "team-a", "running", b"{}", b"{}", False)]
        if (namespace, workflow) != ("team-a", "audit"):
            return []
        return [RunRow("r-2", 1, "team-a", "audit", b"{}", encode(SUMMARY), True)]


class History:
    async def steps(self, run: str) -> Sequence[Attempt]:
        one: Attempt = {
            "name": "read",
            "state": "Succeeded",
            "attempt": 1,
            "started": 1.0,
            "finished": 2.0,
            "worker": run,
            "error": "",
        }
        return [one]

    async def result(self, run: str) -> Any:
        assert run == "r-2"
        return {"rows": [1.5, None, "é"]}


@asynccontextmanager
async def api(access: Access, *, token: str = "good", **pages: Any) -> AsyncIterator[Any]:
    """The API as a function: `await call(method, path, ...)` gives (status, JSON, headers)."""
    coordinator = MemoryCoordinator()
    flags = LiveFlags()
    given = {"history": History(), "coordinator": coordinator, "flags": flags, **pages}
    async with (
        serving_api(cast("Store", Runs()), access, **given) as address,
        aiohttp.ClientSession(address) as http,
    ):

        async def call(method: str, path: str, **options: Any) -> tuple[int, Any, Any]:
            headers = {"Authorization": f"Bearer {token}"} | options.pop("headers", {})
            async with http.request(method, path, headers=headers, **options) as answer:
                text = await answer.text()
                return answer.status, json.loads(text) if text else None, answer.headers

        call.address = address  # type: ignore[attr-defined]
        call.coordinator = coordinator  # type: ignore[attr-defined]
        call.flags = flags  # type: ignore[attr-defined]
        yield call


async def set_flag(call: Any, namespace: str, name: str, **spec: Any) -> None:
    data = FeatureFlagSpec(**spec).model_dump_json(by_alias=True).encode()
    await call.coordinator.put(flag_setting(namespace, name), data)
    while call.flags.decide(namespace, name, None) is None:
        await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v3/workflows/team-a/audit"),
        ("GET", "/api/v3/workflows/team-a/audit/steps"),
        ("GET", "/api/v3/workflows/team-a/audit/result"),
        ("GET", "/api/v3/workflows/team-a/audit/critical-path"),
        ("GET", "/api/v3/workflows/team-a/audit/bottlenecks"),
        ("GET", "/api/v3/workflows/team-a/audit/graph.svg"),
        ("GET", "/api/v3/services"),
        ("POST", "/ofrep/v1/evaluate/flags"),
        ("POST", "/ofrep/v1/evaluate/flags/x"),
        ("GET", "/nowhere"),
    ],
)
def test_nobody_unknown_and_nobody_without_rights_gets_in(method: str, path: str) -> None:
    async def body() -> None:
        async with api(Rights(), token="bad") as call:
            status, told, headers = await call(method, path)
            assert (status, told["error"]["code"]) == (401, "unauthenticated")
            assert headers["WWW-Authenticate"] == "Bearer"
        async with api(Rights()) as call:
            status, told, _ = await call(method, path)
            if path == "/nowhere":
                assert (status, told["error"]["code"]) == (404, "not_found")
            else:
                assert (status, told["error"]["code"]) == (403, "forbidden")
                assert "system:serviceaccount:team-a:bot may not" in told["error"]["message"]

    run_async(body())


def test_a_token_may_come_past_a_proxy() -> None:
    async def body() -> None:
        async with api(Rights("get workflows.seedbed.dev 'audit' in namespace 'team-a'")) as call:
            path = "/api/v3/workflows/team-a/audit"
            header = {"Authorization": "", "X-Seedbed-Authorization": "Bearer good"}
            status, told, _ = await call("GET", path, headers=header)
            assert (status, told["phase"]) == (200, "Succeeded")
            status, _, _ = await call("GET", path, headers={"Authorization": "Basic good"})
            assert status == 401

    run_async(body())


def test_runs_are_read() -> None:
    async def body() -> None:
        async with api(AllowAll()) as call:
            base = "/api/v3/workflows/team-a/audit"
            assert (await call("GET", base))[1]["phase"] == "Succeeded"
            assert (await call("GET", f"{base}/steps"))[1]["steps"][0]["name"] == "read"
            assert (await call("GET", f"{base}/result"))[1]["result"] == {"rows": [1.5, None, "é"]}
            status, told, _ = await call("GET", "/api/v3/workflows/team-a/running/result")
            assert (status, told["error"]["code"]) == (404, "not_found")
            assert "has not ended" in told["error"]["message"]
            status, told, _ = await call("GET", "/api/v3/workflows/team-a/other")
            assert (status, told["error"]["code"]) == (404, "not_found")
            assert "team-a/other" in told["error"]["message"]
            status, told, headers = await call("GET", "/api/v3/workflows/broken/w")
            assert (status, told["error"]["code"]) == (503, "unavailable")
            assert headers["Retry-After"] == "3"
            status, told, _ = await call("GET", "/api/v3/workflows/defect/w")
            assert status == 500
            assert "secret" not in told["error"]["message"]
            status, told, _ = await call("DELETE", base)
            assert (status, told["error"]["code"]) == (405, "method_not_allowed")

    run_async(body())


def test_health_is_for_everybody() -> None:
    async def body() -> None:
        async with api(Rights(), token="bad") as call:
            assert (await call("GET", "/healthz"))[0] == 200
            assert (await call("GET", "/openapi.json"))[0] == 200

    run_async(body())


def test_services_of_a_namespace() -> None:
    async def body() -> None:
        async with (
            api(Rights("list pools.seedbed.dev in namespace 'team-a'")) as call,
            call.coordinator.lease() as lease,
        ):
            for namespace in ("team-a", "team-b"):
                meta = {"namespace": namespace, "pool": "general"}
                await register(call.coordinator, "worker", namespace, ["steps"], meta, lease)
            status, told, _ = await call("GET", "/api/v3/services?namespace=team-a")
            assert status == 200
            assert [each["instance"] for each in told["services"]] == ["team-a"]
            assert (await call("GET", "/api/v3/services?namespace=team-b"))[0] == 403
            assert (await call("GET", "/api/v3/services"))[0] == 403

    run_async(body())


def test_a_flag_over_ofrep() -> None:
    async def body() -> None:
        rights = Rights(
            "get featureflags.seedbed.dev 'style' in namespace 'team-a'",
            "get featureflags.seedbed.dev 'absent' in namespace 'team-a'",
        )
        async with api(rights) as call:
            await set_flag(call, "team-a", "style", rollout_percentage=0, allow=("legal",))
            await set_flag(call, "team-b", "style", rollout_percentage=100)
            path = "/ofrep/v1/evaluate/flags/style"
            context = {"context": {"targetingKey": "legal", "more": 1}}
            status, told, _ = await call("POST", path, json=context)
            assert status == 200
            assert told == {
                "key": "style",
                "reason": "TARGETING_MATCH",
                "variant": "on",
                "value": True,
                "metadata": {},
            }
            assert (await call("POST", path))[1]["value"] is False
            # Another tenant's flag is out of reach.
            other = {"X-Seedbed-Namespace": "team-b"}
            assert (await call("POST", path, headers=other))[0] == 403
            status, told, _ = await call("POST", "/ofrep/v1/evaluate/flags/absent")
            assert (status, told["errorCode"]) == (404, "FLAG_NOT_FOUND")
            status, told, _ = await call("POST", path, data=b"{")
            assert (status, told["errorCode"], told["key"]) == (400, "PARSE_ERROR", "style")
            status, told, _ = await call("POST", path, json={"context": {"targetingKey": 3}})
            assert (status, told["errorCode"]) == (400, "INVALID_CONTEXT")
            await call.coordinator.delete(flag_setting("team-a", "style"))
            while (await call("POST", path))[0] != 404:
                await asyncio.sleep(0.01)

    run_async(body())


def test_all_flags_over_ofrep() -> None:
    async def body() -> None:
        async with api(Rights("list featureflags.seedbed.dev in namespace 'team-a'")) as call:
            await set_flag(call, "team-a", "b", enabled=False)
            await set_flag(call, "team-a", "a")
            await set_flag(call, "team-b", "c")
            path = "/ofrep/v1/evaluate/flags"
            status, told, headers = await call("POST", path, json={"context": {}})
            assert status == 200
            assert [(flag["key"], flag["value"]) for flag in told["flags"]] == [
                ("a", True),
                ("b", False),
            ]
            tag = {"If-None-Match": headers["ETag"]}
            assert (await call("POST", path, json={"context": {}}, headers=tag))[0] == 304
            await call.coordinator.put(flag_setting("team-a", "a"), b"no json")
            await set_flag(call, "team-a", "d")
            status, told, _ = await call("POST", path, json={"context": {}}, headers=tag)
            assert [flag["key"] for flag in told["flags"]] == ["a", "b", "d"]

    run_async(body())


@asynccontextmanager
async def reviewing(tmp_path: Path, asked: list[dict]) -> AsyncIterator[KubernetesAccess]:
    """KubernetesAccess on an API server that knows one token and one right."""

    async def review(request: web.Request) -> web.Response:
        if request.headers["Authorization"] != "Bearer own":
            return web.json_response({}, status=403)
        told = await request.json()
        asked.append(told)
        spec = told["spec"]
        if told["kind"] == "TokenReview":
            user = {"username": TEAM.name, "groups": ["g"], "extra": {"k": ["v"]}}
            status: dict = {"authenticated": True, "user": user} if spec["token"] == "good" else {}
        else:
            status = {"allowed": spec["resourceAttributes"]["name"] == "mine"}
        return web.json_response({"status": status}, status=201)

    app = web.Application()
    app.add_routes([web.post("/apis/{group}/v1/{plural}", review)])
    (tmp_path / "token").write_text("own\n")
    async with (
        serving_app(app, "127.0.0.1", 0) as port,
        aiohttp.ClientSession() as session,
    ):
        yield KubernetesAccess(session, f"http://127.0.0.1:{port}", tmp_path)


def test_kubernetes_says_who_calls_and_what_they_may_do(tmp_path: Path) -> None:
    async def body() -> None:
        asked: list[dict] = []
        async with reviewing(tmp_path, asked) as access:
            for token in ("", "bad"):
                with pytest.raises(UnauthenticatedError):
                    await access.caller(token)
            caller = await access.caller("good")
            assert caller.namespace == "team-a"
            assert caller == await access.caller("good")
            mine = Action("get", "workflows", "team-a", "mine")
            for _ in range(3):
                await access.require(caller, mine)
            with pytest.raises(ForbiddenError, match="theirs"):
                await access.require(caller, Action("get", "workflows", "team-a", "theirs"))
            # Asked once for each question, and in the caller's full name.
            assert [one["kind"] for one in asked] == ["TokenReview"] * 2 + [
                "SubjectAccessReview"
            ] * 2
            assert asked[2]["spec"] == {
                "user": TEAM.name,
                "uid": "",
                "groups": ["g"],
                "extra": {"k": ["v"]},
                "resourceAttributes": {
                    "group": "seedbed.dev",
                    "verb": "get",
                    "resource": "workflows",
                    "namespace": "team-a",
                    "name": "mine",
                },
            }
            (tmp_path / "token").write_text("expired")
            with pytest.raises(UnavailableError, match="403"):
                await access.caller("another")

    run_async(body())


class Engine:
    """A bus whose other end is an engine with one step that waits."""

    def __init__(self) -> None:
        self.asked: list[Any] = []

    async def request(self, address: str, payload: bytes, *, wait: float) -> bytes:
        assert address == engine_address(partition_of("r-3"))
        assert wait > 0
        asked = decode_request(payload)
        self.asked.append(asked)
        if isinstance(asked, Approve) and asked.step != "send":
            raise NotFoundError("step", asked.step)
        return encode(RunSummary("r-3", "team-a", "running", 1, "Running", "Running"))


GET = "get workflows.seedbed.dev 'running' in namespace 'team-a'"
APPROVE = "create workflows.seedbed.dev/approvals 'running' in namespace 'team-a'"
SIGNAL = "create workflows.seedbed.dev/events 'running' in namespace 'team-a'"


def test_a_decision_carries_the_name_of_the_caller_and_needs_a_right_of_its_own() -> None:
    async def scenario() -> None:
        engine = Engine()
        pages = InboxPages(cast("Store", Runs()), cast("Bus", engine))
        path = "/api/v3/workflows/team-a/running/approvals/send"
        body = {"decision": "approve", "comment": "figures checked"}
        async with api(Rights(GET), more=[pages]) as call:
            status, told, _ = await call("POST", path, json=body)
            assert (status, told["error"]["code"]) == (403, "forbidden")
        async with api(Rights(GET, APPROVE), more=[pages]) as call:
            status, told, _ = await call("POST", path, json=body)
            assert (status, told["decision"]["by"]) == (200, TEAM.name)
            decision = Decision("approve", TEAM.name, "figures checked")
            assert engine.asked == [Approve("r-3", "send", decision)]
            for wrong, field in (
                ({"decision": "maybe"}, "decision"),
                ({**body, "by": "somebody else"}, "by"),
                ([], "body"),
            ):
                status, told, _ = await call("POST", path, json=wrong)
                assert (status, told["error"]["code"]) == (400, "invalid")
                assert told["error"]["message"].startswith(field)
            status, told, _ = await call("POST", f"{path}-not", json=body)
            assert (status, told["error"]["code"]) == (404, "not_found")

    run_async(scenario())


def test_an_event_is_told_once_by_its_key() -> None:
    async def scenario() -> None:
        engine = Engine()
        pages = InboxPages(cast("Store", Runs()), cast("Bus", engine))
        path = "/api/v3/workflows/team-a/running/events/paid"
        async with api(Rights(GET, SIGNAL), more=[pages]) as call:
            for _ in range(2):
                key = {"Idempotency-Key": "k-1"}
                status, told, _ = await call("POST", path, json={"sum": 12}, headers=key)
                assert (status, told["id"]) == (200, "k-1")
            status, told, _ = await call("POST", f"{path}?key=k-2")
            assert (status, told["id"]) == (200, "k-2")
            for wrong in (b"{", b"[" * 900 + b"]" * 900):
                status, _, _ = await call("POST", path, data=wrong)
                assert status == 400
        one = Signal("r-3", "paid", "k-1", {"sum": 12}, TEAM.name)
        assert engine.asked == [one, one, Signal("r-3", "paid", "k-2", None, TEAM.name)]

    run_async(scenario())


def test_the_command_line_tells_a_run_through_the_api() -> None:
    async def scenario() -> None:
        engine = Engine()
        pages = InboxPages(cast("Store", Runs()), cast("Bus", engine))
        async with api(Rights(GET, APPROVE, SIGNAL), more=[pages]) as call:
            source = ClusterSource(cast("Any", None), "team-a", Api(call.address, token="good"))
            body = {"decision": "reject", "comment": "too early"}
            told = await source.tell("team-a", "running", "approvals/send", body)
            assert told["decision"]["by"] == TEAM.name
            await source.tell("team-a", "running", "events/paid", {"sum": 1}, "k 1")
        assert engine.asked == [
            Approve("r-3", "send", Decision("reject", TEAM.name, "too early")),
            Signal("r-3", "paid", "k 1", {"sum": 1}, TEAM.name),
        ]

    run_async(scenario())
