"""What the steps of the kill benchmark do: values that depend on each other."""

from __future__ import annotations

import asyncio
import hashlib


async def mixed(n: int, of: list[str], wait: float = 0.0) -> str:
    """A value that tells which step made it out of which values."""
    await asyncio.sleep(wait)
    return hashlib.sha256(f"{n} {' '.join(of)}".encode()).hexdigest()[:16]
