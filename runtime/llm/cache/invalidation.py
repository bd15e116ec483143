"""Tells every gateway which answers to forget, over the live settings.

    cache/forget/NAMESPACE/DIGEST = {"namespace", "tag", "model", "before"}

Whoever tells it also removes the rows from the store. A gateway that hears of it forgets what it has in
memory and what it has not written yet, and removes once more what it may have written meanwhile.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

import orjson

from seedbed.crds.errors import RetryableError
from seedbed.runtime.coordination.port import Coordinator
from seedbed.runtime.store.answers import AnswerStore, Selection

log = logging.getLogger(__name__)

PREFIX = "cache/forget/"
KEPT = 3600.0
"""Seconds after which every gateway has heard of it."""
_AGAIN = 1.0


class Forgets(Protocol):
    """Whoever holds answers."""

    async def invalidate(self, chosen: Selection) -> int:
        """Forget answers; how many there were."""


async def invalidate(store: AnswerStore, coordinator: Coordinator | None, chosen: Selection) -> int:
    """Have answers forgotten everywhere; how many the store had.

    Raises:
        UnavailableError: where the store or the coordinator does not answer; doing it again helps.
    """
    now = time.time()
    chosen = Selection(chosen.namespace, chosen.tag, chosen.model, min(chosen.before, now))
    if coordinator is not None:
        space = f"{PREFIX}{chosen.namespace}/"
        for key, value in (await coordinator.settings(space)).items():
            old = _read(value)
            if old is None or old.before < now - KEPT:
                await coordinator.delete(key)
        what = orjson.dumps([chosen.tag, chosen.model])
        told = {
            "namespace": chosen.namespace,
            "tag": chosen.tag,
            "model": chosen.model,
            "before": chosen.before,
        }
        await coordinator.put(f"{space}{hashlib.sha256(what).hexdigest()[:16]}", orjson.dumps(told))
    return await store.remove(chosen)


@asynccontextmanager
async def following(coordinator: Coordinator, shelf: Forgets) -> AsyncIterator[None]:
    """What others say is forgotten while the context is open."""
    async with asyncio.TaskGroup() as tasks:
        task = tasks.create_task(_follow(coordinator, shelf))
        try:
            yield
        finally:
            task.cancel()


async def _follow(coordinator: Coordinator, shelf: Forgets) -> None:
    while True:
        try:
            async with coordinator.watch(PREFIX) as changes:
                async for change in changes:
                    if change.value is not None and (chosen := _read(change.value)) is not None:
                        await shelf.invalidate(chosen)
        except RetryableError as error:
            log.warning("invalidations cannot be followed: %s", error)
        await asyncio.sleep(_AGAIN)


def _read(value: bytes) -> Selection | None:
    try:
        told = orjson.loads(value)
        return Selection(told["namespace"], told["tag"], told["model"], float(told["before"]))
    except (orjson.JSONDecodeError, LookupError, TypeError, ValueError) as error:
        log.warning("an invalidation cannot be read: %s", error)
        return None
