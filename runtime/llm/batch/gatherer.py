"""Items of one kind that go together, as long as others are expected (`waiting`)."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from seedbed.runtime.llm.batch.waiting import Seen, usual_gap, wait

_KINDS = 1024
"""Kinds that are remembered."""

Item = TypeVar("Item")
Answer = TypeVar("Answer")
Send = Callable[[Hashable, Sequence[Item]], Awaitable[Sequence[Answer | Exception]]]
"""Takes a kind and its items, gives for each in order its answer or why there is none."""


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Item, Answer]):
    item: Item
    weight: int
    since: float
    answer: asyncio.Future[Answer]


@dataclass(slots=True)
class _Kind(Generic[Item, Answer]):
    """What is known of one kind."""

    waiting: list[_Waiting[Item, Answer]] = field(default_factory=list)
    gap: float | None = None
    last: float | None = None
    timer: asyncio.TimerHandle | None = None


class Gatherer(Generic[Item, Answer]):
    """Hands items over in groups, and each its own answer back.

    Args:
        send: takes a group; an error that it raises is that of each item.
        window: seconds that an item waits for others, at most.
        largest: weight of a group, unless a single item is heavier.
        gathered: told the number of items of a group and the longest wait of one.
    """

    def __init__(
        self,
        send: Send[Item, Answer],
        *,
        window: float,
        largest: int,
        gathered: Callable[[int, float], None] = lambda *_: None,
    ) -> None:
        self._send = send
        self._window = window
        self._largest = largest
        self._gathered = gathered
        self._kinds: OrderedDict[Hashable, _Kind[Item, Answer]] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Items that wait to be sent."""
        return sum(len(kind.waiting) for kind in self._kinds.values())

    async def ask(self, name: Hashable, item: Item, weight: int = 1) -> Answer:
        """The answer to one item. A caller that goes away takes its item out."""
        loop = asyncio.get_running_loop()
        kind = self._known(name)
        now = loop.time()
        if kind.last is not None:
            kind.gap = usual_gap(kind.gap, now - kind.last, self._window)
        kind.last = now
        waiting = _Waiting[Item, Answer](item, weight, now, loop.create_future())
        if kind.waiting and sum(w.weight for w in kind.waiting) + weight > self._largest:
            self._begin(name, kind)
        kind.waiting.append(waiting)
        self._wait(name, kind)
        try:
            return await waiting.answer
        finally:
            if waiting in kind.waiting:
                kind.waiting.remove(waiting)

    async def close(self) -> None:
        """Give up what is under way."""
        for kind in self._kinds.values():
            if kind.timer is not None:
                kind.timer.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _known(self, name: Hashable) -> _Kind[Item, Answer]:
        kind = self._kinds.setdefault(name, _Kind())
        self._kinds.move_to_end(name)
        if len(self._kinds) > _KINDS:
            oldest = next(iter(self._kinds))
            if not self._kinds[oldest].waiting:
                del self._kinds[oldest]
        return kind

    def _wait(self, name: Hashable, kind: _Kind[Item, Answer]) -> None:
        """Send the group, or look again when its wait is over."""
        if kind.timer is not None:
            kind.timer.cancel()
            kind.timer = None
        if not kind.waiting:
            return
        loop = asyncio.get_running_loop()
        now = loop.time()
        seen = Seen(
            sum(each.weight for each in kind.waiting),
            now - kind.waiting[0].since,
            now - (kind.last or now),
            kind.gap,
        )
        seconds = wait(seen, self._window, self._largest)
        if seconds <= 0:
            self._begin(name, kind)
        else:
            kind.timer = loop.call_later(seconds, self._wait, name, kind)

    def _begin(self, name: Hashable, kind: _Kind[Item, Answer]) -> None:
        group, kind.waiting = kind.waiting, []
        self._gathered(len(group), asyncio.get_running_loop().time() - group[0].since)
        task = asyncio.create_task(self._sent(name, group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

        def left(_: asyncio.Future[Answer]) -> None:
            if all(each.answer.done() for each in group):
                task.cancel()

        for each in group:
            each.answer.add_done_callback(left)

    async def _sent(self, name: Hashable, group: list[_Waiting[Item, Answer]]) -> None:
        found: Sequence[Answer | Exception]
        try:
            found = await self._send(name, [each.item for each in group])
        except Exception as error:  # noqa: BLE001 - each of those who wait raises it
            found = [error] * len(group)
        except asyncio.CancelledError:
            for each in group:
                each.answer.cancel()
            raise
        for each, answer in zip(group, found, strict=True):
            if each.answer.done():
                continue
            if isinstance(answer, Exception):
                each.answer.set_exception(answer)
            else:
                each.answer.set_result(answer)
