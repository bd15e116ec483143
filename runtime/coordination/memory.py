"""The Coordinator within one process, for `seedbed run` and tests.

Everyone who is to see each other shares one MemoryCoordinator. A lease lives until its context
closes: where holder and server are one process, neither can outlive the other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from seedbed.crds.errors import FencedError, UnavailableError
from seedbed.runtime.coordination.lease import HeldLease, while_held
from seedbed.runtime.coordination.port import Change, Lease, Ownership


@dataclass(slots=True, eq=False)
class _Candidate:
    token: int
    holder: str
    lease: Lease
    first: asyncio.Event = field(default_factory=asyncio.Event)


class MemoryCoordinator:
    """A Coordinator in process; see `Coordinator` for what each method promises.

    Tokens are larger than `after`: whoever keeps a store beyond the process makes it grow with each.
    """

    def __init__(self, after: int = 0) -> None:
        self._last = after
        self._settings: dict[str, tuple[bytes, Lease | None]] = {}
        self._queues: dict[str, list[_Candidate]] = {}
        self._watches: list[tuple[str, asyncio.Queue[Change]]] = []

    def _next(self) -> int:
        self._last += 1
        return self._last

    @asynccontextmanager
    async def lease(self, ttl: float = 10.0) -> AsyncIterator[Lease]:
        """A lease that lives as long as the context."""
        lease = HeldLease(self._next(), ttl)
        try:
            yield lease
        finally:
            self.expire(lease)

    def expire(self, lease: Lease) -> None:
        """End a lease now, as if its holder had died."""
        if isinstance(lease, HeldLease):
            lease.end()
        for name in list(self._queues):
            self._leave(name, lease)
        for key in [key for key, (_, of) in self._settings.items() if of is lease]:
            self._set(key, None, None)

    async def acquire(self, name: str, holder: str, lease: Lease) -> Ownership | None:
        """Own the name now, or None where somebody else does."""
        _require(lease)
        queue = self._queues.get(name)
        if queue and queue[0].lease is not lease:
            return None
        candidate = self._join(name, holder, lease)
        return Ownership(name, candidate.token, lease)

    async def campaign(self, name: str, holder: str, lease: Lease) -> Ownership:
        """Wait until this process owns the name."""
        _require(lease)
        candidate = self._join(name, holder, lease)
        try:
            await while_held(lease, candidate.first.wait())
        except BaseException:
            self._leave(name, lease)
            raise
        return Ownership(name, candidate.token, lease)

    async def resign(self, ownership: Ownership) -> None:
        """Give the name back at once."""
        if self._owns(ownership):
            self._leave(ownership.name, ownership.lease)

    async def holder(self, name: str) -> tuple[str, int] | None:
        """Who owns the name, with the token."""
        queue = self._queues.get(name)
        return (queue[0].holder, queue[0].token) if queue else None

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        lease: Lease | None = None,
        under: Ownership | None = None,
    ) -> None:
        """Set a live setting; see `Coordinator.put`."""
        self._fence(under)
        if lease is not None:
            _require(lease)
        self._set(key, value, lease)

    async def delete(self, key: str, *, under: Ownership | None = None) -> None:
        """Remove a live setting; see `Coordinator.delete`."""
        self._fence(under)
        if key in self._settings:
            self._set(key, None, None)

    async def settings(self, prefix: str) -> Mapping[str, bytes]:
        """Every live setting whose key begins with the prefix."""
        found = self._settings.items()
        return {key: value for key, (value, _) in sorted(found) if key.startswith(prefix)}

    @asynccontextmanager
    async def watch(self, prefix: str) -> AsyncIterator[AsyncIterator[Change]]:
        """What is there, then each change."""
        queue: asyncio.Queue[Change] = asyncio.Queue()
        for key, value in (await self.settings(prefix)).items():
            queue.put_nowait(Change(key, value))
        entry = (prefix, queue)
        self._watches.append(entry)
        try:
            yield _Changes(queue)
        finally:
            self._watches.remove(entry)

    async def close(self) -> None:
        """Nothing to disconnect."""

    def _join(self, name: str, holder: str, lease: Lease) -> _Candidate:
        queue = self._queues.setdefault(name, [])
        for candidate in queue:
            if candidate.lease is lease:
                return candidate
        candidate = _Candidate(self._next(), holder, lease)
        queue.append(candidate)
        queue[0].first.set()
        return candidate

    def _leave(self, name: str, lease: Lease) -> None:
        queue = [each for each in self._queues.get(name, ()) if each.lease is not lease]
        if queue:
            self._queues[name] = queue
            queue[0].first.set()
        else:
            self._queues.pop(name, None)

    def _owns(self, ownership: Ownership) -> bool:
        queue = self._queues.get(ownership.name)
        return bool(queue) and queue is not None and queue[0].token == ownership.token

    def _fence(self, under: Ownership | None) -> None:
        if under is not None and not self._owns(under):
            queue = self._queues.get(under.name)
            raise FencedError(under.name, under.token, queue[0].token if queue else None)

    def _set(self, key: str, value: bytes | None, lease: Lease | None) -> None:
        if value is None:
            del self._settings[key]
        else:
            self._settings[key] = (value, lease)
        for prefix, queue in self._watches:
            if key.startswith(prefix):
                queue.put_nowait(Change(key, value))


class _Changes:
    """Unlike a generator, it goes on after a wait for the next change was cancelled."""

    def __init__(self, queue: asyncio.Queue[Change]) -> None:
        self._queue = queue

    def __aiter__(self) -> AsyncIterator[Change]:
        return self

    async def __anext__(self) -> Change:
        return await self._queue.get()


def _require(lease: Lease) -> None:
    if not lease.alive:
        raise UnavailableError("the lease has ended")
