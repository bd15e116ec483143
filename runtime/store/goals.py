"""Goal trees in the store, by namespace and content hash; see `runtime.workflow.planning.goals`.

No partition owns them, so they are written without a fencing token: the same bytes under the same hash do
no harm, whoever writes them.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import bindparam, delete, insert, select

from seedbed.crds.errors import ConflictError
from seedbed.runtime.store.schema import goal_trees
from seedbed.runtime.store.sql import SqlStore

LISTED = 1000


@dataclass(frozen=True, slots=True)
class GoalRow:
    """A goal tree without its tasks.

    Attributes:
        digest: SHA-256 of the document, in hexadecimal digits.
        made_at: Unix time when it was last kept.
        tasks: how many it has, the goal included.
        depth: levels below the goal.
    """

    namespace: str
    digest: str
    made_at: float
    goal: str
    tasks: int
    depth: int


class Goals(Protocol):
    """Every method may raise UnavailableError when the database does not answer."""

    async def put(self, row: GoalRow, document: bytes) -> None:
        """Keep a tree; one that is there is kept anew."""

    async def document(self, namespace: str, digest: str) -> bytes | None:
        """A tree's document, or None."""

    async def of_namespace(self, namespace: str) -> list[GoalRow]:
        """The namespace's trees, the newest first, at most `LISTED`."""

    async def remove(self, namespace: str, digest: str) -> bool:
        """Forget a tree; tells whether there was one."""


_OF = (goal_trees.c.namespace == bindparam("of"), goal_trees.c.digest == bindparam("hash"))
_DOCUMENT = select(goal_trees.c.document).where(*_OF)
_REMOVE = delete(goal_trees).where(*_OF)
_LIST = (
    select(
        goal_trees.c.namespace,
        goal_trees.c.digest,
        goal_trees.c.made_at,
        goal_trees.c.goal,
        goal_trees.c.tasks,
        goal_trees.c.depth,
    )
    .where(goal_trees.c.namespace == bindparam("of"))
    .order_by(goal_trees.c.made_at.desc(), goal_trees.c.digest)
    .limit(LISTED)
)


class SqlGoals:
    """Goal trees beside the runs of a SqlStore; see `Goals` for what each method promises."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    async def put(self, row: GoalRow, document: bytes) -> None:
        """See the port."""
        values = {
            "namespace": row.namespace,
            "digest": row.digest,
            "made_at": row.made_at,
            "goal": row.goal,
            "tasks": row.tasks,
            "depth": row.depth,
            "document": document,
        }
        # A conflict: somebody else has just put the same bytes.
        with suppress(ConflictError):
            async with self._store.transaction() as connection:
                await connection.execute(_REMOVE, {"of": row.namespace, "hash": row.digest})
                await connection.execute(insert(goal_trees), values)

    async def document(self, namespace: str, digest: str) -> bytes | None:
        """See the port."""
        rows = await self._store.rows(_DOCUMENT, of=namespace, hash=digest)
        return bytes(rows[0][0]) if rows else None

    async def of_namespace(self, namespace: str) -> list[GoalRow]:
        """See the port."""
        return [GoalRow(*row) for row in await self._store.rows(_LIST, of=namespace)]

    async def remove(self, namespace: str, digest: str) -> bool:
        """See the port."""
        async with self._store.transaction() as connection:
            gone = await connection.execute(_REMOVE, {"of": namespace, "hash": digest})
            return bool(gone.rowcount)
