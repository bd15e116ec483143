"""The answers that one process holds: bounded for each namespace and in all, least used out first."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from seedbed.runtime.store.answers import AnswerKey, AnswerRow

OVERHEAD = 600
"""Bytes that a row takes beside its texts."""


@dataclass(frozen=True, slots=True)
class Selection:
    """Which answers of a namespace are meant; all of them where nothing is said.

    Attributes:
        tag: only those that carry it.
        model: only those that it gave.
        before: only those created until this Unix time.
    """

    namespace: str
    tag: str = ""
    model: str = ""
    before: float = float("inf")

    def holds(self, row: AnswerRow) -> bool:
        """Whether a row is meant."""
        return (
            row.namespace == self.namespace
            and (not self.tag or self.tag in row.tags)
            and (not self.model or row.model == self.model)
            and row.created_at <= self.before
        )


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
        self.evicted: dict[str, int] = {}

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
            self._evict(next(iter(self._spaces[row.namespace])))
        while self.size > self._size:
            self._evict(next(iter(self._rows)))

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

    def _evict(self, key: AnswerKey) -> None:
        namespace = key[0]
        self.evicted[namespace] = self.evicted.get(namespace, 0) + 1
        self.remove(key)


def _size(row: AnswerRow) -> int:
    return OVERHEAD + len(row.answer) + 2 * len(row.text) + len(row.embedding) + len(row.learnt)
