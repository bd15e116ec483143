"""Fair sharing of a Pool between the runs that want more of it than there is. Pure.

While nobody waits a run takes what it can. While others wait, each may hold its share of the Pool's
queue by the weight of its priority; who holds more takes nothing until steps of it have ended. A run
that needs less than its share leaves the rest to the others, since it waits for nothing. Pools belong to
a namespace, so namespaces never wait for each other here.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PoolKey = tuple[str, str]
"""Namespace and name of a Pool."""


def weight_of(priority: int) -> int:
    """Each step of priority doubles the share."""
    return 1 << priority


@dataclass(slots=True)
class Shares:
    """Who waits for which Pool.

    Attributes:
        waiting: for each Pool the runs that wait for it, with their weights.
    """

    waiting: dict[PoolKey, dict[str, int]] = field(default_factory=dict)

    def wait(self, pool: PoolKey, run: str, weight: int) -> None:
        """A run wants more of a Pool than it gets."""
        self.waiting.setdefault(pool, {})[run] = weight

    def leave(self, run: str) -> None:
        """A run waits for nothing any more."""
        for pool, runs in list(self.waiting.items()):
            runs.pop(run, None)
            if not runs:
                del self.waiting[pool]

    def yields(self, pool: PoolKey, run: str, weight: int, held: int, limit: int) -> bool:
        """Whether a run that holds so many of a Pool's `limit` places leaves the next to others."""
        others = sum(each for name, each in self.waiting.get(pool, {}).items() if name != run)
        return others > 0 and held >= max(1, limit * weight // (others + weight))
