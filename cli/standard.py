"""The three standard Pools: made in a cluster where they are missing, or beside manifests that need them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from seedbed.controllers.plan import Key, Raw
from seedbed.crds.errors import RetryableError
from seedbed.crds.kinds import BY_NAME
from seedbed.crds.pool import STANDARD_POOLS
from seedbed.operator.registration import REGISTRATIONS

if TYPE_CHECKING:
    from seedbed.cli.cluster import ClusterSource

_POOL = BY_NAME["Pool"]
_AGAIN = 1.0


def standard_pool(name: str, namespace: str) -> Raw:
    """One of the standard Pools as an object."""
    return {
        "apiVersion": _POOL.api_version,
        "kind": _POOL.name,
        "metadata": {"name": name, "namespace": namespace},
        "spec": STANDARD_POOLS[name].model_dump(mode="json", by_alias=True, exclude_none=True),
    }


def missing_pools(objects: Sequence[Raw]) -> list[Raw]:
    """The standard Pools that objects name and do not bring along."""
    named = dict.fromkeys(key for obj in objects for key in _pools_of(obj))
    brought = {
        (obj["metadata"]["namespace"], obj["metadata"]["name"])
        for obj in objects
        if obj["kind"] == _POOL.name
    }
    return [
        standard_pool(key.name, key.namespace)
        for key in named
        if key.name in STANDARD_POOLS and (key.namespace, key.name) not in brought
    ]


async def create(source: ClusterSource, namespace: str | None, limit: float) -> int:
    """Make the standard Pools in a namespace where they are missing; the exit code.

    Right after an installation the webhook may not answer yet, so that is tried for `limit` seconds.
    """
    async with asyncio.timeout(limit):
        for name in STANDARD_POOLS:
            pool = standard_pool(name, namespace or source.namespace)
            made = await _create(source, pool)
            print(f"pool {name} {'created' if made else 'is there already'}")
    return 0


async def _create(source: ClusterSource, pool: Raw) -> bool:
    while True:
        try:
            return await source.create(_POOL, pool)
        except RetryableError as error:
            print(f"waiting: {error}")
            await asyncio.sleep(_AGAIN)


def _pools_of(obj: Raw) -> Iterator[Key]:
    known = REGISTRATIONS.get(obj["kind"])
    return (key for key in known.references(obj) if key.kind == _POOL.name) if known else iter(())
