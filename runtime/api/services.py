"""The live services over HTTP.

GET /api/v3/services    of `?namespace=`, or of all

A service belongs to the Pool it works for: who may list Pools may see it.
"""

from __future__ import annotations

from typing import Any, TypedDict

from aiohttp import web

from seedbed.runtime.api.access import Action
from seedbed.runtime.api.answers import answer, require
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.coordination.registry import Service, discover
from seedbed.runtime.openapi import says


class LiveService(TypedDict):
    """A service that is there."""

    name: str
    instance: str
    capabilities: list[str]
    metadata: dict[str, Any]


class LiveServices(TypedDict):
    """Those that are there."""

    services: list[LiveService]


class ServicePages:
    """The page."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def routes(self) -> list[web.RouteDef]:
        """Where it stands."""
        return [web.get("/api/v3/services", self.services)]

    @says(query=("namespace",), answers=LiveServices)
    async def services(self, request: web.Request) -> web.Response:
        """The live services, of a namespace or of all."""
        namespace = request.query.get("namespace", "")
        await require(request, Action("list", "pools", namespace))
        wanted = {"namespace": namespace} if namespace else None
        found = await discover(self._coordinator, metadata=wanted)
        return answer({"services": [told(each) for each in found]})


def told(service: Service) -> LiveService:
    """A service as JSON."""
    return {
        "name": service.name,
        "instance": service.instance,
        "capabilities": sorted(service.capabilities),
        "metadata": dict(service.metadata),
    }
