"""The items of one step: those that its worker has yielded so far, then the rest as they come.

While a step runs its worker is asked; once it has ended its output in the journal is the truth. A step
that yields nothing gives its output when it ends: a list item by item, anything else as one item.
"""

from __future__ import annotations

import asyncio
import re
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

from seedbed.crds.errors import InvalidError, UnavailableError
from seedbed.crds.messages import StepKey
from seedbed.runtime.bus.item_stream import WINDOW, Ask, items_after
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.store.port import Store
from seedbed.runtime.workflow.records import (
    Record,
    RunFinished,
    StepFailed,
    StepSkipped,
    StepSucceeded,
)
from seedbed.runtime.workflow.replay import records_of
from seedbed.runtime.workflow.run_events import RunEvent, position

ITEM, RESTART, END = "item", "restart", "end"

_LOOK_AGAIN = 0.5


@dataclass(frozen=True, slots=True)
class _Ended:
    """How a step ended; `items` where it succeeded."""

    state: str
    life: int = 0
    items: tuple[Any, ...] = ()
    error: str = ""


def step_key(text: str) -> StepKey:
    """`name`, or `name[index]` for one item of a forEach step.

    Raises:
        InvalidError: it is neither.
    """
    match = re.fullmatch(r"([a-z0-9.-]{1,253})(?:\[(\d{1,9})\])?", text)
    if match is None:
        raise InvalidError("step", f"expected NAME or NAME[INDEX], not {text[:80]!r}")
    return StepKey(match[1], -1 if match[2] is None else int(match[2]))


class StepItems:
    """Reads the items of steps; without a bus, only of steps that have ended."""

    def __init__(self, store: Store, bus: Bus | None) -> None:
        self._store = store
        self._bus = bus

    async def follow(
        self, run: str, key: StepKey, after: str = ""
    ) -> AsyncGenerator[RunEvent | None, None]:
        """The step's items behind an id, until it has ended; None when there is nothing new.

        An id is `ATTEMPT.NUMBER`. The event `restart` says that another attempt begins with its first
        item, `end` how the step ended.

        Raises:
            InvalidError: `after` is no id.
        """
        life, number = position(after)
        count, reader, journal = number + 1, uuid.uuid4().hex, _Journal(self._store, run, key)
        while True:
            asked = Ask(reader, life, count, most=WINDOW // 2)
            found = await self._asked(run, key, asked)
            if found is None or found.over:
                ended = await journal.look()
                if ended is not None:
                    for event in _rest(ended, life, count):
                        yield event
                    return
            if found is None:
                yield None
                await asyncio.sleep(_LOOK_AGAIN)
                continue
            if found.life != life:
                if life:
                    yield RunEvent("", RESTART, {"attempt": found.life})
                life, count = found.life, 0
            for item in found.items:
                yield _item(life, count, item)
                count += 1
            if not found.items:
                yield None
                if found.over:
                    await asyncio.sleep(_LOOK_AGAIN)

    async def _asked(self, run: str, key: StepKey, ask: Ask) -> Any:
        if self._bus is None:
            return None
        try:
            return await items_after(self._bus, f"{run}/{key}", ask)
        except UnavailableError:
            return None


class _Journal:
    """Looks for the end of one step, each time from where it looked last."""

    def __init__(self, store: Store, run: str, key: StepKey) -> None:
        self._store = store
        self._run = run
        self._key = key
        self._seen = 0

    async def look(self) -> _Ended | None:
        async for seq, record in records_of(self._store, self._run, self._seen):
            self._seen = seq
            if (ended := _ended(record, self._key)) is not None:
                return ended
        return None


def _ended(record: Record, key: StepKey) -> _Ended | None:
    match record:
        case StepSucceeded(at, attempt, output=output) if at == key:
            items = tuple(output) if isinstance(output, list) else (output,)
            return _Ended("Succeeded", attempt, items)
        case StepFailed(at, error=error, retry_at=None) if at == key:
            return _Ended("Failed", error=error.message)
        case StepSkipped(at) if at == key:
            return _Ended("Skipped")
        case RunFinished(phase=phase, message=message):
            return _Ended(str(phase), error=message)
    return None


def _rest(ended: _Ended, life: int, count: int) -> list[RunEvent]:
    """What a reader that has `count` items of an attempt is still to be told."""
    told: list[RunEvent] = []
    if ended.items and life not in (0, ended.life):
        told.append(RunEvent("", RESTART, {"attempt": ended.life}))
    begin = count if life == ended.life else 0
    told += [_item(ended.life, at, ended.items[at]) for at in range(begin, len(ended.items))]
    data = {"state": ended.state, **({"error": ended.error} if ended.error else {})}
    return [*told, RunEvent("", END, data)]


def _item(life: int, number: int, item: Any) -> RunEvent:
    return RunEvent(f"{life}.{number}", ITEM, {"item": item})
