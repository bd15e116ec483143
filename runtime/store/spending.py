"""What was spent: of days gone by as sums, of the others call by call.

The sums have all that reports ask for. What they do not have is the run, the price table's version and
whether a cost was estimated.
"""

from __future__ import annotations

from typing import Any

from sqlalchemy import Select, bindparam, delete, func, select, union_all

from seedbed.runtime.store.ledger import Dimension
from seedbed.runtime.store.schema import ledger, spent_days
from seedbed.runtime.store.sql import SqlStore

_KEY = ("day", "namespace", "workflow", "agent", "user", "model")
_FIGURES = ("calls", "prompt_tokens", "completion_tokens", "nanos")
_OLD = (
    select(ledger.c.id)
    .where(ledger.c.at < bindparam("before"))
    .order_by(ledger.c.at)
    .limit(bindparam("most"))
    .with_for_update(skip_locked=True)
)
_SOME = ledger.c.id.in_(bindparam("some", expanding=True))
_SUMS = (
    select(
        *(ledger.c[name] for name in _KEY),
        func.count().label("calls"),
        *(func.sum(ledger.c[name]).label(name) for name in _FIGURES[1:]),
    )
    .where(_SOME)
    .group_by(*(ledger.c[name] for name in _KEY))
)
_DELETE = delete(ledger).where(_SOME)


class Folding:
    """Adds calls to the sums of their days, and forgets them."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store
        new = store.insert(spent_days).from_select([*_KEY, *_FIGURES], _SUMS)
        self._add = new.on_conflict_do_update(
            index_elements=[*_KEY],
            set_={name: spent_days.c[name] + new.excluded[name] for name in _FIGURES},
        )

    async def some(self, before: float, most: int) -> int:
        """Fold so many calls at most of before a Unix time; how many there were."""
        async with self._store.transaction() as connection:
            found = await connection.execute(_OLD, {"before": before, "most": most})
            some = [row[0] for row in found]
            if some:
                await connection.execute(self._add, {"some": some})
                await connection.execute(_DELETE, {"some": some})
        return len(some)


def spending(by: Dimension, given: tuple[str, ...]) -> Select[Any]:
    """Spending by one dimension, of what has the `given` columns.

    It takes those, `since` (Unix time) for single calls, and `day` for the sums.
    """
    calls = select(
        ledger.c[by].label("key"),
        func.count().label("calls"),
        *(func.sum(ledger.c[name]).label(name) for name in _FIGURES[1:]),
    ).where(ledger.c.at >= bindparam("since"), *(ledger.c[one] == bindparam(one) for one in given))
    days = select(spent_days.c[by].label("key"), *(spent_days.c[name] for name in _FIGURES)).where(
        spent_days.c.day >= bindparam("day"),
        *(spent_days.c[one] == bindparam(one) for one in given),
    )
    every = union_all(calls.group_by(ledger.c[by]), days).subquery()
    figures = [func.sum(every.c[name]) for name in _FIGURES]
    order = every.c.key.desc() if by == "day" else figures[-1].desc()
    return (
        select(every.c.key, *figures).group_by(every.c.key).order_by(order, every.c.key).limit(1000)
    )
