"""Users without a token: which service account stands in for them at Seedbed's API."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from kubernetes.aio import client
from typer.main import get_command

from seedbed.cli.api_server import DeniedError
from seedbed.cli.cluster import ClusterSource
from seedbed.cli.main import app
from seedbed.cli.seedbed_api import Api
from tests.conftest import run_async

SERVICE = "seedbed-system/seedbed-api:http"
MAY_ASK_FOR = {("seedbed-system", "seedbed-reader"), ("team", "deployer"), ("ops", "deployer")}


class ApiServer:
    """An API server that knows its caller by a certificate, and Seedbed's API behind its proxy.

    Attributes:
        asked: the accounts that tokens were asked for.
    """

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []

    async def token(self, request: web.Request) -> web.Response:
        account = (request.match_info["namespace"], request.match_info["name"])
        self.asked.append(account)
        if account not in MAY_ASK_FOR:
            told = {"message": f"User kim cannot create serviceaccounts/token of {account[1]}"}
            return web.json_response(told, status=403)
        return web.json_response({"status": {"token": "/".join(account)}}, status=201)

    async def proxy(self, request: web.Request) -> web.Response:
        token = request.headers["X-Seedbed-Authorization"].removeprefix("Bearer ")
        if request.method != "GET" and "deployer" not in token:
            told = {"error": {"message": f"{token} may not change workflows"}}
            return web.json_response(told, status=403)
        return web.json_response({"plans": [], "as": token})


@asynccontextmanager
async def connected(
    account: str | None = None, token: str | None = None
) -> AsyncIterator[tuple[ClusterSource, ApiServer]]:
    server, site = ApiServer(), web.Application()
    path = "/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
    site.router.add_post(path, server.token)
    site.router.add_route("*", "/api/v1/namespaces/{tail:.*}", server.proxy)
    async with TestServer(site) as running:
        settings = client.Configuration(host=str(running.make_url("")).rstrip("/"))
        async with client.ApiClient(settings) as opened:
            yield ClusterSource(opened, "team", Api(None, SERVICE, token, account)), server


def scenario(
    body: Callable[[ClusterSource, ApiServer], Awaitable[None]], account: str | None = None
) -> None:
    async def within() -> None:
        async with connected(account) as (source, server):
            await body(source, server)

    run_async(within())


@pytest.mark.parametrize(
    ("account", "used"), [("ops/deployer", ("ops", "deployer")), ("deployer", ("team", "deployer"))]
)
def test_the_named_account_stands_in_for_who_has_no_token(
    account: str, used: tuple[str, str]
) -> None:
    async def body(source: ClusterSource, server: ApiServer) -> None:
        assert (await source.push_plan("team", b"[]"))["as"] == "/".join(used)
        assert server.asked == [used]

    scenario(body, account)


def test_who_names_none_may_read_and_is_told_how_to_write() -> None:
    async def body(source: ClusterSource, server: ApiServer) -> None:
        assert await source.plans("team") == []
        with pytest.raises(DeniedError) as refused:
            await source.push_plan("team", b"[]")
        assert "seedbed-reader may not change workflows" in refused.value.message
        assert "--account NAMESPACE/NAME" in refused.value.message

    scenario(body)


def test_an_account_that_the_user_may_not_use_is_one_clear_error() -> None:
    async def body(source: ClusterSource, server: ApiServer) -> None:
        with pytest.raises(DeniedError) as refused:
            await source.plans("team")
        assert "no token of service account team/boss" in refused.value.message
        assert "cannot create serviceaccounts/token" in refused.value.message

    scenario(body, "boss")


def test_a_token_of_the_users_own_goes_before_any_account() -> None:
    async def within() -> None:
        async with connected("deployer", token="deployer-of-my-own") as (source, server):
            assert (await source.push_plan("team", b"[]"))["as"] == "deployer-of-my-own"
            assert server.asked == []

    run_async(within())


@pytest.mark.parametrize("names", [("approve",), ("fork",), ("plan", "push"), ("signal",)])
def test_the_commands_that_change_something_take_an_account(names: tuple[str, ...]) -> None:
    command: Any = get_command(app)
    for name in names:
        command = command.commands[name]
    options = {option for each in command.params for option in each.opts}
    assert {"--account", "--token"} <= options
    guide = (Path(__file__).resolve().parents[2] / "docs/guides/install.md").read_text()
    assert "--account team-a/releaser" in guide
