"""How an answer goes to its caller: its account, its headers, and streams of server-sent events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any

import orjson
from aiohttp import web

from seedbed.crds.errors import SeedbedError
from seedbed.crds.money import dollars
from seedbed.runtime.llm.answers import Account
from seedbed.runtime.llm.call import Call
from seedbed.runtime.llm.endpoints import Form
from seedbed.runtime.llm.failures import told
from seedbed.runtime.llm.requests import ChatRequest, Json

_DONE = b"data: [DONE]\n\n"
_HEAD = ("id", "created")


def account_of(*calls: Call) -> Json:
    """What the caller is told of how the answer came about; what is told of each stands in their order."""
    account: Account = {
        "model": _once(call.served_by for call in calls),
        "cost_dollars": dollars(sum(call.cost for call in calls)),
        "cost_estimated": any(each.estimated for call in calls for each in call.spent),
        "attempts": [
            {"model": each.model, "outcome": each.outcome}
            for call in calls
            for each in call.attempts
        ],
    }
    return {**account, **{name.lower(): value for name, value in _notes(calls).items()}}


def headers_of(*calls: Call) -> dict[str, str]:
    """The same in headers, as far as it is known."""
    first = calls[0]
    found = {
        "X-Seedbed-Attempts": ",".join(str(each) for call in calls for each in call.attempts),
        "X-Seedbed-Model": _once(call.served_by for call in calls)
        or (first.candidates[0] if first.candidates else ""),
        **{f"X-Seedbed-{name.replace('_', '-')}": note for name, note in _notes(calls).items()},
    }
    if all(call.served_by for call in calls):
        found["X-Seedbed-Cost"] = dollars(sum(call.cost for call in calls))
    return {name: value for name, value in found.items() if value}


def _once(names: Iterable[str]) -> str:
    return ",".join(dict.fromkeys(name for name in names if name))


def _notes(calls: Sequence[Call]) -> dict[str, str]:
    if len(calls) == 1:
        return calls[0].notes
    names = dict.fromkeys(name for call in calls for name in call.notes)
    return {name: ",".join(call.notes.get(name, "") for call in calls) for name in names}


class Stream:
    """Server-sent events for a caller.

    They begin with the first chunk, so that a refusal before it is an ordinary error.

    Args:
        http: what was asked.
        calls: made for it.
        form: turns chunks into what the page answers.

    Attributes:
        head: what all chunks of one answer have in common, as the first one says it.
    """

    def __init__(self, http: web.Request, calls: Sequence[Call], form: Form) -> None:
        request = calls[0].request
        options = request.stream_options if isinstance(request, ChatRequest) else None
        self._usage_wanted = options is not None and options.include_usage
        self._http = http
        self._calls = calls
        self._form = form
        self._response: web.StreamResponse | None = None
        self._beginning = asyncio.Lock()
        self.head: Json = {}

    @property
    def begun(self) -> bool:
        """Whether there can be no other answer any more."""
        return self._response is not None

    async def send(
        self, chunks: AsyncIterator[Json], shown: Callable[[Json], Json] = lambda chunk: chunk
    ) -> Json | None:
        """Send all chunks as `shown`, but what they tell of usage; gives the chunk that does."""
        last: Json | None = None
        response = None
        async for chunk in chunks:
            self.head = self.head or {name: chunk[name] for name in _HEAD if name in chunk}
            response = response or await self._begin()
            if chunk.get("choices"):
                told_now = (
                    chunk
                    if self._usage_wanted
                    else {k: v for k, v in chunk.items() if k != "usage"}
                )
                await response.write(_event(self._form(shown(told_now))))
            if chunk.get("usage"):
                last = chunk
        return last

    async def account(self, last: Json | None) -> None:
        """Where the caller wants it, tell the usage that stands in a chunk, and the account."""
        response = await self._begin()
        if self._usage_wanted and last is not None:
            told_last = {**last, "choices": [], "seedbed": account_of(*self._calls)}
            await response.write(_event(self._form(told_last)))

    async def break_off(self, error: SeedbedError) -> web.StreamResponse:
        """There is no other answer, so an event tells the error, and it is over."""
        await (await self._begin()).write(_event(told(error)[1]))
        return await self.end()

    async def end(self) -> web.StreamResponse:
        """It is over."""
        response = await self._begin()
        await response.write(_DONE)
        await response.write_eof()
        return response

    async def _begin(self) -> web.StreamResponse:
        async with self._beginning:
            if self._response is None:
                about = {"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
                response = web.StreamResponse(headers={**about, **headers_of(*self._calls)})
                await response.prepare(self._http)
                self._response = response
        return self._response


def _event(body: Any) -> bytes:
    return b"data: " + orjson.dumps(body) + b"\n\n"
