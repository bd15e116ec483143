"""Reads a cluster for the command line, with the user's own kubeconfig and rights."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from kubernetes.aio import client, config

from seedbed.cli.api_server import WAIT, ApiServer, MissingError
from seedbed.cli.following import reconnecting
from seedbed.cli.output import age
from seedbed.cli.seedbed_api import STREAM_SECONDS, TOKEN_HEADER, Api, SeedbedApi
from seedbed.controllers.plan import Raw
from seedbed.controllers.seed_pods import SERVE_PORT, pods_name
from seedbed.crds.base import GROUP, VERSION
from seedbed.crds.errors import ConflictError, InvalidError, NotFoundError
from seedbed.crds.kinds import SEED_LAYER, Kind

_PAGE = 500
_IN_A_POD = "KUBERNETES_SERVICE_HOST"


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
    """A `Source` on a real API server; what runs have done comes from Seedbed's API.

    Attributes:
        api: Seedbed's API.
    """

    def __init__(self, opened: client.ApiClient, namespace: str, api: Api) -> None:
        self._server = ApiServer(opened)
        self._namespace = namespace
        self.api = SeedbedApi(self._server, namespace, api)

    @property
    def namespace(self) -> str:
        """The namespace of the kubeconfig's context."""
        return self._namespace

    async def objects(self, kind: Kind, namespace: str | None) -> list[Raw]:
        """Every object, page by page."""
        found: list[Raw] = []
        query: dict[str, Any] = {"limit": _PAGE}
        while True:
            page = await self._server.json(_path(kind, namespace), query)
            # Lists leave out what their items are.
            head = {"apiVersion": kind.api_version, "kind": kind.name}
            found += [{**head, **one} for one in page["items"]]
            if not page["metadata"].get("continue"):
                return found
            query["continue"] = page["metadata"]["continue"]

    async def object(self, kind: Kind, namespace: str, name: str) -> Raw:
        """One object, from the API server."""
        try:
            found: Raw = await self._server.json(_path(kind, namespace, name))
        except MissingError as error:
            raise NotFoundError(kind.name, f"{namespace}/{name}") from error
        return found

    async def events(self, obj: Raw) -> list[Mapping[str, Any]]:
        """From the core API; Events written in the new form count there too."""
        metadata = obj["metadata"]
        query = {"fieldSelector": f"involvedObject.uid={metadata['uid']}", "limit": _PAGE}
        page = await self._server.json(f"/api/v1/namespaces/{metadata['namespace']}/events", query)
        return [_event(one) for one in sorted(page["items"], key=_last_seen)]

    async def create(self, kind: Kind, obj: Raw) -> bool:
        """Create an object; False where one of its name is there, which stays as it is."""
        path = _path(kind, obj["metadata"]["namespace"])
        try:
            async with self._server.opened(path, {}, WAIT, method="POST", body=obj):
                return True
        except ConflictError:
            return False

    async def patch(self, kind: Kind, namespace: str, name: str, patch: Raw) -> None:
        """Change an object by a merge patch."""
        await self._server.patch(_path(kind, namespace, name), patch)

    async def secret(self, namespace: str, name: str) -> Raw:
        """One Secret."""
        found: Raw = await self._server.json(_secret_path(namespace, name))
        return found

    async def patch_secret(self, namespace: str, name: str, patch: Raw) -> None:
        """Change a Secret by a merge patch."""
        await self._server.patch(_secret_path(namespace, name), patch)

    @asynccontextmanager
    async def watch(
        self, kind: Kind, namespace: str, name: str
    ) -> AsyncIterator[AsyncIterator[Raw]]:
        """A watch that is made anew when the server ends it."""
        yield self._changes(kind, namespace, name)

    async def _changes(self, kind: Kind, namespace: str, name: str) -> AsyncIterator[Raw]:
        path, wait = _path(kind, namespace), STREAM_SECONDS + WAIT
        while True:
            current = await self.object(kind, namespace, name)
            yield current
            query = {
                "watch": "true",
                "fieldSelector": f"metadata.name={name}",
                "resourceVersion": current["metadata"]["resourceVersion"],
                "timeoutSeconds": STREAM_SECONDS,
            }
            async with self._server.opened(path, query, wait) as answer:
                async for line in answer.content:
                    change = json.loads(line)
                    if change["type"] == "DELETED":
                        return
                    if change["type"] == "ERROR":
                        break  # too old: read it again
                    yield change["object"]

    async def pod_logs(self, namespace: str, selector: str, lines: int) -> dict[str, str]:
        """The last lines that each pod under a label selector wrote, by pod."""
        pods = f"/api/v1/namespaces/{namespace}/pods"
        page = await self._server.json(pods, {"labelSelector": selector})
        names = [one["metadata"]["name"] for one in page["items"]]
        return {
            name: await self._server.text(f"{pods}/{name}/log", {"tailLines": lines})
            for name in names
        }

    async def seed_decisions(
        self, namespace: str, layer: str, after: int, token: str
    ) -> Sequence[Mapping[str, Any]]:
        """From the pods, through the API server."""
        await self.object(SEED_LAYER, namespace, layer)
        service = f"{pods_name(layer)}:{SERVE_PORT}"
        path = f"/api/v1/namespaces/{namespace}/services/{service}/proxy/v1/decisions"
        headers = {TOKEN_HEADER: f"Bearer {token}"} if token else {}
        found = json.loads(await self._server.text(path, {"after": after}, headers))
        told: Sequence[Mapping[str, Any]] = found["decisions"]
        return told

    async def steps(self, namespace: str, workflow: str) -> Sequence[Mapping[str, Any]]:
        """From Seedbed's API."""
        answer = await self.api.read(_run(namespace, workflow, "steps"))
        steps: Sequence[Mapping[str, Any]] = answer["steps"]
        return steps

    async def result(self, namespace: str, workflow: str) -> Any:
        """From Seedbed's API."""
        return (await self.api.read(_run(namespace, workflow, "result")))["result"]

    async def checkpoints(
        self, namespace: str, workflow: str, run: str | None
    ) -> Mapping[str, Any]:
        """From Seedbed's API."""
        query = {"run": run} if run else {}
        return await self.api.read(_run(namespace, workflow, "checkpoints"), **query)

    async def take_checkpoint(self, namespace: str, workflow: str) -> Mapping[str, Any]:
        """Have the engine take one; answers when it is kept."""
        return await self.api.send(_run(namespace, workflow, "checkpoints"))

    async def tell(
        self, namespace: str, workflow: str, page: str, body: Any, key: str = ""
    ) -> Mapping[str, Any]:
        """Tell a run something through Seedbed's API; with a key, what is sent twice counts once."""
        query = f"?key={quote(key, safe='')}" if key else ""
        return await self.api.send(_run(namespace, workflow, quote(page)) + query, body)

    async def costs(self, by: str, **given: str) -> Mapping[str, Any]:
        """From Seedbed's API."""
        query = {name: value for name, value in {"by": by, **given}.items() if value}
        return await self.api.read("/api/v3/costs", **query)

    async def routing_report(self, namespace: str) -> Mapping[str, Any]:
        """From Seedbed's API."""
        return await self.api.read("/api/v3/routing/report", namespace=namespace)

    async def cache_stats(self, namespace: str, days: int) -> Mapping[str, Any]:
        """From Seedbed's API."""
        return await self.api.read("/api/v3/cache/stats", namespace=namespace, days=days)

    async def cache_invalidate(self, namespace: str, tag: str, model: str) -> int:
        """Through Seedbed's API, which tells every gateway."""
        asked = {"namespace": namespace, "tag": tag, "model": model}
        return int((await self.api.send("/api/v3/cache/invalidate", asked))["forgotten"])

    async def batches(self, namespace: str) -> Mapping[str, Any]:
        """From Seedbed's API."""
        return await self.api.read("/api/v3/batches", namespace=namespace)

    async def batch(self, name: str) -> Mapping[str, Any]:
        """From Seedbed's API."""
        return await self.api.read(f"/api/v3/batches/{_part(name)}")

    async def cancel_batch(self, name: str) -> Mapping[str, Any]:
        """Through Seedbed's API."""
        return await self.api.send(f"/api/v3/batches/{_part(name)}/cancel")

    async def analysis(self, namespace: str, workflow: str, page: str) -> Mapping[str, Any]:
        """From Seedbed's API."""
        return await self.api.read(_run(namespace, workflow, page))

    async def picture(self, namespace: str, workflow: str, form: str) -> str:
        """From Seedbed's API."""
        return await self.api.text(_run(namespace, workflow, f"graph.svg?form={form}"))

    async def follow(self, namespace: str, workflow: str) -> AsyncIterator[Mapping[str, Any]]:
        """From Seedbed's API."""
        path = _run(namespace, workflow, "events")
        async for event in reconnecting(lambda after: self.api.stream(path, after)):
            yield event

    async def items(
        self, namespace: str, workflow: str, step: str
    ) -> AsyncIterator[Mapping[str, Any]]:
        """From Seedbed's API."""
        path = _run(namespace, workflow, f"steps/{_part(step)}/items")
        async for event in reconnecting(lambda after: self.api.stream(path, after)):
            yield event

    async def push_plan(self, namespace: str, data: bytes) -> Mapping[str, Any]:
        """Keep a document with steps in Seedbed's store."""
        return await self.api.send(f"/api/v3/plans/{_part(namespace)}", data)

    async def plans(self, namespace: str) -> Sequence[Mapping[str, Any]]:
        """The documents that a namespace keeps, the last pushed first."""
        answer = await self.api.read(f"/api/v3/plans/{_part(namespace)}")
        told: Sequence[Mapping[str, Any]] = answer["plans"]
        return told

    async def remove_plan(self, namespace: str, digest: str) -> None:
        """Forget one of them."""
        await self.api.text(f"/api/v3/plans/{_part(namespace)}/{_part(digest)}", "DELETE")


def _part(text: str) -> str:
    return quote(text, safe="")


def _run(namespace: str, workflow: str, page: str) -> str:
    """A page about the newest run of a Workflow."""
    return f"/api/v3/workflows/{namespace}/{workflow}/{page}"


def _path(kind: Kind, namespace: str | None, name: str | None = None) -> str:
    where = f"/namespaces/{_part(namespace)}" if namespace else ""
    tail = f"/{_part(name)}" if name else ""
    return f"/apis/{GROUP}/{VERSION}{where}/{kind.plural}{tail}"


def _secret_path(namespace: str, name: str) -> str:
    return f"/api/v1/namespaces/{namespace}/secrets/{name}"


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
