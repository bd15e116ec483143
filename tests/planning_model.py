"""A model service that answers planners: seeded, with a latency, and as often wrong as it is told to be."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson
from aiohttp import web

from seedbed.runtime.telemetry.health import serving_app


@dataclass
class PlanningModel:
    """What it answers, and what it was asked.

    Each goal gets `width` parts, the last of which is taken apart `levels` deep within the answer. The
    last part of each level stays open, which makes the tree deep; others are open above level `bushy`.

    Attributes:
        wrong: how many of the first answers are no plan.
        refused: how many of the first requests it refuses for now.
        requests: every request so far.
        headers: of each request.
        most_at_once: the most calls that ran at the same time.
    """

    width: int = 3
    levels: int = 5
    bushy: int = 2
    latency: float = 0.0
    seed: int = 1
    wrong: int = 0
    refused: int = 0
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    most_at_once: int = 0
    _now: int = 0

    async def chat(self, request: web.Request) -> web.Response:
        asked = await request.json()
        self.requests.append(asked)
        self.headers.append(dict(request.headers))
        self._now += 1
        self.most_at_once = max(self.most_at_once, self._now)
        await asyncio.sleep(self.latency)
        self._now -= 1
        if len(self.requests) <= self.refused:
            return web.Response(status=503)
        if len(self.requests) <= self.wrong:
            content = '{"tasks": [{"id": 99, "parent": 98, "text": "orphan", "whole": true}]}'
        else:
            content = orjson.dumps({"tasks": self._rows(asked)}).decode()
        message = {"role": "assistant", "content": content}
        return web.json_response({"choices": [{"index": 0, "message": message}]})

    def _rows(self, asked: dict[str, Any]) -> list[dict[str, Any]]:
        goals = orjson.loads(asked["messages"][1]["content"])["goals"]
        rows: list[dict[str, Any]] = []
        number = len(goals)
        for goal in goals:
            chance = random.Random(f"{self.seed}/{goal['goal']}")
            parent = goal["id"]
            for level in range(self.levels):
                for place in range(self.width):
                    number += 1
                    spine = place == self.width - 1
                    text = f"{'spine' if spine else 'part'} {chance.randrange(10**9)}"
                    whole = not spine and (len(goal["partOf"]) > self.bushy or level > self.bushy)
                    row = {"id": number, "parent": parent, "text": text, "whole": whole}
                    rows.append(row)
                parent = number
        return rows


@asynccontextmanager
async def serving(model: PlanningModel) -> AsyncIterator[aiohttp.ClientSession]:
    """A session on the model's service."""
    app = web.Application(client_max_size=2**24)
    app.add_routes([web.post("/v1/chat/completions", model.chat)])
    async with (
        serving_app(app, "127.0.0.1", 0) as port,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session
