"""What the operator needs of a cluster: four writes. Reading is done by the watches.

`kubernetes` does it against a real API server; `seedbed run` brings one in memory.
"""

from __future__ import annotations

from typing import Protocol

from seedbed.controllers.plan import Event, Key, Raw


class Cluster(Protocol):
    """Writes objects. Every method may raise UnavailableError or ConflictError."""

    async def apply(self, obj: Raw) -> Raw:
        """Server-side apply of a whole object under Seedbed's field manager; returns it as stored."""
        ...

    async def apply_status(self, obj: Raw) -> Raw:
        """Server-side apply of an object's status subresource.

        Raises:
            FencedError: where the object's fencing token is larger than the one sent.
        """
        ...

    async def delete(self, key: Key, uid: str) -> None:
        """Delete an object; no error where it is gone or is another one by that name."""
        ...

    async def record(self, about: Raw, event: Event) -> None:
        """Record a Kubernetes Event about an object."""
        ...
