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
class Waiting:
    """The runs that wait for one Pool, with their weights, and what those come to."""

    weights: dict[str, int] = field(default_factory=dict)
    total: int = 0


@dataclass(slots=True)
class Shares:
    """Who waits for which Pool. What is asked for each step takes as long however many wait.

    Attributes:
        waiting: for each Pool the runs that wait for it.
    """

    waiting: dict[PoolKey, Waiting] = field(default_factory=dict)
    _pools: dict[str, set[PoolKey]] = field(default_factory=dict)

    def wait(self, pool: PoolKey, run: str, weight: int) -> None:
        """A run wants more of a Pool than it gets."""
        waiting = self.waiting.setdefault(pool, Waiting())
        waiting.total += weight - waiting.weights.get(run, 0)
        waiting.weights[run] = weight
        self._pools.setdefault(run, set()).add(pool)

    def leave(self, run: str) -> None:
        """A run waits for nothing any more."""
        for pool in self._pools.pop(run, ()):
            waiting = self.waiting[pool]
            waiting.total -= waiting.weights.pop(run)
            if not waiting.weights:
                del self.waiting[pool]

    def yields(self, pool: PoolKey, run: str, weight: int, held: int, limit: int) -> bool:
        """Whether a run that holds so many of a Pool's `limit` places leaves the next to others."""
        waiting = self.waiting.get(pool)
        if waiting is None:
            return False
        others = waiting.total - waiting.weights.get(run, 0)
        return others > 0 and held >= max(1, limit * weight // (others + weight))
