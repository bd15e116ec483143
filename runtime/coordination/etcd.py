"""The Coordinator on etcd, through the gRPC messages of `aetcd`.

Layout under the root: `settings/KEY` holds a live setting, `owners/NAME/LEASE` a place in the queue
for a name; the place with the smallest create revision owns it, and that revision is the token. A
setting written under an ownership is written by a transaction that compares this revision.

Of aetcd only the generated messages and stubs are used. Its client has no TLS and no keep-alive
loop, its watch does not resume and its lock can be entered without being held.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import quote

from aetcd import rpc

from seedbed.crds.errors import FencedError, UnavailableError
from seedbed.runtime.coordination.etcd_channel import (
    EtcdChannel,
    Watch,
    prefix_end,
    translated,
)
from seedbed.runtime.coordination.etcd_gathered import GatheredWrites, Write
from seedbed.runtime.coordination.lease import HeldLease, while_held
from seedbed.runtime.coordination.port import Change, Lease, Ownership

ROOT = "/seedbed/"
RETRY_SECONDS = 0.2
CLEAN_UP_SECONDS = 2.0


class EtcdCoordinator:
    """A Coordinator on etcd; see `Coordinator` for what each method promises."""

    def __init__(self, channel: EtcdChannel, root: str = ROOT) -> None:
        self._etcd = channel
        self._settings = f"{root}settings/"
        self._owners = f"{root}owners/"
        self._gathered = GatheredWrites(self._fenced)

    @classmethod
    def open(
        cls,
        endpoint: str,
        *,
        ca: str | None = None,
        cert: str | None = None,
        key: str | None = None,
    ) -> EtcdCoordinator:
        """A coordinator on `http://HOST:PORT` or `https://HOST:PORT`; it connects when first used.

        Args:
            endpoint: where etcd listens.
            ca: file with the authorities to trust, for https; the system's where not given.
            cert: file with the client's certificate chain, for mutual TLS.
            key: file with the client's private key.

        Raises:
            InvalidError: where the endpoint is neither.
        """
        return cls(EtcdChannel(endpoint, ca, cert, key))

    @asynccontextmanager
    async def lease(self, ttl: float = 10.0) -> AsyncIterator[Lease]:
        """Open a lease and keep it alive; etcd counts in whole seconds, so `ttl` is rounded up."""
        sent = time.monotonic()
        with translated():
            grant = await self._etcd.grant(math.ceil(ttl))
        lease = HeldLease(grant.ID, float(grant.TTL), sent + grant.TTL)
        keeper = asyncio.create_task(self._keep(lease), name=f"lease {lease.id:x}")
        try:
            yield lease
        finally:
            keeper.cancel()
            await asyncio.wait({keeper})
            lease.end()
            with contextlib.suppress(UnavailableError), translated():
                # Where etcd cannot be told, the lease runs out by itself.
                await self._etcd.revoke(lease.id, CLEAN_UP_SECONDS)

    async def _keep(self, lease: HeldLease) -> None:
        try:
            while lease.alive:
                sent = time.monotonic()
                wait = RETRY_SECONDS
                with contextlib.suppress(UnavailableError), translated():
                    left = await self._etcd.keep_alive(lease.id, max(lease.remaining / 2, 0.05))
                    if left <= 0:
                        return
                    lease.renew(sent, left)
                    wait = lease.ttl / 3
                await asyncio.sleep(max(0.0, min(wait, lease.remaining)))
        finally:
            lease.end()

    async def acquire(self, name: str, holder: str, lease: Lease) -> Ownership | None:
        """Own the name now, or None where somebody else does."""
        queue, place = self._queue(name), self._place(name, lease)
        nobody = rpc.Compare(
            target=rpc.Compare.CREATE,
            key=queue,
            range_end=prefix_end(queue),
            create_revision=0,
        )
        with translated():
            answer = await self._etcd.transaction(
                [nobody], [_put(place, holder.encode(), _id(lease))], [_range(_first(queue))]
            )
        if answer.succeeded:
            return Ownership(name, answer.header.revision, lease)
        found = answer.responses[0].response_range.kvs
        if found and found[0].key == place:
            return Ownership(name, found[0].create_revision, lease)
        return None

    async def campaign(self, name: str, holder: str, lease: Lease) -> Ownership:
        """Wait in order of arrival until this process owns the name."""
        try:
            token = await while_held(lease, self._campaign(name, holder, lease))
        except BaseException:
            # Also when cancelled: a place that nobody waits at would stop those behind it.
            with contextlib.suppress(UnavailableError), translated():
                await self._etcd.transaction([], [_delete(self._place(name, lease))], [])
            raise
        return Ownership(name, token, lease)

    async def _campaign(self, name: str, holder: str, lease: Lease) -> int:
        place = self._place(name, lease)
        mine = _range(rpc.RangeRequest(key=place))
        absent = _created(place, 0)
        while True:
            try:
                with translated():
                    answer = await self._etcd.transaction(
                        [absent], [_put(place, holder.encode(), _id(lease))], [mine]
                    )
                    token = int(answer.header.revision)
                    if not answer.succeeded:
                        token = int(answer.responses[0].response_range.kvs[0].create_revision)
                    if await self._wait_turn(self._queue(name), place, token):
                        return token
            except UnavailableError:
                # The lease says when to give up; until then etcd may come back.
                await asyncio.sleep(RETRY_SECONDS)

    async def _wait_turn(self, queue: bytes, place: bytes, token: int) -> bool:
        """Wait until nobody stands before the place; False where the place itself is gone."""
        before = rpc.RangeRequest(
            key=queue,
            range_end=prefix_end(queue),
            max_create_revision=token - 1,
            sort_order=rpc.RangeRequest.DESCEND,
            sort_target=rpc.RangeRequest.CREATE,
            limit=1,
        )
        while True:
            answer = await self._etcd.transaction([_created(place, token)], [_range(before)], [])
            if not answer.succeeded:
                return False
            found = answer.responses[0].response_range.kvs
            if not found:
                return True
            watch = Watch(self._etcd, found[0].key, b"")
            watch.resume({found[0].key: found[0].mod_revision}, answer.header.revision)
            try:
                async for _, value in watch:
                    if value is None:
                        break
            finally:
                watch.cancel()

    async def resign(self, ownership: Ownership) -> None:
        """Give the name back at once."""
        place = self._place(ownership.name, ownership.lease)
        with translated():
            await self._etcd.transaction([_created(place, ownership.token)], [_delete(place)], [])

    async def holder(self, name: str) -> tuple[str, int] | None:
        """Who owns the name, with the token."""
        with translated():
            answer = await self._etcd.range(_first(self._queue(name)))
        for owner in answer.kvs:
            return owner.value.decode(), owner.create_revision
        return None

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        lease: Lease | None = None,
        under: Ownership | None = None,
    ) -> None:
        """Set a live setting; see `Coordinator.put`."""
        setting = (self._settings + key).encode()
        operation = _put(setting, value, 0 if lease is None else _id(lease))
        if under is None or lease is not None:
            await self._write(operation, under)
        else:
            await self._gathered.write(under, Write(setting, operation, len(value)))

    async def delete(self, key: str, *, under: Ownership | None = None) -> None:
        """Remove a live setting; see `Coordinator.delete`."""
        setting = (self._settings + key).encode()
        if under is None:
            await self._write(_delete(setting), under)
        else:
            await self._gathered.write(under, Write(setting, _delete(setting)))

    async def _write(self, operation: Any, under: Ownership | None) -> None:
        if under is not None:
            await self._fenced(under, [operation])
            return
        with translated():
            await self._etcd.transaction([], [operation], [])

    async def _fenced(self, under: Ownership, operations: Sequence[Any]) -> None:
        owned = _created(self._place(under.name, under.lease), under.token)
        with translated():
            answer = await self._etcd.transaction(
                [owned], operations, [_range(_first(self._queue(under.name)))]
            )
        if not answer.succeeded:
            owners = answer.responses[0].response_range.kvs
            newest = owners[0].create_revision if owners else None
            raise FencedError(under.name, under.token, newest)

    async def settings(self, prefix: str) -> Mapping[str, bytes]:
        """Every live setting whose key begins with the prefix."""
        key = (self._settings + prefix).encode()
        with translated():
            answer = await self._etcd.range(rpc.RangeRequest(key=key, range_end=prefix_end(key)))
        return {self._setting(found.key): found.value for found in answer.kvs}

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[AsyncIterator[Change]]:
        """What is there, then each change, over every break of the connection."""
        key = (self._settings + prefix).encode()
        watch = Watch(self._etcd, key, prefix_end(key))
        with translated():
            await watch.list()
        try:
            yield _Changes(watch, len(self._settings))
        finally:
            watch.cancel()

    async def close(self) -> None:
        """Disconnect."""
        await self._etcd.close()

    def _queue(self, name: str) -> bytes:
        # Quoted, so that no name's queue lies within another's.
        return f"{self._owners}{quote(name, safe='')}/".encode()

    def _place(self, name: str, lease: Lease) -> bytes:
        return self._queue(name) + f"{_id(lease):x}".encode()

    def _setting(self, key: bytes) -> str:
        return key.decode()[len(self._settings) :]


class _Changes:
    """The watch of a prefix in the port's words."""

    def __init__(self, watch: Watch, cut: int) -> None:
        self._watch = watch
        self._cut = cut

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        key, value = await anext(self._watch)
        return Change(key.decode()[self._cut :], value)


def _id(lease: Lease) -> int:
    assert isinstance(lease, HeldLease), "a lease of another coordinator"
    return lease.id


def _created(key: bytes, revision: int) -> Any:
    return rpc.Compare(target=rpc.Compare.CREATE, key=key, create_revision=revision)


def _put(key: bytes, value: bytes, lease: int) -> Any:
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease))


def _delete(key: bytes) -> Any:
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))


def _range(request: Any) -> Any:
    return rpc.RequestOp(request_range=request)


def _first(queue: bytes) -> Any:
    """The place at the head of a queue."""
    return rpc.RangeRequest(
        key=queue,
        range_end=prefix_end(queue),
        sort_order=rpc.RangeRequest.ASCEND,
        sort_target=rpc.RangeRequest.CREATE,
        limit=1,
    )
