"""Plans in the store: documents with steps that users pushed, by namespace and content hash.

No partition owns them, so they are written without a fencing token: the same bytes under the same
hash do no harm, whoever writes them. A run keeps its steps itself, so a plan may be removed at any time.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

from sqlalchemy import bindparam, delete, insert, select

from seedbed.crds.errors import ConflictError
from seedbed.runtime.store.schema import plans
from seedbed.runtime.store.sql import SqlStore


@dataclass(frozen=True, slots=True)
class PlanRow:
    """A pushed plan without its bytes.

    Attributes:
        digest: SHA-256 of the document as it was pushed, in hexadecimal digits.
        pushed_at: Unix time of the last push.
        steps: how many it has.
        size: bytes of the document as it was pushed.
    """

    namespace: str
    digest: str
    pushed_at: float
    steps: int
    size: int


class Plans(Protocol):
    """Every method may raise UnavailableError when the database does not answer."""

    async def put(self, row: PlanRow, data: bytes) -> None:
        """Keep a plan; one that is there is kept anew."""

    async def data(self, namespace: str, digest: str) -> bytes | None:
        """A plan's document, or None."""

    async def of_namespace(self, namespace: str) -> list[PlanRow]:
        """The namespace's plans, the last pushed first."""

    async def remove(self, namespace: str, digest: str) -> bool:
        """Forget a plan; tells whether there was one."""


_OF = (plans.c.namespace == bindparam("of"), plans.c.digest == bindparam("hash"))
_DATA = select(plans.c.data).where(*_OF)
_REMOVE = delete(plans).where(*_OF)
_LIST = (
    select(plans.c.namespace, plans.c.digest, plans.c.pushed_at, plans.c.steps, plans.c.size)
    .where(plans.c.namespace == bindparam("of"))
    .order_by(plans.c.pushed_at.desc(), plans.c.digest)
)


class SqlPlans:
    """Plans beside the runs of a SqlStore; see `Plans` for what each method promises."""

    def __init__(self, store: SqlStore) -> None:
        self._store = store

    async def put(self, row: PlanRow, data: bytes) -> None:
        """See the port."""
        values = {
            "namespace": row.namespace,
            "digest": row.digest,
            "pushed_at": row.pushed_at,
            "steps": row.steps,
            "size": row.size,
            "data": data,
        }
        # A conflict: somebody else has just put the same bytes.
        with suppress(ConflictError):
            async with self._store.transaction() as connection:
                await connection.execute(_REMOVE, {"of": row.namespace, "hash": row.digest})
                await connection.execute(insert(plans), values)

    async def data(self, namespace: str, digest: str) -> bytes | None:
        """See the port."""
        rows = await self._store.rows(_DATA, of=namespace, hash=digest)
        return bytes(rows[0][0]) if rows else None

    async def of_namespace(self, namespace: str) -> list[PlanRow]:
        """See the port."""
        return [PlanRow(*row) for row in await self._store.rows(_LIST, of=namespace)]

    async def remove(self, namespace: str, digest: str) -> bool:
        """See the port."""
        async with self._store.transaction() as connection:
            gone = await connection.execute(_REMOVE, {"of": namespace, "hash": digest})
            return bool(gone.rowcount)
