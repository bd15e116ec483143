"""Items that wait in turns: those they belong to come one after the other, with one item each.

So who has one item does not wait for the thousands of another. Those of one owner keep their order.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import Generic, Protocol, TypeVar


class Owned(Protocol):
    """An item that belongs to somebody."""

    @property
    def owner(self) -> str:
        """Whose it is."""


_T = TypeVar("_T", bound=Owned)


class Turns(Generic[_T]):
    """The items that wait."""

    def __init__(self) -> None:
        self._first: deque[_T] = deque()
        self._lines: OrderedDict[str, deque[_T]] = OrderedDict()
        self._count = 0

    def __len__(self) -> int:
        return len(self._first) + self._count

    def __iter__(self) -> Iterator[_T]:
        """Every item, not in the order in which they come."""
        yield from self._first
        for line in self._lines.values():
            yield from line

    def __contains__(self, item: _T) -> bool:
        return item in self._first or item in self._lines.get(item.owner, ())

    def append(self, item: _T) -> None:
        """One more, behind those of its owner; an owner who had none comes after all others."""
        line = self._lines.get(item.owner)
        if line is None:
            self._lines[item.owner] = deque((item,))
        else:
            line.append(item)
        self._count += 1

    def put_first(self, items: Iterable[_T]) -> None:
        """Some that come before all others, in this order."""
        self._first.extendleft(reversed([*items]))

    def pop(self) -> _T:
        """The next item; its owner comes after all others then."""
        if self._first:
            return self._first.popleft()
        owner = next(iter(self._lines))
        line = self._lines[owner]
        item = line.popleft()
        if line:
            self._lines.move_to_end(owner)
        else:
            del self._lines[owner]
        self._count -= 1
        return item

    def remove(self, item: _T) -> None:
        """An item waits no more; nothing where it does not."""
        if item in self._first:
            self._first.remove(item)
            return
        line = self._lines.get(item.owner)
        if line is None or item not in line:
            return
        line.remove(item)
        self._count -= 1
        if not line:
            del self._lines[item.owner]
