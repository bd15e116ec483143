"""Outcomes in the store: how often a model's answers to one class of tasks were good.

Counts are kept for ever. Of single answers the newest are kept, with the marks of what was asked.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import bindparam, delete, insert, select

from seedbed.runtime.store.schema import columns_of, judged_answers, outcomes
from seedbed.runtime.store.sql import SqlStore

MOST_TASKS = 10_000
MOST_ANSWERS = 50_000
"""Single answers that are kept, of all namespaces."""


@dataclass(frozen=True, slots=True)
class OutcomeRow:
    """Outcomes of one model on one task of a namespace at one level of hardness."""

    namespace: str
    task: str
    model: str
    hardness: int
    asked: float
    good: float


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """One answer that somebody has judged.

    Attributes:
        at: Unix time at which it was judged.
        good: from 0 to 1.
        marks: of what was asked, see `routing.marks`.
    """

    id: str
    at: float
    namespace: str
    task: str
    model: str
    good: float
    marks: bytes


class OutcomeStore(Protocol):
    """Every method may raise UnavailableError when the database does not answer."""

    async def add(self, row: OutcomeRow, marks: bytes = b"") -> None:
        """Add to what is known; with marks, the row is also one judged answer."""

    async def judged(self, since: float) -> list[JudgedRow]:
        """The newest judged answers from a time on, the oldest first."""

    async def trim(self) -> None:
        """Forget the oldest judged answers where there are too many."""

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

    async def add(self, row: OutcomeRow, marks: bytes = b"") -> None:
        """See `OutcomeStore`."""
        values = columns_of(row)
        async with self._store.transaction() as connection:
            await connection.execute(self._add, values)
            if marks:
                judged = {
                    "id": secrets.token_hex(16),
                    "at": time.time(),
                    "namespace": row.namespace,
                    "task": row.task,
                    "model": row.model,
                    "good": row.good / row.asked,
                    "marks": marks,
                }
                await connection.execute(insert(judged_answers), judged)

    async def judged(self, since: float) -> list[JudgedRow]:
        """See `OutcomeStore`."""
        newest = (
            select(judged_answers)
            .where(judged_answers.c.at >= bindparam("since"))
            .order_by(judged_answers.c.at.desc())
            .limit(MOST_ANSWERS)
        )
        rows = await self._store.rows(newest, since=since)
        return [JudgedRow(*row) for row in reversed(rows)]

    async def trim(self) -> None:
        """See `OutcomeStore`."""
        at = judged_answers.c.at
        oldest = select(at).order_by(at.desc()).offset(MOST_ANSWERS).limit(1).scalar_subquery()
        async with self._store.transaction() as connection:
            await connection.execute(delete(judged_answers).where(at <= oldest))

    async def all(self, namespace: str = "") -> list[OutcomeRow]:
        """See `OutcomeStore`."""
        statement = select(outcomes).order_by(outcomes.c.task, outcomes.c.model).limit(MOST_TASKS)
        if not namespace:
            return [OutcomeRow(*row) for row in await self._store.rows(statement)]
        statement = statement.where(outcomes.c.namespace == bindparam("of"))
        return [OutcomeRow(*row) for row in await self._store.rows(statement, of=namespace)]
