"""Requests to Seedbed's own API: straight, or through the API server's proxy of Services."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import aiohttp

from seedbed.cli.api_server import ERROR, WAIT, ApiServer, DeniedError, refusal
from seedbed.crds.errors import TerminalError, UnavailableError

STREAM_SECONDS = 240
"""Seconds after which a stream through the API server is opened anew."""
# The API server's proxy takes `Authorization` out; Seedbed's API reads this one too.
TOKEN_HEADER = "X-Seedbed-Authorization"  # noqa: S105 - the name of a header
_PUSH_WAIT = 120.0
_NAME_AN_ACCOUNT = (
    "the kubeconfig has no token: name a service account that may do this by `--account "
    "NAMESPACE/NAME` (you need the right to create its `serviceaccounts/token`), or give `--token`"
)
_BYTES = {"Content-Type": "application/octet-stream"}


@dataclass(frozen=True, slots=True)
class Api:
    """Where Seedbed's API is, and as whom it is asked.

    Attributes:
        url: its address; through the API server's service proxy where none is given.
        service: `namespace/service:port` in the cluster, for the proxy.
        token: bearer token; the kubeconfig's own where none is given.
        account: a service account, `NAMESPACE/NAME` or a name in the namespace of the context, whose
            token is asked for where there is none.
    """

    url: str | None = None
    service: str = ""
    token: str | None = None
    account: str | None = None

    @property
    def proxy(self) -> str:
        """Path of the service on the API server."""
        namespace, _, service = self.service.partition("/")
        return f"/api/v1/namespaces/{namespace}/services/{service}/proxy"


class SeedbedApi:
    """Seedbed's API.

    Args:
        server: the cluster's API server, which proxies and gives tokens.
        namespace: of the kubeconfig's context.
        api: where and as whom.
    """

    def __init__(self, server: ApiServer, namespace: str, api: Api) -> None:
        self._server = server
        self._namespace = namespace
        self._api = api

    async def read(self, path: str, **query: Any) -> Mapping[str, Any]:
        """What a page tells."""
        tail = f"?{urlencode(query)}" if query else ""
        told: Mapping[str, Any] = json.loads(await self.text(path + tail))
        return told

    async def send(self, path: str, data: Any = b"{}") -> Mapping[str, Any]:
        """Post bytes, or an object as JSON; what the page answers."""
        body = data if isinstance(data, bytes) else json.dumps(data).encode()
        told: Mapping[str, Any] = json.loads(await self.text(path, "POST", body))
        return told

    async def text(self, path: str, method: str = "GET", data: bytes = b"") -> str:
        """A page as text."""
        bearer = await self._bearer()
        try:
            return await self._page(path, method, data, bearer)
        except DeniedError as error:
            if method == "GET" or self._api.account or await self._own_token():
                raise
            # A user known by a certificate: the account that stands in for them may only read.
            raise DeniedError(f"{error.message}; {_NAME_AN_ACCOUNT}") from error

    @asynccontextmanager
    async def stream(self, path: str, after: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """Server-sent events behind the one of an id; from the first one where that is empty."""
        bearer = await self._bearer()
        headers = {"Last-Event-ID": after} if after else {}
        if not self._api.url:
            headers[TOKEN_HEADER] = bearer
            where = self._api.proxy + path
            async with self._server.opened(where, {}, STREAM_SECONDS, headers) as answer:
                yield answer
            return
        headers["Authorization"] = bearer
        url = f"{self._api.url.rstrip('/')}{path}"
        limit = aiohttp.ClientTimeout(total=None, sock_connect=WAIT, sock_read=4 * WAIT)
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.get(url, headers=headers) as answer,
        ):
            if answer.status >= ERROR:
                raise refusal(answer.status, await answer.text(), url)
            yield answer

    async def _page(self, path: str, method: str, data: bytes, bearer: str) -> str:
        wait = _PUSH_WAIT if data else WAIT
        if self._api.url:
            url = f"{self._api.url.rstrip('/')}{path}"
            return await _straight(url, method, data, bearer, wait)
        where, _, query = path.partition("?")
        async with self._server.opened(
            self._api.proxy + where,
            dict(parse_qsl(query)),
            wait,
            {TOKEN_HEADER: bearer, **_BYTES},
            method=method,
            body=data or None,
        ) as answer:
            return await answer.text()

    async def _bearer(self) -> str:
        """`Bearer TOKEN`: the user's own, or one that the user may ask for.

        A user known by a client certificate has no token. Who has the right to, gets one of the account
        that the user names, or else of the installation's account that may only read.

        Raises:
            DeniedError: the user has no token and may not ask for one.
        """
        if own := await self._own_token():
            return own
        namespace, name = self._account()
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        asked = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 600},
        }
        try:
            async with self._server.opened(path, {}, WAIT, method="POST", body=asked) as answer:
                return f"Bearer {(await answer.json())['status']['token']}"
        except TerminalError as error:
            told = f"no token of service account {namespace}/{name} for Seedbed's API"
            raise DeniedError(f"{told}: {error.message}; {_NAME_AN_ACCOUNT}") from error

    async def _own_token(self) -> str:
        """`Bearer TOKEN` of the user, where there is one."""
        if self._api.token:
            return f"Bearer {self._api.token}"
        return "" if self._api.account else await self._server.token()

    def _account(self) -> tuple[str, str]:
        """Namespace and name of the service account whose token stands in for the user's."""
        if self._api.account:
            namespace, _, name = self._api.account.rpartition("/")
            return quote(namespace or self._namespace, safe=""), quote(name, safe="")
        namespace, _, service = self._api.service.partition("/")
        return namespace, service.partition(":")[0].removesuffix("-api") + "-reader"


async def _straight(url: str, method: str, data: bytes, bearer: str, wait: float) -> str:
    """A page that is reached without the API server."""
    headers = {"Authorization": bearer, **_BYTES}
    try:
        async with (
            aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(wait)) as session,
            session.request(method, url, headers=headers, data=data or None) as answer,
        ):
            if answer.status >= ERROR:
                raise refusal(answer.status, await answer.text(), url)
            return await answer.text()
    except (aiohttp.ClientError, TimeoutError) as error:
        raise UnavailableError(f"{url} does not answer: {error}") from error
