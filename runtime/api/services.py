"""The live services over HTTP.

GET /api/v3/services    of `?namespace=`, or of all

A service belongs to the Pool it works for: who may list Pools may see it.
"""

from __future__ import annotations

from aiohttp import web

from seedbed.runtime.api.access import Action
from seedbed.runtime.api.answers import answer, require
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.coordination.registry import discover
from seedbed.runtime.openapi import says


class ServicePages:
    """The page."""

    def __init__(self, coordinator: Coordinator) -> None:
        self._coordinator = coordinator

    def routes(self) -> list[web.RouteDef]:
        """Where it stands."""
        return [web.get("/api/v3/services", self.services)]

    @says(query=("namespace",))
    async def services(self, request: web.Request) -> web.Response:
        """The live services, of a namespace or of all."""
        namespace = request.query.get("namespace", "")
        await require(request, Action("list", "pools", namespace))
        wanted = {"namespace": namespace} if namespace else None
        found = await discover(self._coordinator, metadata=wanted)
        return answer(
            {
                "services": [
                    {
                        "name": each.name,
                        "instance": each.instance,
                        "capabilities": sorted(each.capabilities),
                        "metadata": dict(each.metadata),
                    }
                    for each in found
                ]
            }
        )
