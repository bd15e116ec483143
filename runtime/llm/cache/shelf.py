"""Where answers are kept: in this process, and behind it in the store that all gateways share.

The store is never waited for but for a moment, and never makes a request fail.
"""

from __future__ import annotations

from seedbed.runtime.llm.cache.memory import Memory, Selection
from seedbed.runtime.llm.cache.settings import CacheSettings
from seedbed.runtime.store.answers import AnswerKey, AnswerRow


class Shelf:
    """See the module."""

    def __init__(self, settings: CacheSettings) -> None:
        self.memory = Memory(settings.entries, settings.memory_mi_b * 1024 * 1024)

    async def find(self, key: AnswerKey) -> AnswerRow | None:
        """The answer to an equal request, however old."""
        return self.memory.get(key)

    def keep(self, row: AnswerRow) -> bool:
        """Keep an answer; False where the one there is as new."""
        held = self.memory.get(row.key)
        if held is not None and held.created_at >= row.created_at:
            return False
        self.memory.put(row)
        return True

    def used(self, row: AnswerRow) -> None:
        """An answer was served."""

    async def invalidate(self, chosen: Selection) -> int:
        """Forget answers; how many they were."""
        return self.memory.invalidate(chosen)
