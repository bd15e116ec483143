"""Puts a cache before a gateway's models."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from seedbed.runtime.llm.cache.counting import Counting
from seedbed.runtime.llm.cache.shelf import Shelf
from seedbed.runtime.llm.cache.stage import CacheStage
from seedbed.runtime.llm.gateway import Gateway


@asynccontextmanager
async def cached(gateway: Gateway) -> AsyncIterator[Shelf]:
    """The gateway keeps answers, as its models file says, while the context is open.

    Args:
        gateway: gets the stage, behind those that it has.
    """
    settings = gateway.models.cache
    counting = Counting(gateway.metrics.registry)
    shelf = Shelf(settings)
    counting.watch(shelf.memory)
    if settings.mode != "off":
        stage = CacheStage(settings, shelf, counting, reachable=gateway.reachable)
        gateway.stages.append(stage)
    yield shelf
