"""Outcomes in the store: how often a model's answers to one class of tasks were good."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import bindparam, select

from seedbed.runtime.store.schema import outcomes
from seedbed.runtime.store.sql import SqlStore

MOST_TASKS = 10_000


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """Outcomes of one model on one task of a namespace at one level of hardness."""

    namespace: str
    task: str
    model: str
    hardness: int
    asked: float
    good: float


class OutcomeStore(Protocol):
    """Every method may raise UnavailableError when the database does not answer."""

    async def add(self, row: OutcomeRow) -> None:
        """Add to what is known."""

    async def all(self, namespace: str = "") -> list[OutcomeRow]:
        """Everything known, of one namespace where named."""


class SqlOutcomes:
    """Outcomes beside the runs of a SqlStore; see `OutcomeStore`."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        new = store.insert(outcomes)
        self._add = new.on_conflict_do_update(
            index_elements=["namespace", "task", "model", "hardness"],
            set_={
                "asked": outcomes.c.asked + new.excluded.asked,
                "good": outcomes.c.good + new.excluded.good,
            },
        )

    async def add(self, row: OutcomeRow) -> None:
        """See `OutcomeStore`."""
        values = {name: getattr(row, name) for name in OutcomeRow.__slots__}
        async with self._store.transaction() as connection:
            await connection.execute(self._add, values)

    async def all(self, namespace: str = "") -> list[OutcomeRow]:
        """See `OutcomeStore`."""
        statement = select(outcomes).order_by(outcomes.c.task, outcomes.c.model).limit(MOST_TASKS)
        if not namespace:
            return [OutcomeRow(*row) for row in await self._store.rows(statement)]
        statement = statement.where(outcomes.c.namespace == bindparam("of"))
        return [OutcomeRow(*row) for row in await self._store.rows(statement, of=namespace)]
