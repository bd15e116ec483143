"""How events come from kopf's watch streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import kopf
import pytest
from kopf._cogs.aiokits.aiotoggles import ToggleSet
from kopf._cogs.clients.watching import Bookmark
from kopf._cogs.structs.references import Resource
from kopf._core.reactor import orchestration

from seedbed.crds.base import API_VERSION, GROUP, VERSION
from seedbed.operator import watch
from tests.conftest import run_async

NAMED = {"metadata": {"name": "general", "namespace": "default"}}
STREAM = [
    {"type": None, "object": NAMED},
    Bookmark.LISTED,
    {"type": "MODIFIED", "object": NAMED},
    {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}},
    {"type": "DELETED", "object": NAMED},
]


def test_kopf_hands_on_each_event_in_order_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def stream(**asked: Any) -> AsyncIterator[Any]:
        assert asked["resource"].plural == "pools"
        for event in STREAM:
            yield event
        await asyncio.sleep(3600)

    monkeypatch.setattr(watch, "infinite_watch", stream)
    seen: list[tuple[Any, bool]] = []

    async def unused(**_: Any) -> None:
        raise AssertionError("kopf's own processing was asked")

    async def body() -> None:
        toggles = [ToggleSet(any), ToggleSet(any), ToggleSet(all)]
        missing = await toggles[0].make_toggle(name="peering")
        ensemble = orchestration.Ensemble(
            peering_missing=missing, operator_paused=toggles[1], operator_indexed=toggles[2]
        )
        with watch.straight(lambda obj, deleted: seen.append((obj, deleted))):
            await orchestration.spawn_missing_watchers(
                processor=unused,
                settings=kopf.OperatorSettings(),
                indexed_resources=(),
                watched_resources=[Resource(GROUP, VERSION, "pools", namespaced=True)],
                watched_namespaces=[None],
                ensemble=ensemble,
            )
            async with asyncio.timeout(10):
                while len(seen) < 3:
                    await asyncio.sleep(0.005)
        for task in ensemble.watcher_tasks.values():
            task.cancel()
        await asyncio.wait(ensemble.watcher_tasks.values(), timeout=10)

    run_async(body())
    expected = {**NAMED, "apiVersion": API_VERSION, "kind": "Pool"}
    assert seen == [(expected, False), (expected, False), (expected, True)]
    assert vars(orchestration)["queueing"].__name__ == "kopf._core.reactor.queueing"
