"""Forgetting runs: those that have ended long ago and whose Workflow has a newer run.

A Workflow's newest run stays as long as the store does, so that its log and result can be read. With a
run go its journal, its checkpoints and the large values that no other run needs.
"""

from __future__ import annotations

import orjson

from seedbed.runtime.store.port import RunRow, Store
from seedbed.runtime.workflow.checkpoint import metrics
from seedbed.runtime.workflow.checkpoint.vault import Owner, Vault


class Forgetting:
    """Forgets runs of a partition.

    Args:
        retention: seconds that a run which has ended stays; for ever where 0.
    """

    def __init__(self, store: Store, vault: Vault, retention: float) -> None:
        self._store = store
        self._vault = vault
        self._retention = retention

    async def sweep(self, owner: Owner, now: float) -> int:
        """Forget those whose time is over; returns how many.

        Raises:
            FencedError: somebody else owns the partition now.
            UnavailableError: the store does not answer.
        """
        if not self._retention:
            return 0
        forgotten = 0
        for row in await self._store.superseded(owner.partition):
            if _ended(row) + self._retention <= now:
                await self._forget(row, owner)
                forgotten += 1
        return forgotten

    async def _forget(self, row: RunRow, owner: Owner) -> None:
        # Under the partition's token: whoever was replaced removes nothing more.
        await self._vault.discard(row.run, owner)
        await self._store.delete_run(row.run)
        metrics.FORGOTTEN.inc()


def _ended(row: RunRow) -> float:
    """When a run ended, as its summary tells; never, where it does not."""
    at = orjson.loads(row.summary).get("finished")
    return float("inf") if at is None else float(at)
