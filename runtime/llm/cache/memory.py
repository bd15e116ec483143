"""The answers that one process holds: bounded for each namespace and in all, least used out first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

from seedbed.runtime.store.answers import AnswerKey, AnswerRow, Selection

OVERHEAD = 600
"""Bytes that a row takes beside its texts."""
COMPARED, MOST_COMPARED = 200, 200_000
"""Bytes by which a character is compared, and a whole text at most."""


class Memory:
    """See the module."""

    def __init__(
        self, entries: int, size: int, dropped: Callable[[AnswerRow], None] = lambda _: None
    ) -> None:
        """Empty.

        Args:
            entries: most rows of one namespace.
            size: most bytes in all.
            dropped: told each row that is not held any more.
        """
        self._entries = entries
        self._size = size
        self._dropped = dropped
        self._rows: OrderedDict[AnswerKey, AnswerRow] = OrderedDict()
        self._spaces: dict[str, OrderedDict[AnswerKey, None]] = {}
        self.size = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __contains__(self, key: AnswerKey) -> bool:
        return key in self._rows

    def count(self, namespace: str) -> int:
        """Rows of a namespace."""
        return len(self._spaces.get(namespace, ()))

    def get(self, key: AnswerKey) -> AnswerRow | None:
        """A row, which is the last to go from then on."""
        row = self._rows.get(key)
        if row is not None:
            self._rows.move_to_end(key)
            self._spaces[row.namespace].move_to_end(key)
        return row

    def put(self, row: AnswerRow) -> None:
        """Add a row, or replace the one with its key."""
        self.remove(row.key)
        self._rows[row.key] = row
        self._spaces.setdefault(row.namespace, OrderedDict())[row.key] = None
        self.size += _size(row)
        while self.count(row.namespace) > self._entries:
            self.remove(next(iter(self._spaces[row.namespace])))
        while self.size > self._size:
            self.remove(next(iter(self._rows)))

    def add_oldest(self, row: AnswerRow) -> bool:
        """Add a row as the first to go; False where it does not fit."""
        full = self.count(row.namespace) >= self._entries or self.size + _size(row) > self._size
        if not full and row.key not in self._rows:
            self.put(row)
            self._rows.move_to_end(row.key, last=False)
            self._spaces[row.namespace].move_to_end(row.key, last=False)
        return not full

    def remove(self, key: AnswerKey) -> None:
        """Let go of a row; nothing happens where there is none."""
        row = self._rows.pop(key, None)
        if row is None:
            return
        space = self._spaces[row.namespace]
        del space[key]
        if not space:
            del self._spaces[row.namespace]
        self.size -= _size(row)
        self._dropped(row)

    def invalidate(self, chosen: Selection) -> int:
        """Let go of the rows that are meant; how many they were."""
        found = [
            key for key in self._spaces.get(chosen.namespace, ()) if chosen.holds(self._rows[key])
        ]
        for key in found:
            self.remove(key)
        return len(found)


def _size(row: AnswerRow) -> int:
    compared = min(len(row.text) * COMPARED, MOST_COMPARED) if row.scope else 0
    return OVERHEAD + len(row.answer) + len(row.text) + compared
