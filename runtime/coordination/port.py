"""The Coordinator port: keys that live as long as a lease, ownership with fencing, live settings.

Ownership: the first to create a key under its lease owns the name until the lease ends. The fencing
token is the key's create revision, which only grows; whoever writes under an ownership sends it along.

A lease is held by the clock: the holder counts from before it sent the last keep-alive that succeeded,
so it stops before the server does, also when the process was paused.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol


class Lease(Protocol):
    """Proof of life. It is kept alive while its context is open."""

    @property
    def ttl(self) -> float:
        """Seconds it lives without a keep-alive."""

    @property
    def alive(self) -> bool:
        """Whether, by this process's monotonic clock, the lease is certainly still valid."""

    @property
    def lost(self) -> asyncio.Event:
        """Set once the lease has ended for whatever reason; it never comes back."""


@dataclass(frozen=True, slots=True)
class Ownership:
    """A name held under a lease.

    Attributes:
        token: the fencing token: larger than that of every earlier owner of the name.
    """

    name: str
    token: int
    lease: Lease

    @property
    def held(self) -> bool:
        """Whether it is certainly still held; check it right before each write."""
        return self.lease.alive


@dataclass(frozen=True, slots=True)
class Change:
    """A live setting changed. `value` is None where it was deleted."""

    key: str
    value: bytes | None


class Coordinator(Protocol):
    """Every method may raise UnavailableError when the server does not answer in time."""

    def lease(self, ttl: float = 10.0) -> AbstractAsyncContextManager[Lease]:
        """Open a lease and keep it alive; it is revoked when the context closes."""

    async def acquire(self, name: str, holder: str, lease: Lease) -> Ownership | None:
        """Own the name now, or None where somebody else does."""

    async def campaign(self, name: str, holder: str, lease: Lease) -> Ownership:
        """Wait until this process owns the name. Waits are fair: in order of arrival.

        Raises:
            UnavailableError: where the lease ended while waiting.
        """

    async def resign(self, ownership: Ownership) -> None:
        """Give the name back at once."""

    async def holder(self, name: str) -> tuple[str, int] | None:
        """Who owns the name, with the token; None where nobody does."""

    async def put(
        self,
        key: str,
        value: bytes,
        *,
        lease: Lease | None = None,
        under: Ownership | None = None,
    ) -> None:
        """Set a live setting; it goes with the lease where one is given.

        Raises:
            FencedError: where `under` is given and no longer the current ownership; nothing is set.
        """

    async def delete(self, key: str, *, under: Ownership | None = None) -> None:
        """Remove a live setting; no error where it does not exist. Errors as `put`."""

    async def settings(self, prefix: str) -> Mapping[str, bytes]:
        """Every live setting whose key begins with the prefix."""

    def watch(self, prefix: str) -> AbstractAsyncContextManager[AsyncIterator[Change]]:
        """First every setting under the prefix as a Change, then each change, none missed.

        A connection that breaks is made anew, and what changed meanwhile is told, deletions too.
        """

    async def close(self) -> None:
        """Disconnect."""
