"""Putting many items into JetStream at once: all are sent, then all acknowledgements are awaited.

Each item is a message of its own, so that any worker can take any of them. The server acknowledges each;
one subscription takes these answers for all puts of a connection.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import Header

_SUBJECT_FULL = 10077
"""JetStream's number of the error that a subject holds its limit."""
_NOBODY = "503"

Item = tuple[str, bytes]


@dataclass(slots=True)
class Outcome:
    """What became of items that were put.

    Attributes:
        left: those without an acknowledgement, to be put again.
        missing: whether there is no stream.
        full: whether the queue takes no more.
        refused: what else the server said, or empty.
    """

    left: list[Item] = field(default_factory=list)
    missing: bool = False
    full: bool = False
    refused: str = ""


@dataclass(slots=True)
class _Put:
    """One put under way: its items by number, without those that are acknowledged."""

    open: dict[int, Item]
    outcome: Outcome
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class Acknowledged:
    """Puts items and waits for their acknowledgements, over one connection."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._inbox = ""
        self._numbers = itertools.count()
        self._puts: dict[int, _Put] = {}
        self._opening = asyncio.Lock()

    async def put(self, subject: str, items: Sequence[Item], wait: float) -> Outcome:
        """Publish items and wait up to `wait` seconds for their acknowledgements.

        An item is its id, which makes it count once, and its payload.
        """
        await self._open()
        put = _Put({}, Outcome())
        try:
            for item in items:
                number = next(self._numbers)
                put.open[number] = item
                self._puts[number] = put
                await self._client.publish(
                    subject,
                    item[1],
                    f"{self._inbox}.{number}",
                    headers={Header.MSG_ID.value: item[0]},
                )
            try:
                async with asyncio.timeout(wait):
                    await put.ended.wait()
            except TimeoutError:
                pass
        finally:
            for number in put.open:
                self._puts.pop(number, None)
        put.outcome.left = list(put.open.values())
        return put.outcome

    async def _open(self) -> None:
        async with self._opening:
            if not self._inbox:
                inbox = self._client.new_inbox()
                await self._client.subscribe(f"{inbox}.*", cb=self._arrived)
                self._inbox = inbox

    async def _arrived(self, message: Msg) -> None:
        number = int(message.subject.rpartition(".")[2])
        put = self._puts.get(number)
        if put is None:
            return
        refused = False
        if message.headers and message.headers.get(Header.STATUS.value) == _NOBODY:
            put.outcome.missing = refused = True
        elif b'"error"' in message.data:
            self._refused(put.outcome, message.data)
            refused = True
        if not refused:
            del put.open[number], self._puts[number]
        if refused or not put.open:
            put.ended.set()

    def _refused(self, outcome: Outcome, data: bytes) -> None:
        error = json.loads(data).get("error", {})
        if error.get("err_code") == _SUBJECT_FULL:
            outcome.full = True
        else:
            outcome.refused = str(error.get("description", "refused"))
