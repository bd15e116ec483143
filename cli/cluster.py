"""Reads a cluster for the command line, with the user's own kubeconfig and rights."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

import aiohttp
from kubernetes.aio import client, config

from seedbed.cli.following import reconnecting
from seedbed.cli.output import age
from seedbed.controllers.plan import Raw
from seedbed.controllers.seed_pods import SERVE_PORT, pods_name
from seedbed.crds.base import GROUP, VERSION
from seedbed.crds.errors import (
    ConflictError,
    InvalidError,
    NotFoundError,
    SeedbedError,
    TerminalError,
    UnavailableError,
)
from seedbed.crds.kinds import SEED_LAYER, Kind

_WAIT = 15.0
_PUSH_WAIT = 120.0
_PAGE = 500
_WATCH_SECONDS = 240
_UNAUTHORISED, _FORBIDDEN, _MISSING, _CONFLICT, _GONE, _TOO_MANY = 401, 403, 404, 409, 410, 429
_ERROR = 400
_IN_A_POD = "KUBERNETES_SERVICE_HOST"
# The API server's proxy takes `Authorization` out; Seedbed's API reads this one too.
_TOKEN_HEADER = "X-Seedbed-Authorization"  # noqa: S105 - the name of a header
_NAME_AN_ACCOUNT = (
    "the kubeconfig has no token: name a service account that may do this by `--account "
    "NAMESPACE/NAME` (you need the right to create its `serviceaccounts/token`), or give `--token`"
)
_BYTES = {"Content-Type": "application/octet-stream"}


class MissingError(TerminalError):
    """The server has no such thing."""

    code = "not_found"


class DeniedError(TerminalError):
    """The server knows the user, or not, and refuses."""

    code = "denied"


@dataclass(frozen=True, slots=True)
class Api:
    """Seedbed's own API.

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


@asynccontextmanager
async def connected(
    context: str | None = None, api: Api | None = None
) -> AsyncIterator[ClusterSource]:
    """Open the cluster that the kubeconfig names.

    Args:
        context: the kubeconfig's context; its current one where none is given.
        api: how to reach Seedbed's API, for what needs it.
    """
    settings = client.Configuration()
    try:
        namespace = await _configured(settings, context)
    except (config.ConfigException, OSError) as error:
        raise InvalidError("kubeconfig", str(error)) from error
    async with client.ApiClient(settings) as opened:
        yield ClusterSource(opened, namespace, api or Api())


async def _configured(settings: client.Configuration, context: str | None) -> str:
    """Reads how to reach the cluster: in a pod its own account, else the kubeconfig; the namespace."""
    if context is None and "KUBECONFIG" not in os.environ and _IN_A_POD in os.environ:
        config.load_incluster_config(settings)
        return _pod_namespace()
    loader = await config.load_kube_config(
        context=context, client_configuration=settings, persist_config=False
    )
    return (loader.current_context.get("context") or {}).get("namespace") or "default"


def _pod_namespace() -> str:
    return Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace").read_text().strip()


class ClusterSource:
    """A `Source` on a real API server."""

    def __init__(self, opened: client.ApiClient, namespace: str, api: Api) -> None:
        self._client = opened
        self._namespace = namespace
        self._api = api

    @property
    def namespace(self) -> str:
        """The namespace of the kubeconfig's context."""
        return self._namespace

    async def objects(self, kind: Kind, namespace: str | None) -> list[Raw]:
        """Every object, page by page."""
        found: list[Raw] = []
        query: dict[str, Any] = {"limit": _PAGE}
        while True:
            page = await self._json(_path(kind, namespace), query)
            # Lists leave out what their items are.
            head = {"apiVersion": kind.api_version, "kind": kind.name}
            found += [{**head, **one} for one in page["items"]]
            if not page["metadata"].get("continue"):
                return found
            query["continue"] = page["metadata"]["continue"]

    async def object(self, kind: Kind, namespace: str, name: str) -> Raw:
        """One object, from the API server."""
        try:
            found: Raw = await self._json(_path(kind, namespace, name))
        except MissingError as error:
            raise NotFoundError(kind.name, f"{namespace}/{name}") from error
        return found

    async def events(self, obj: Raw) -> list[Mapping[str, Any]]:
        """From the core API; Events written in the new form count there too."""
        metadata = obj["metadata"]
        query = {"fieldSelector": f"involvedObject.uid={metadata['uid']}", "limit": _PAGE}
        page = await self._json(f"/api/v1/namespaces/{metadata['namespace']}/events", query)
        return [_event(one) for one in sorted(page["items"], key=_last_seen)]

    async def create(self, kind: Kind, obj: Raw) -> bool:
        """Create an object; False where one of its name is there, which stays as it is."""
        path = _path(kind, obj["metadata"]["namespace"])
        try:
            async with self._opened(path, {}, _WAIT, method="POST", body=obj):
                return True
        except ConflictError:
            return False

    @asynccontextmanager
    async def watch(
        self, kind: Kind, namespace: str, name: str
    ) -> AsyncIterator[AsyncIterator[Raw]]:
        """A watch that is made anew when the server ends it."""
        yield self._changes(kind, namespace, name)

    async def steps(self, namespace: str, workflow: str) -> Sequence[Mapping[str, Any]]:
        """From Seedbed's API."""
        answer = await self._from_api(f"/api/v3/workflows/{namespace}/{workflow}/steps")
        steps: Sequence[Mapping[str, Any]] = answer["steps"]
        return steps

    async def result(self, namespace: str, workflow: str) -> Any:
        """From Seedbed's API."""
        answer = await self._from_api(f"/api/v3/workflows/{namespace}/{workflow}/result")
        return answer["result"]

    async def checkpoints(
        self, namespace: str, workflow: str, run: str | None
    ) -> Mapping[str, Any]:
        """From Seedbed's API."""
        query = f"?run={quote(run, safe='')}" if run else ""
        path = f"/api/v3/workflows/{namespace}/{workflow}/checkpoints{query}"
        told: Mapping[str, Any] = await self._from_api(path)
        return told

    async def take_checkpoint(self, namespace: str, workflow: str) -> Mapping[str, Any]:
        """Have the engine take one; answers when it is kept."""
        path = f"/api/v3/workflows/{namespace}/{workflow}/checkpoints"
        told: Mapping[str, Any] = json.loads(await self.text_from_api(path, "POST", b"{}"))
        return told

    async def tell(
        self, namespace: str, workflow: str, page: str, body: Any, key: str = ""
    ) -> Mapping[str, Any]:
        """Tell a run something through Seedbed's API; with a key, what is sent twice counts once."""
        query = f"?key={quote(key, safe='')}" if key else ""
        path = f"/api/v3/workflows/{namespace}/{workflow}/{quote(page)}{query}"
        data = json.dumps(body).encode()
        told: Mapping[str, Any] = json.loads(await self.text_from_api(path, "POST", data))
        return told

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Raw) -> None:
        """Change an object by a merge patch."""
        await self._patch(_path(kind, namespace, name), patch)

    async def secret(self, namespace: str, name: str) -> Raw:
        """One Secret."""
        found: Raw = await self._json(f"/api/v1/namespaces/{namespace}/secrets/{name}")
        return found

    async def patch_secret(self, namespace: str, name: str, patch: Raw) -> None:
        """Change a Secret by a merge patch."""
        await self._patch(f"/api/v1/namespaces/{namespace}/secrets/{name}", patch)

    async def _patch(self, path: str, patch: Raw) -> None:
        form = {"Content-Type": "application/merge-patch+json"}
        async with self._opened(path, {}, _WAIT, form, method="PATCH", body=patch):
            return

    async def costs(self, by: str, **given: str) -> Mapping[str, Any]:
        """From Seedbed's API."""
        query = {name: value for name, value in {"by": by, **given}.items() if value}
        told: Mapping[str, Any] = await self._from_api(f"/api/v3/costs?{urlencode(query)}")
        return told

    async def routing_report(self, namespace: str) -> Mapping[str, Any]:
        """From Seedbed's API."""
        query = urlencode({"namespace": namespace})
        told: Mapping[str, Any] = await self._from_api(f"/api/v3/routing/report?{query}")
        return told

    async def cache_stats(self, namespace: str, days: int) -> Mapping[str, Any]:
        """From Seedbed's API."""
        query = urlencode({"namespace": namespace, "days": days})
        told: Mapping[str, Any] = await self._from_api(f"/api/v3/cache/stats?{query}")
        return told

    async def cache_invalidate(self, namespace: str, tag: str, model: str) -> int:
        """Through Seedbed's API, which tells every gateway."""
        data = json.dumps({"namespace": namespace, "tag": tag, "model": model}).encode()
        told = json.loads(await self.text_from_api("/api/v3/cache/invalidate", "POST", data))
        return int(told["forgotten"])

    async def batches(self, namespace: str) -> Mapping[str, Any]:
        """From Seedbed's API."""
        query = urlencode({"namespace": namespace})
        told: Mapping[str, Any] = await self._from_api(f"/api/v3/batches?{query}")
        return told

    async def batch(self, name: str) -> Mapping[str, Any]:
        """From Seedbed's API."""
        told: Mapping[str, Any] = await self._from_api(f"/api/v3/batches/{quote(name, safe='')}")
        return told

    async def cancel_batch(self, name: str) -> Mapping[str, Any]:
        """Through Seedbed's API."""
        path = f"/api/v3/batches/{quote(name, safe='')}/cancel"
        told: Mapping[str, Any] = json.loads(await self.text_from_api(path, "POST", b"{}"))
        return told

    async def analysis(self, namespace: str, workflow: str, page: str) -> Mapping[str, Any]:
        """From Seedbed's API."""
        told: Mapping[str, Any] = await self._from_api(
            f"/api/v3/workflows/{namespace}/{workflow}/{page}"
        )
        return told

    async def seed_decisions(
        self, namespace: str, layer: str, after: int, token: str
    ) -> Sequence[Mapping[str, Any]]:
        """From the pods, through the API server."""
        await self.object(SEED_LAYER, namespace, layer)
        service = f"{pods_name(layer)}:{SERVE_PORT}"
        path = f"/api/v1/namespaces/{namespace}/services/{service}/proxy/v1/decisions"
        headers = {_TOKEN_HEADER: f"Bearer {token}"} if token else {}
        found = json.loads(await self._text(path, {"after": after}, headers))
        told: Sequence[Mapping[str, Any]] = found["decisions"]
        return told

    async def picture(self, namespace: str, workflow: str, form: str) -> str:
        """From Seedbed's API."""
        path = f"/api/v3/workflows/{namespace}/{workflow}/graph.svg?form={form}"
        return await self.text_from_api(path)

    async def follow(self, namespace: str, workflow: str) -> AsyncIterator[Mapping[str, Any]]:
        """From Seedbed's API."""
        path = f"/api/v3/workflows/{namespace}/{workflow}/events"
        async for event in reconnecting(lambda after: self._stream_from_api(path, after)):
            yield event

    async def items(
        self, namespace: str, workflow: str, step: str
    ) -> AsyncIterator[Mapping[str, Any]]:
        """From Seedbed's API."""
        path = f"/api/v3/workflows/{namespace}/{workflow}/steps/{quote(step, safe='')}/items"
        async for event in reconnecting(lambda after: self._stream_from_api(path, after)):
            yield event

    @asynccontextmanager
    async def _stream_from_api(
        self, path: str, after: str
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        bearer = await self._bearer()
        headers = {"Last-Event-ID": after} if after else {}
        if not self._api.url:
            namespace, _, service = self._api.service.partition("/")
            proxy = f"/api/v1/namespaces/{namespace}/services/{service}/proxy"
            headers[_TOKEN_HEADER] = bearer
            async with self._opened(proxy + path, {}, _WATCH_SECONDS, headers) as answer:
                yield answer
            return
        headers["Authorization"] = bearer
        url = f"{self._api.url.rstrip('/')}{path}"
        limit = aiohttp.ClientTimeout(total=None, sock_connect=_WAIT, sock_read=4 * _WAIT)
        async with (
            aiohttp.ClientSession(timeout=limit) as session,
            session.get(url, headers=headers) as answer,
        ):
            if answer.status >= _ERROR:
                raise _refusal(answer.status, await answer.text(), url)
            yield answer

    async def pod_logs(self, namespace: str, selector: str, lines: int) -> dict[str, str]:
        """The last lines that each pod under a label selector wrote, by pod."""
        pods = f"/api/v1/namespaces/{namespace}/pods"
        page = await self._json(pods, {"labelSelector": selector})
        names = [one["metadata"]["name"] for one in page["items"]]
        return {
            name: (await self._text(f"{pods}/{name}/log", {"tailLines": lines})) for name in names
        }

    async def _changes(self, kind: Kind, namespace: str, name: str) -> AsyncIterator[Raw]:
        while True:
            current = await self.object(kind, namespace, name)
            yield current
            query = {
                "watch": "true",
                "fieldSelector": f"metadata.name={name}",
                "resourceVersion": current["metadata"]["resourceVersion"],
                "timeoutSeconds": _WATCH_SECONDS,
            }
            async with self._opened(
                _path(kind, namespace), query, _WATCH_SECONDS + _WAIT
            ) as answer:
                async for line in answer.content:
                    change = json.loads(line)
                    if change["type"] == "DELETED":
                        return
                    if change["type"] == "ERROR":
                        break  # too old: read it again
                    yield change["object"]

    async def _from_api(self, path: str) -> Any:
        return json.loads(await self.text_from_api(path))

    async def push_plan(self, namespace: str, data: bytes) -> Mapping[str, Any]:
        """Keep a document with steps in Seedbed's store."""
        path = f"/api/v3/plans/{quote(namespace, safe='')}"
        told: Mapping[str, Any] = json.loads(await self.text_from_api(path, "POST", data))
        return told

    async def plans(self, namespace: str) -> Sequence[Mapping[str, Any]]:
        """The documents that a namespace keeps, the last pushed first."""
        answer = await self._from_api(f"/api/v3/plans/{quote(namespace, safe='')}")
        told: Sequence[Mapping[str, Any]] = answer["plans"]
        return told

    async def remove_plan(self, namespace: str, digest: str) -> None:
        """Forget one of them."""
        path = f"/api/v3/plans/{quote(namespace, safe='')}/{quote(digest, safe='')}"
        await self.text_from_api(path, "DELETE")

    async def text_from_api(self, path: str, method: str = "GET", data: bytes = b"") -> str:
        """A page of Seedbed's API, straight or through the API server's proxy."""
        bearer = await self._bearer()
        try:
            return await self._page(path, method, data, bearer)
        except DeniedError as error:
            if method == "GET" or self._api.account or await self._own_token():
                raise
            # A user known by a certificate: the account that stands in for them may only read.
            raise DeniedError(f"{error.message}; {_NAME_AN_ACCOUNT}") from error

    async def _page(self, path: str, method: str, data: bytes, bearer: str) -> str:
        if self._api.url:
            url = f"{self._api.url.rstrip('/')}{path}"
            return await self._plain_text(url, bearer, method, data)
        namespace, _, service = self._api.service.partition("/")
        proxy = f"/api/v1/namespaces/{namespace}/services/{service}/proxy"
        where, _, query = path.partition("?")
        told = dict(parse_qsl(query))
        wait = _PUSH_WAIT if data else _WAIT
        async with self._opened(
            proxy + where,
            told,
            wait,
            {_TOKEN_HEADER: bearer, **_BYTES},
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
            async with self._opened(path, {}, _WAIT, method="POST", body=asked) as answer:
                return f"Bearer {(await answer.json())['status']['token']}"
        except TerminalError as error:
            told = f"no token of service account {namespace}/{name} for Seedbed's API"
            raise DeniedError(f"{told}: {error.message}; {_NAME_AN_ACCOUNT}") from error

    async def _own_token(self) -> str:
        """`Bearer TOKEN` of the user, where there is one."""
        if self._api.token:
            return f"Bearer {self._api.token}"
        known = (await self._client.configuration.auth_settings()).get("BearerToken")
        return str(known["value"]) if known and not self._api.account else ""

    def _account(self) -> tuple[str, str]:
        """Namespace and name of the service account whose token stands in for the user's."""
        if self._api.account:
            namespace, _, name = self._api.account.rpartition("/")
            return quote(namespace or self._namespace, safe=""), quote(name, safe="")
        namespace, _, service = self._api.service.partition("/")
        return namespace, service.partition(":")[0].removesuffix("-api") + "-reader"

    async def _plain_text(self, url: str, bearer: str, method: str, data: bytes) -> str:
        limit = aiohttp.ClientTimeout(_PUSH_WAIT if data else _WAIT)
        headers = {"Authorization": bearer, **_BYTES}
        try:
            async with (
                aiohttp.ClientSession(timeout=limit) as session,
                session.request(method, url, headers=headers, data=data or None) as answer,
            ):
                if answer.status >= _ERROR:
                    raise _refusal(answer.status, await answer.text(), url)
                return await answer.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnavailableError(f"{url} does not answer: {error}") from error

    async def _json(self, path: str, query: Mapping[str, Any] | None = None) -> Any:
        return json.loads(await self._text(path, query))

    async def _text(
        self,
        path: str,
        query: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> str:
        async with self._opened(path, query or {}, _WAIT, headers) as answer:
            return await answer.text()

    @asynccontextmanager
    async def _opened(
        self,
        path: str,
        query: Mapping[str, Any],
        wait: float,
        headers: Mapping[str, str] | None = None,
        *,
        method: str = "GET",
        body: Mapping[str, Any] | bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        form = {"Content-Type": "application/json"} if isinstance(body, Mapping) else {}
        request = await self._client.param_serialize(
            method,
            path,
            query_params=list(query.items()),
            header_params={"Accept": "application/json", **form, **(headers or {})},
            body=body,
            auth_settings=["BearerToken"],
        )
        try:
            async with asyncio.timeout(wait):
                made = await self._client.call_api(*request, _request_timeout=wait)
                answer: aiohttp.ClientResponse = made.response
                async with answer:
                    if answer.status >= _ERROR:
                        raise _refusal(answer.status, await answer.text(), path)
                    yield answer
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            host = self._client.configuration.host
            raise UnavailableError(f"the API server at {host} does not answer: {error}") from error


def _path(kind: Kind, namespace: str | None, name: str | None = None) -> str:
    where = f"/namespaces/{quote(namespace, safe='')}" if namespace else ""
    tail = f"/{quote(name, safe='')}" if name else ""
    return f"/apis/{GROUP}/{VERSION}{where}/{kind.plural}{tail}"


def _refusal(status: int, body: str, path: str) -> SeedbedError:
    """What the server said, as one of our errors."""
    try:
        told = json.loads(body)
        message = str(told.get("message") or told.get("error", {}).get("message") or body)
    except (ValueError, AttributeError):
        message = body.strip()
    if status == _MISSING:
        return MissingError(message or f"{path}: there is no such page")
    if status in (_UNAUTHORISED, _FORBIDDEN):
        return DeniedError(message or "the server refuses: no right to do this")
    if status == _CONFLICT:
        return ConflictError(message)
    if status in (_GONE, _TOO_MANY) or status >= 500:  # noqa: PLR2004 - the server's own failures
        return UnavailableError(message or f"the server failed with {status}")
    return TerminalError(message)


def _last_seen(event: Raw) -> str:
    metadata = event["metadata"]["creationTimestamp"]
    return str(event.get("lastTimestamp") or event.get("eventTime") or metadata)


def _event(event: Raw) -> Mapping[str, Any]:
    series = event.get("series") or {}
    return {
        "type": event.get("type", ""),
        "reason": event.get("reason", ""),
        "age": age(_last_seen(event)),
        "count": series.get("count") or event.get("count") or 1,
        "message": event.get("message", ""),
    }
