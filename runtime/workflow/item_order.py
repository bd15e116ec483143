"""The order among the items of one forEach: which items may start, and what that waits for. Pure.

An item that is an object may have `after`: places of earlier items, or pairs `[FROM, TO]` that stand for
the places from FROM up to, not including, TO. It starts once all of them have ended. Only earlier places
may be named, so items can never wait for each other.

Equal pairs are one gate that counts its open items, so 5,000 items behind 5,000 others are 10,000 links
and not 25 million.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from seedbed.crds.errors import InvalidError

AFTER = "after"
MOST_LINKS = 1_000_000
"""Links between items and gates that one forEach may have."""

_PAIR = 2
_Span = tuple[int, int]


class ItemOrder:
    """Counts what each item waits for.

    Args:
        items: all items of the forEach.

    Raises:
        InvalidError: an item names what is no earlier item, or there are too many links.
    """

    def __init__(self, items: Sequence[Any]) -> None:
        self._waits_for = [0] * len(items)
        self._gates_of: dict[int, list[int]] = {}
        self._open: list[int] = []
        self._behind: list[list[int]] = []
        self._spans: dict[int, tuple[_Span, ...]] = {}
        self._free: list[int] = []
        gates: dict[_Span, int] = {}
        links = 0
        for place, item in enumerate(items):
            spans = tuple(dict.fromkeys(_spans(item, place)))
            if not spans:
                self._free.append(place)
                continue
            self._spans[place], self._waits_for[place] = spans, len(spans)
            for span in spans:
                links += 1 if span in gates else 1 + span[1] - span[0]
                if links > MOST_LINKS:
                    raise _wrong(place, f"there are more than {MOST_LINKS:,} links between items")
                self._behind[self._gate(span, gates)].append(place)

    def _gate(self, span: _Span, gates: dict[_Span, int]) -> int:
        if span not in gates:
            gates[span] = number = len(self._open)
            self._open.append(span[1] - span[0])
            self._behind.append([])
            for place in range(*span):
                self._gates_of.setdefault(place, []).append(number)
        return gates[span]

    def end(self, place: int) -> bool:
        """An item has ended; whether others may start now."""
        before = len(self._free)
        for gate in self._gates_of.get(place, ()):
            self._open[gate] -= 1
            if self._open[gate]:
                continue
            for waiting in self._behind[gate]:
                self._waits_for[waiting] -= 1
                if not self._waits_for[waiting]:
                    self._free.append(waiting)
        return len(self._free) > before

    def take(self) -> list[int]:
        """Items that may start and were not taken yet, the earliest first."""
        free, self._free = sorted(self._free), []
        return free

    def before(self, place: int) -> Iterator[int]:
        """The items that an item comes after, as it names them."""
        for span in self._spans.get(place, ()):
            yield from range(*span)


def _spans(item: Any, place: int) -> Iterator[_Span]:
    named = item.get(AFTER) if isinstance(item, dict) else None
    if named is None:
        return
    if not isinstance(named, list):
        raise _wrong(place, "must be a list of earlier places")
    for one in named:
        pair = one if isinstance(one, list) and len(one) == _PAIR else [one, None]
        first, end = pair[0], pair[1]
        if not _is_place(first) or not (end is None or _is_place(end)):
            raise _wrong(place, f"names {one!r:.40}, expected a place or a pair of places")
        end = first + 1 if end is None else end
        if not 0 <= first <= end <= place:
            raise _wrong(place, f"names {one!r:.40}, only places before {place} may be named")
        if first < end:
            yield first, end


def _is_place(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _wrong(place: int, expected: str) -> InvalidError:
    return InvalidError(f"item {place}: {AFTER}", expected)
