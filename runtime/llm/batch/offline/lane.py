"""Puts batches of offline work beside a gateway: its pages, and the work while this replica's turn is."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import web

from seedbed.crds.errors import FencedError
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.coordination.singleton import run_singleton
from seedbed.runtime.llm.batch.offline.counting import OfflineMetrics
from seedbed.runtime.llm.batch.offline.pages import OfflinePages
from seedbed.runtime.llm.batch.offline.provider_batches import ProviderBatches
from seedbed.runtime.llm.batch.offline.worker import OfflineWorker
from seedbed.runtime.llm.cache.stage import CacheStage
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.identity import Identify
from seedbed.runtime.store.batch_files import SqlBatchFiles
from seedbed.runtime.store.batches import SqlBatches
from seedbed.runtime.store.sql import SqlStore

log = logging.getLogger(__name__)

NAME = "offline-batches"
"""Of the one process that works."""
_AGAIN = 1.0


class OfflineLane:
    """See the module.

    Args:
        gateway: answers.
        store: keeps batches; it is migrated.
        coordinator: says whose turn to work it is.
        cache: answers that are kept; None where there is no cache.
        holder: who this replica is.
        identify: says on whose behalf a request comes.
        lease: seconds after which a replica that died is succeeded.
    """

    def __init__(
        self,
        gateway: Gateway,
        store: SqlStore,
        coordinator: Coordinator,
        *,
        cache: CacheStage | None,
        holder: str,
        identify: Identify,
        lease: float = 10.0,
    ) -> None:
        self._coordinator = coordinator
        self._holder = holder
        self._lease = lease
        entries = [entry for entry in gateway.models.models if entry.provider == "openai"]
        self._providers = {entry.name: ProviderBatches(entry) for entry in entries}
        metrics = OfflineMetrics(gateway.metrics.registry)
        self.worker = OfflineWorker(gateway, store, cache, metrics, self._providers)
        self._pages = OfflinePages(
            SqlBatchFiles(store), SqlBatches(store), identify, self.worker.wake.set
        )

    def routes(self) -> list[web.RouteDef]:
        """The pages."""
        return self._pages.routes()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Batches are worked through while the context is open, as long as no other replica does."""
        async with AsyncExitStack() as stack:
            for provider in self._providers.values():
                await stack.enter_async_context(provider.running())
            async with asyncio.TaskGroup() as tasks:
                task = tasks.create_task(self._work())
                try:
                    yield
                finally:
                    task.cancel()

    async def _work(self) -> None:
        while True:
            try:
                await run_singleton(
                    self._coordinator, NAME, self._holder, self.worker.run, ttl=self._lease
                )
            except* FencedError as error:
                log.warning("another replica works through batches now: %s", error.exceptions[0])
            await asyncio.sleep(_AGAIN)
