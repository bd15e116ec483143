"""Events that their followers could not handle, over HTTP.

GET    /api/v3/dead-letters                   oldest first; `?after=NUMBER`, `?limit=`, at most 1,000
POST   /api/v3/dead-letters/{number}/replay   give it to its follower once more
DELETE /api/v3/dead-letters/{number}          forget it

Events are of all namespaces, so listing needs the right to list Workflows everywhere, and the rest the
right to update them everywhere. What an event carries is not shown: it may be anybody's data.
"""

from __future__ import annotations

from typing import Any, TypedDict

from aiohttp import web

from seedbed.crds.errors import InvalidError, NotFoundError
from seedbed.runtime.api.access import Action
from seedbed.runtime.api.answers import answer, require
from seedbed.runtime.bus.events import DeadLetter, EventLog
from seedbed.runtime.openapi import says

_LISTED = 100
_MOST = 1000
_LARGEST = 2**53


class DeadEvent(TypedDict):
    """An event that could not be handled, without what it carries."""

    key: str
    kind: str
    at: float
    priority: str
    partition: int
    bytes: int


class DeadLetterTold(TypedDict):
    """Such an event, and for whom it was."""

    number: int
    follower: str
    failures: int
    reason: str
    at: float
    event: DeadEvent


class DeadLetters(TypedDict):
    """Some of them."""

    deadLetters: list[DeadLetterTold]


class Done(TypedDict):
    """How many."""

    done: int


class DeadLetterPages:
    """The three pages."""

    def __init__(self, events: EventLog) -> None:
        self._events = events

    def routes(self) -> list[web.RouteDef]:
        """Where they stand."""
        base = "/api/v3/dead-letters"
        return [
            web.get(base, self.listed),
            web.post(f"{base}/{{number}}/replay", self.replay),
            web.delete(f"{base}/{{number}}", self.discard),
        ]

    @says(query=("after", "limit"), answers=DeadLetters)
    async def listed(self, request: web.Request) -> web.Response:
        """Some of them, in order of their numbers."""
        await require(request, Action("list", "workflows", ""))
        after = _number("after", request.query.get("after", "0"))
        limit = _number("limit", request.query.get("limit", str(_LISTED)))
        found = await self._events.dead_letters(after=after, limit=min(limit, _MOST))
        return answer({"deadLetters": [told(one) for one in found]})

    @says(answers=Done)
    async def replay(self, request: web.Request) -> web.Response:
        """Put it back at the end of its lane, for its follower alone."""
        return await self._done(request, await self._chosen(request, self._events.replay))

    @says(answers=Done)
    async def discard(self, request: web.Request) -> web.Response:
        """Forget it."""
        return await self._done(request, await self._chosen(request, self._events.discard))

    async def _chosen(self, request: web.Request, act: Any) -> int:
        await require(request, Action("update", "workflows", ""))
        done: int = await act((_number("number", request.match_info["number"]),))
        return done

    async def _done(self, request: web.Request, count: int) -> web.Response:
        if not count:
            raise NotFoundError("Dead letter", request.match_info["number"])
        return answer({"done": count})


def told(letter: DeadLetter) -> DeadLetterTold:
    """A dead letter as JSON."""
    event = letter.event
    return {
        "number": letter.number,
        "follower": letter.follower,
        "failures": letter.failures,
        "reason": letter.reason,
        "at": letter.at,
        "event": {
            "key": event.key,
            "kind": event.kind,
            "at": event.at,
            "priority": event.priority,
            "partition": event.lane.partition,
            "bytes": len(event.payload),
        },
    }


def _number(field: str, text: str) -> int:
    if not text.isdecimal() or int(text) > _LARGEST:
        raise InvalidError(field, f"expected a number, not {text[:40]!r}")
    return int(text)
