"""`seedbed logs --follow`, `seedbed watch --steps`: a run's steps as they go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import aiohttp

from seedbed.crds.errors import UnavailableError

Happening = Mapping[str, Any]
"""What happened: `id`, `kind` and `data`."""
Connect = Callable[[str], AbstractAsyncContextManager[aiohttp.ClientResponse]]
"""Opens the stream behind an event's id."""

_PATIENCE = 60.0
_AGAIN_SECONDS = 1.0
_NOTHING_MORE = 204

_STATES = {
    "step.scheduled": "Scheduled",
    "step.succeeded": "Succeeded",
    "step.retried": "Retrying",
    "step.replanned": "Replanned",
    "step.failed": "Failed",
    "step.skipped": "Skipped",
}


def step_of(event: Happening) -> Mapping[str, Any] | None:
    """The step that an event is about, as a line of the step log has it; None for others."""
    state = _STATES.get(event["kind"])
    if state is None:
        return None
    data = event["data"]
    if "why" in data:
        to = ", ".join(f"{name} {value}" for name, value in data["to"].items())
        data = {**data, "error": f"now {to} ({data['why']})"}
    return {"attempt": 1, **data, "state": state}


async def parsed(lines: AsyncIterable[bytes]) -> AsyncIterator[Happening]:
    """Server-sent events; only those with an id, and `end`."""
    fields: dict[str, str] = {}
    async for raw in lines:
        line = raw.decode().rstrip("\r\n")
        name, _, value = line.partition(":")
        if line and name:
            fields[name] = value.removeprefix(" ")
        elif not line and "event" in fields:
            data = json.loads(fields.get("data") or "{}")
            yield {"id": fields.get("id", ""), "kind": fields["event"], "data": data}
            fields = {}


async def reconnecting(connect: Connect) -> AsyncIterator[Happening]:
    """A stream to its end, behind the last event again where it breaks."""
    last, broken_at, reached = "", 0.0, False
    clock = asyncio.get_running_loop().time
    while True:
        try:
            async with connect(last) as answer:
                broken_at, reached = 0.0, True
                if answer.status == _NOTHING_MORE:
                    return
                async for event in parsed(answer.content):
                    last = event["id"] or last
                    yield event
                    if event["kind"] == "end":
                        return
        except (UnavailableError, aiohttp.ClientError, TimeoutError) as error:
            # What cannot be reached at all is said at once; what was, gets some time to come back.
            broken_at = broken_at or clock()
            if not reached or clock() - broken_at > _PATIENCE:
                raise UnavailableError(f"the stream of events broke: {error}") from error
        await asyncio.sleep(_AGAIN_SECONDS)
