"""What the gateway has learnt of its models, kept up to date from the store; namespaces stay apart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from seedbed.crds.errors import RetryableError, UnavailableError
from seedbed.runtime.llm.routing.predictor import Outcomes, Predictor
from seedbed.runtime.store.outcomes import OutcomeRow, OutcomeStore

log = logging.getLogger(__name__)

EVERY = 10.0
"""Seconds between two looks at what other gateways have learnt."""


class Learning:
    """Predictors by namespace."""

    def __init__(self, stated: Mapping[str, float]) -> None:
        """`stated`: quality by model, as the models file says."""
        self._stated = stated
        self._store: OutcomeStore | None = None
        self._empty = Predictor((), stated)
        self._predictors: dict[str, Predictor] = {}

    def of(self, namespace: str) -> Predictor:
        """What is known for a namespace."""
        return self._predictors.get(namespace, self._empty)

    async def add(self, row: OutcomeRow) -> None:
        """Learn an outcome; it counts for routing at the next look.

        Raises:
            UnavailableError: where there is nowhere to keep it.
        """
        if self._store is None:
            raise UnavailableError("this service has no store for outcomes")
        await self._store.add(row)

    async def look(self) -> None:
        """Read everything anew."""
        if self._store is None:
            return
        by_namespace: dict[str, list[Outcomes]] = {}
        for row in await self._store.all():
            found = Outcomes(row.task, row.model, row.hardness, row.asked, row.good)
            by_namespace.setdefault(row.namespace, []).append(found)
        self._predictors = {
            namespace: Predictor(outcomes, self._stated)
            for namespace, outcomes in by_namespace.items()
        }

    @asynccontextmanager
    async def following(self, store: OutcomeStore) -> AsyncIterator[None]:
        """Outcomes are kept in the store, and read from it, while the context is open."""
        self._store = store
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self._follow())
            try:
                yield
            finally:
                task.cancel()
                self._store = None

    async def _follow(self) -> None:
        while True:
            try:
                await self.look()
            except RetryableError as error:
                log.warning("outcomes cannot be read: %s", error)
            await asyncio.sleep(EVERY)
