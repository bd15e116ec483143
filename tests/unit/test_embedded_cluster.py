"""The cluster in memory keeps to the API server's rules."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from seedbed.cli.embedded.cluster import MemoryCluster
from seedbed.controllers.plan import Event, Key, Raw
from seedbed.crds.errors import ConflictError, FencedError

POOL = Key("Pool", "default", "general")


def pool(replicas: int = 1, **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "seedbed.dev/v1alpha1",
        "kind": "Pool",
        "metadata": {"name": "general", "namespace": "default", **metadata},
        "spec": {"replicas": replicas},
    }


def with_status(obj: Raw, **status: Any) -> dict[str, Any]:
    return {**obj, "status": status}


def test_the_server_sets_what_is_the_servers() -> None:
    async def body() -> None:
        cluster = MemoryCluster()
        first = await cluster.apply(pool(uid="mine", generation=7))
        assert first["metadata"]["uid"] not in ("", "mine")
        assert first["metadata"]["generation"] == 1
        second = await cluster.apply(pool(2))
        assert second["metadata"]["uid"] == first["metadata"]["uid"]
        assert second["metadata"]["generation"] == 2
        labelled = await cluster.apply(pool(2, labels={"a": "b"}))
        assert labelled["metadata"]["generation"] == 2
        assert "labels" not in (await cluster.apply(pool(2)))["metadata"]

    asyncio.run(body())


def test_a_write_that_changes_nothing_is_no_change() -> None:
    async def body() -> None:
        cluster, heard = MemoryCluster(), []
        cluster.listen(lambda change, obj: heard.append((change, obj["metadata"]["name"])))
        first = await cluster.apply(pool())
        assert await cluster.apply(pool()) == first
        await cluster.apply_status(with_status(first, workers=1))
        await cluster.apply_status(with_status(first, workers=1))
        assert heard == [("ADDED", "general"), ("MODIFIED", "general")]

    asyncio.run(body())


def test_status_and_spec_are_written_apart() -> None:
    async def body() -> None:
        cluster = MemoryCluster()
        first = await cluster.apply(with_status(pool(), workers=9))
        assert "status" not in first
        told = await cluster.apply_status(with_status(pool(5), workers=1))
        assert told["spec"] == {"replicas": 1}
        assert told["metadata"]["generation"] == 1
        assert (await cluster.apply(pool(2)))["status"] == {"workers": 1}

    asyncio.run(body())


def test_a_stale_operator_and_a_gone_object_are_refused() -> None:
    async def body() -> None:
        cluster = MemoryCluster()
        first = await cluster.apply(pool())
        await cluster.apply_status(with_status(first, fencingToken=5))
        with pytest.raises(FencedError):
            await cluster.apply_status(with_status(first, fencingToken=4))
        await cluster.delete(POOL, "another")
        assert cluster.get(POOL) is not None
        await cluster.delete(POOL, first["metadata"]["uid"])
        with pytest.raises(ConflictError):
            await cluster.apply_status(with_status(first, fencingToken=6))

    asyncio.run(body())


def test_what_an_object_owns_goes_with_it() -> None:
    async def body() -> None:
        cluster = MemoryCluster()
        owner = await cluster.apply(pool())
        child = {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "metadata": {
                "name": "general",
                "ownerReferences": [{"uid": owner["metadata"]["uid"]}],
            },
        }
        await cluster.apply(child)
        assert len(cluster.listed()) == 2
        await cluster.delete(POOL, owner["metadata"]["uid"])
        assert cluster.listed() == []

    asyncio.run(body())


def test_nobody_changes_what_is_stored_from_outside() -> None:
    async def body() -> None:
        cluster, mine = MemoryCluster(), pool()
        await cluster.apply(mine)
        mine["spec"]["replicas"] = 9
        found: Any = cluster.get(POOL)
        found["spec"]["replicas"] = 8
        again = cluster.get(POOL)
        assert again is not None
        assert again["spec"] == {"replicas": 1}

    asyncio.run(body())


def test_objects_of_an_earlier_process_keep_their_identity() -> None:
    async def body() -> None:
        before = MemoryCluster()
        first = await before.apply(pool())
        after = MemoryCluster(before.listed())
        assert await after.apply(pool()) == first
        changed = await after.apply(pool(2))
        assert changed["metadata"]["uid"] == first["metadata"]["uid"]
        assert int(changed["metadata"]["resourceVersion"]) > int(
            first["metadata"]["resourceVersion"]
        )

    asyncio.run(body())


def test_the_same_event_again_is_counted() -> None:
    async def body() -> None:
        cluster = MemoryCluster()
        event = Event("Normal", "Ready", "4 workers")
        await cluster.record(pool(), event)
        await cluster.record(pool(), event)
        (one,) = cluster.events(POOL)
        assert (one.event, one.count) == (event, 2)
        assert cluster.events(Key("Pool", "default", "other")) == []

    asyncio.run(body())
