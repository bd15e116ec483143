"""How events come from kopf's watch streams."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import kopf
import pytest
from kopf._cogs.aiokits.aiotoggles import ToggleSet
from kopf._cogs.clients import errors
from kopf._cogs.clients.watching import Bookmark
from kopf._cogs.structs.references import Resource
from kopf._core.reactor import orchestration

from seedbed.cli.embedded.cluster import MemoryCluster
from seedbed.controllers.plan import Defaults, Key
from seedbed.controllers.pods import key_of
from seedbed.crds.base import API_VERSION
from seedbed.crds.errors import NotFoundError
from seedbed.operator import watch
from seedbed.operator.reconciler import Reconciler
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.coordination.memory import MemoryCoordinator
from tests.conftest import run_async

NAMED = {"metadata": {"name": "general", "namespace": "default"}}
KINDS_OF_ERROR = {
    403: errors.APIForbiddenError,
    404: errors.APINotFoundError,
    500: errors.APIServerError,
}
STREAM = [
    {"type": None, "object": NAMED},
    Bookmark.LISTED,
    {"type": "MODIFIED", "object": NAMED},
    {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": "9"}}},
    {"type": "DELETED", "object": NAMED},
]


async def following(notice: Callable[[Any, bool], None], until: Callable[[], bool]) -> None:
    """Run what stands for kopf's own watchers until something has come of it."""
    unused: Any = None
    with watch.straight(notice):
        running = asyncio.create_task(
            orchestration.orchestrator(
                processor=unused,
                settings=kopf.OperatorSettings(),
                identity=unused,
                insights=unused,
                operator_paused=ToggleSet(any),
            )
        )
        async with asyncio.timeout(10):
            while not until():
                await asyncio.sleep(0.005)
        running.cancel()
        await asyncio.wait({running}, timeout=10)


def test_kopf_hands_on_each_event_in_order_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[tuple[str, str, str]] = []

    async def stream(*, resource: Resource, **_: Any) -> AsyncIterator[Any]:
        asked.append((resource.group, resource.version, resource.plural))
        for event in STREAM if resource.plural == "pools" else ():
            yield event
        await asyncio.sleep(3600)

    monkeypatch.setattr(watch, "infinite_watch", stream)
    seen: list[tuple[Any, bool]] = []
    before = orchestration.orchestrator
    run_async(following(lambda obj, deleted: seen.append((obj, deleted)), lambda: len(seen) == 3))
    expected = {**NAMED, "apiVersion": API_VERSION, "kind": "Pool"}
    assert seen == [(expected, False), (expected, False), (expected, True)]
    assert len(asked) == len(set(asked)) == 10
    assert {("seedbed.dev", "v1alpha1", "pools"), ("apps", "v1", "deployments")} <= set(asked)
    assert ("", "v1", "pods") in asked
    assert orchestration.orchestrator is before


def test_a_kind_that_cannot_be_watched_is_tried_again_and_stops_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(watch, "REFUSED_SECONDS", 0.01)
    tries = iter([404, 403, 500])

    async def stream(*, resource: Resource, **_: Any) -> AsyncIterator[Any]:
        status = next(tries, None) if resource.plural == "pools" else None
        if status is not None:
            raise KINDS_OF_ERROR[status](None, status=status, headers={})
        if resource.plural in ("pools", "agents"):
            yield {"type": "ADDED", "object": NAMED}
        await asyncio.sleep(3600)

    monkeypatch.setattr(watch, "infinite_watch", stream)
    seen: list[str] = []
    run_async(following(lambda obj, _: seen.append(obj["kind"]), lambda: len(seen) == 2))
    assert seen == ["Agent", "Pool"]


class Pages:
    """A cluster whose lists are those of before: what happens while they are read is in none."""

    def __init__(self, pools: list[Any], meanwhile: Callable[[], None] = lambda: None) -> None:
        self._pools = pools
        self._meanwhile = meanwhile

    async def objects(
        self, kind: str, namespace: str = "", selector: str = ""
    ) -> AsyncIterator[dict[str, Any]]:
        if kind == "SeedLayer":
            raise NotFoundError("object", "404 page not found")
        if kind == "Pool":
            self._meanwhile()
        for obj in self._pools if kind == "Pool" else ():
            yield obj


def pool(name: str, version: int) -> dict[str, Any]:
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}-{version}"}
    known = {"apiVersion": API_VERSION, "kind": "Pool", "spec": {"replicas": 0}}
    return {**known, "metadata": {**metadata, "resourceVersion": str(version)}}


async def reconciler() -> Reconciler:
    coordinator = MemoryCoordinator()
    async with coordinator.lease() as lease:
        ownership = await coordinator.campaign("operator", "me", lease)
    return Reconciler(MemoryCluster(), MemoryBus(), coordinator, ownership, Defaults())


def test_a_listing_finds_what_went_unseen_and_leaves_what_came_meanwhile() -> None:
    async def body() -> None:
        judge = await reconciler()
        for name in ("gone", "reborn", "stays"):
            judge.notice(pool(name, 1))

        def meanwhile() -> None:
            judge.notice(pool("reborn", 4), deleted=True)
            judge.notice(pool("reborn", 5))
            judge.notice(pool("stays", 6), deleted=True)

        pages: Any = Pages([pool("stays", 1)], meanwhile)
        before = judge.cache.before_listing()
        judge.listed(before, await watch.list_everything(pages, judge))
        assert {key.name for key in judge.cache.own_keys()} == {"reborn"}

    run_async(body())


def test_an_api_server_that_was_restored_from_a_backup_is_believed() -> None:
    """Its versions count from the backup's time again, below those that are known."""

    async def body() -> None:
        judge = await reconciler()
        for name, version in (("changed", 90), ("made-since", 91), ("same", 5)):
            judge.notice(pool(name, version))
        judge.notice(pool("deleted-since", 92), deleted=True)
        there = [pool("changed", 4), pool("same", 5), pool("deleted-since", 6)]
        pages: Any = Pages(there)
        await watch.compare(pages, judge)
        assert {key.name for key in judge.cache.own_keys()} == {"changed", "same", "deleted-since"}
        for obj in there:
            assert judge.cache.get(key_of(obj)) == obj
        judge.notice(pool("changed", 7))
        changed = judge.cache.get(key_of(there[0]))
        assert changed is not None
        assert changed["metadata"]["resourceVersion"] == "7", "what is watched next is newer"
        await watch.compare(pages, judge)

    run_async(body())


def test_a_kind_that_is_not_installed_stops_no_other() -> None:
    async def body() -> None:
        judge = await reconciler()
        pages: Any = Pages([pool("general", 1)])
        known = {Key("Pool", "default", "general"): 1}
        assert await watch.list_everything(pages, judge) == known

    run_async(body())
