"""The API server, as the operator uses it: server-side apply, deletes, events, lists.

The official client brings configuration, TLS and tokens; requests go over its connection pool as plain
JSON, because building its model objects costs more than the request.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

import aiohttp
import orjson
from kubernetes.aio import client, config
from yarl import URL

from seedbed.controllers.plan import Event, Key, Raw
from seedbed.crds.base import API_VERSION, FIELD_MANAGER
from seedbed.crds.errors import (
    ConflictError,
    FencedError,
    InvalidError,
    NotFoundError,
    SeedbedError,
    UnavailableError,
)
from seedbed.crds.kinds import BY_NAME
from seedbed.operator.metrics import Metrics
from seedbed.operator.registration import WATCHED, api_version

PAGE = 100
_TIMEOUT = aiohttp.ClientTimeout(total=15.0)
_AS_MANAGER = urlencode({"fieldManager": FIELD_MANAGER, "force": "true"})
_APPLY = {"Content-Type": "application/apply-patch+yaml"}
_JSON = {"Content-Type": "application/json"}


@asynccontextmanager
async def connected(metrics: Metrics | None = None) -> AsyncIterator[KubernetesCluster]:
    """The cluster of the pod this runs in, or of the kubeconfig."""
    settings = client.Configuration()
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        config.load_incluster_config(settings)
    else:
        await config.load_kube_config(os.environ.get("KUBECONFIG"), client_configuration=settings)
    # With trust_env aiohttp looks for a .netrc before each request, in a thread: half of all the CPU.
    settings.client_session_kwargs = {"trust_env": False}
    api = client.ApiClient(settings)
    try:
        yield KubernetesCluster(api, metrics or Metrics())
    finally:
        await api.close()


def path_of(kind: str, namespace: str, name: str = "", subresource: str = "") -> str:
    """The path of an object, or of all objects of a kind in a namespace (of all where empty)."""
    version = api_version(kind)
    plural = WATCHED[kind].plural if kind in WATCHED else BY_NAME[kind].plural
    root = f"/apis/{version}" if "/" in version else f"/api/{version}"
    space = f"/namespaces/{namespace}" if namespace else ""
    parts = [root + space, plural, name, subresource]
    return "/".join(part for part in parts if part)


class KubernetesCluster:
    """Writes to a real API server; see `Cluster`."""

    def __init__(self, api: Any, metrics: Metrics) -> None:
        self._api = api
        self._metrics = metrics

    async def apply(self, obj: Raw) -> Raw:
        """Server-side apply of a whole object."""
        metadata = obj["metadata"]
        path = path_of(obj["kind"], metadata["namespace"], metadata["name"])
        return await self._apply(path, obj)

    async def apply_status(self, obj: Raw) -> Raw:
        """Server-side apply of a status."""
        metadata = obj["metadata"]
        path = path_of(obj["kind"], metadata["namespace"], metadata["name"], "status")
        try:
            return await self._apply(path, obj)
        except InvalidError as error:
            if "newer operator leads" in str(error):
                what = f"{obj['kind']} {metadata['namespace']}/{metadata['name']}"
                raise FencedError(what, int(obj["status"]["fencingToken"])) from error
            raise

    async def _apply(self, path: str, obj: Raw) -> Raw:
        self._metrics.api_writes.labels("apply").inc()
        stored = await self.request("PATCH", f"{path}?{_AS_MANAGER}", obj, _APPLY)
        return {**stored, "kind": obj["kind"], "apiVersion": obj["apiVersion"]}

    async def delete(self, key: Key, uid: str) -> None:
        """Delete just the object with this UID."""
        body = {"preconditions": {"uid": uid}, "propagationPolicy": "Background"}
        self._metrics.api_writes.labels("delete").inc()
        try:
            await self.request("DELETE", path_of(key.kind, key.namespace, key.name), body, _JSON)
        except (NotFoundError, ConflictError):
            return

    async def record(self, about: Raw, event: Event) -> None:
        """Record an Event; the same one within its life is counted on, not written again."""
        metadata = about["metadata"]
        now = datetime.now(UTC)
        same = f"{metadata['uid']}/{event.type}/{event.reason}/{event.message}"
        digest = hashlib.sha256(same.encode()).hexdigest()[:16]
        stamp = now.strftime("%Y-%m-%dT%H:%M:%SZ")
        name = f"{metadata['name'][:200]}.{digest}"
        body = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": metadata["namespace"]},
            "involvedObject": {
                "apiVersion": API_VERSION,
                "kind": about["kind"],
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
            "type": event.type,
            "reason": event.reason,
            "message": event.message[:1024],
            "source": {"component": FIELD_MANAGER},
            "reportingComponent": FIELD_MANAGER,
            "reportingInstance": FIELD_MANAGER,
            "firstTimestamp": stamp,
            "lastTimestamp": stamp,
            "count": 1,
        }
        self._metrics.api_writes.labels("event").inc()
        path = f"/api/v1/namespaces/{metadata['namespace']}/events/{name}?{_AS_MANAGER}"
        try:
            await self.request("PATCH", path, body, _APPLY)
        except (InvalidError, NotFoundError):
            return  # the namespace is going away: nobody is left to read it

    async def objects(
        self, kind: str, namespace: str = "", selector: str = ""
    ) -> AsyncIterator[dict[str, Any]]:
        """Every object of a kind, page by page."""
        query = {"limit": str(PAGE)}
        if selector:
            query["labelSelector"] = selector
        while True:
            path = f"{path_of(kind, namespace)}?{urlencode(query)}"
            page = await self.request("GET", path)
            for item in page["items"]:
                yield {**item, "kind": kind, "apiVersion": api_version(kind)}
            following = page["metadata"].get("continue")
            if not following:
                return
            query["continue"] = following

    async def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        """One request; the answer as JSON.

        Raises:
            UnavailableError, ConflictError, NotFoundError, InvalidError: by the answer's status.
        """
        settings = self._api.configuration
        sent = {**await self._authorisation(), **(headers or {})}
        data = None if body is None else orjson.dumps(body)
        pool = self._api.rest_client.pool_manager
        if pool is None:
            pool = self._api.rest_client.pool_manager = self._api.rest_client._create_pool_manager()  # noqa: SLF001 -- made lazily by its own request only
        try:
            async with pool.request(
                method,
                URL(settings.host + path, encoded=True),
                data=data,
                headers=sent,
                timeout=_TIMEOUT,
            ) as answer:
                text = await answer.read()
                if answer.status < 400:  # noqa: PLR2004 -- HTTP: all below is success
                    found: dict[str, Any] = orjson.loads(text)
                    return found
                raise error_of(answer.status, text, answer.headers.get("Retry-After"))
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise UnavailableError(f"the API server did not answer: {error!r}") from error

    async def _authorisation(self) -> dict[str, str]:
        # It reads the pod's token file anew before the token expires.
        token = await self._api.configuration.get_api_key_with_prefix("BearerToken")
        return {"Authorization": token} if token else {}


def error_of(status: int, text: bytes, retry_after: str | None = None) -> SeedbedError:
    """The error that an answer of the API server means."""
    try:
        body = orjson.loads(text)
    except orjson.JSONDecodeError:
        body = {}
    message = str(body.get("message") or text[:300].decode(errors="replace"))
    details = body.get("details") or {}
    if status == 404:  # noqa: PLR2004 -- HTTP
        return NotFoundError(str(details.get("kind", "object")), str(details.get("name", message)))
    if status == 409:  # noqa: PLR2004 -- HTTP
        return ConflictError(message)
    if status in (400, 401, 403, 413, 422):
        causes = details.get("causes") or [{}]
        field = str(causes[0].get("field") or "object")
        return InvalidError(field, message)
    wait = float(retry_after) if retry_after and retry_after.isdigit() else None
    return UnavailableError(f"the API server answered {status}: {message}", wait)
