"""Pools that shed: which steps give their place up when one of a higher rank finds the queue full.

A rank is the priority of the run, then that of the step. The step that gives up is the one of the lowest
rank, and of several the one that was handed out last: it most likely still waits for a worker. A run makes
room itself, so that its journal has it; other runs are asked to, and until the place is taken nobody of a
lower rank takes one. All of this is of the moment and may be lost: who finds the queue full asks again.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from seedbed.crds.addresses import partition_of
from seedbed.crds.messages import StepKey
from seedbed.runtime.workflow.fairness import PoolKey

if TYPE_CHECKING:
    from seedbed.runtime.workflow.state import RunState
    from seedbed.runtime.workflow.units import Unit

Rank = tuple[int, int]

KEPT_SECONDS = 1.0
"""How long a place is kept for who wants it and does not ask again."""
LOOK_EVERY = 0.1
"""Seconds between two searches of a run for steps that give their place up."""


@dataclass(slots=True)
class Shedding:
    """Who holds places of Pools that shed, and who wants some.

    Attributes:
        wake: by partition, has a run decide again.
        asked: by run, the attempts that are to give their place up.
    """

    wake: dict[int, Callable[[str], None]] = field(default_factory=dict)
    asked: dict[str, dict[StepKey, int]] = field(default_factory=dict)
    _holders: dict[PoolKey, dict[str, RunState]] = field(default_factory=dict)
    _wants: dict[PoolKey, dict[str, tuple[Rank, float]]] = field(default_factory=dict)
    _looked: dict[str, float] = field(default_factory=dict)

    def enter(self, pool: PoolKey, state: RunState, rank: Rank, now: float) -> bool:
        """Whether a step may take a place; not while one of a higher rank waits for it."""
        run = state.request.run
        wants = self._wants.get(pool)
        if wants:
            for name, (other, until) in list(wants.items()):
                if until <= now or name == run:
                    del wants[name]
                elif other > rank:
                    return False
        self._holders.setdefault(pool, {})[run] = state
        return True

    def resumed(self, state: RunState) -> None:
        """A run has come with steps that were handed out before."""
        for unit in state.scheduled.values():
            if unit.task is not None and unit.task.pool:
                pool = (state.request.namespace, unit.task.pool)
                self._holders.setdefault(pool, {})[state.request.run] = state

    def room_for(
        self, pool: PoolKey, state: RunState, rank: Rank, count: int, now: float
    ) -> list[Unit]:
        """Find steps that give their place up for `count` of a rank.

        Returns:
            Those of the run itself. Other runs are told what is asked of them.
        """
        run = state.request.run
        self._wants.setdefault(pool, {})[run] = (rank, now + KEPT_SECONDS)
        if now < self._looked.get(run, -LOOK_EVERY) + LOOK_EVERY:
            return []
        self._looked[run] = now
        count -= sum(map(len, self.asked.values()))
        holders = self._holders.get(pool, {})
        lower = (found for holder in holders.values() for found in self._below(holder, pool, rank))
        own: list[Unit] = []
        for _, _, name, unit in heapq.nsmallest(max(0, count), lower, key=lambda one: one[:2]):
            if name == run:
                own.append(unit)
                continue
            self.asked.setdefault(name, {})[unit.key] = unit.attempt
            if wake := self.wake.get(partition_of(name)):
                wake(name)
        return own

    def leave(self, run: str) -> None:
        """A run is over, or has moved to another owner."""
        self.asked.pop(run, None)
        self._looked.pop(run, None)
        for holders in self._holders.values():
            holders.pop(run, None)
        for wants in self._wants.values():
            wants.pop(run, None)

    def _below(
        self, holder: RunState, pool: PoolKey, rank: Rank
    ) -> Iterator[tuple[Rank, float, str, Unit]]:
        """The steps of a run that hold a place and have a lower rank."""
        if holder.finished or holder.undoing or holder.ending:
            return
        if (holder.priority, holder.graph.least_priority) >= rank:
            return
        name = holder.request.run
        asked = self.asked.get(name, {})
        for key, unit in holder.scheduled.items():
            own = (holder.priority, holder.step_of(key).priority)
            task = unit.task
            if own < rank and key not in asked and task is not None and task.pool == pool[1]:
                yield own, -task.at, name, unit
