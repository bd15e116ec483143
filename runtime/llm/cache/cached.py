"""Puts a cache before a gateway's models."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.llm.cache.alike import Alike
from seedbed.runtime.llm.cache.backing import Backing
from seedbed.runtime.llm.cache.counting import Counting
from seedbed.runtime.llm.cache.embedder import EmbeddingService, Embeds
from seedbed.runtime.llm.cache.invalidation import following
from seedbed.runtime.llm.cache.judging import Judging
from seedbed.runtime.llm.cache.memory import Memory
from seedbed.runtime.llm.cache.semantic import Semantic
from seedbed.runtime.llm.cache.settings import CacheSettings
from seedbed.runtime.llm.cache.shelf import Shelf
from seedbed.runtime.llm.cache.similar import Accepted
from seedbed.runtime.llm.cache.stage import CacheStage, Flagged, no_flags
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.store.answers import AnswerStore

_MEBIBYTE = 1024 * 1024


@asynccontextmanager
async def cached(
    gateway: Gateway,
    store: AnswerStore | None = None,
    coordinator: Coordinator | None = None,
    *,
    embeds: Embeds | None = None,
    flagged: Flagged = no_flags,
    wall: Callable[[], float] = time.time,
) -> AsyncIterator[CacheStage]:
    """The gateway keeps answers, as its models file says, while the context is open.

    Args:
        gateway: gets the stage, behind those that it has.
        store: where answers outlive the process and are shared; without it they are in memory only.
        coordinator: tells which answers to forget.
        embeds: makes vectors; the model of the image where none is given.
        flagged: decides FeatureFlags.
        wall: gives Unix time.

    Raises:
        UnavailableError: where similar requests are to count and the embedding model is not installed.
    """
    settings = gateway.models.cache
    counting = Counting(gateway.metrics.registry)
    async with AsyncExitStack() as stack:
        alike = None
        if settings.semantic != "off":
            if embeds is None:
                embeds = await stack.enter_async_context(EmbeddingService())
            # Loads the model, which no request has to wait for then; what is missing is told at once.
            await embeds.embed(["ready"])
            alike = Alike(embeds, accepted(settings), prove=settings.proven_first)
        memory = Memory(
            settings.entries,
            settings.memory_mi_b * _MEBIBYTE,
            alike.remove if alike is not None else lambda _: None,
        )
        counting.watch(memory)
        shelf = Shelf(memory, alike)
        if store is not None:
            shelf.backing = Backing(
                store,
                counting,
                entries=settings.entries,
                grace=settings.stale_seconds,
                loaded=shelf.load,
                wall=wall,
            )
            await stack.enter_async_context(shelf.backing.running())
        if coordinator is not None:
            await stack.enter_async_context(following(coordinator, shelf))
        semantic = None
        if alike is not None and embeds is not None:
            judging = Judging(alike, shelf, embeds, counting, settings.same_answer)
            await stack.enter_async_context(judging.running())
            semantic = Semantic(alike, shelf, judging, counting)
        stage = CacheStage(
            settings,
            shelf,
            counting,
            semantic,
            reachable=gateway.reachable,
            flagged=flagged,
            wall=wall,
        )
        gateway.stages.append(stage)
        yield stage


def accepted(settings: CacheSettings) -> Accepted:
    """The shares of wrong answers that the settings accept."""
    return Accepted(
        per_lookup=settings.accepted_wrong_hits / 2, per_hit=settings.accepted_wrong_hits
    )
