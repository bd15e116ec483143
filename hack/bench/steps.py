"""What the steps of the benchmarks do: next to nothing."""

from __future__ import annotations

import asyncio
import hashlib


async def nothing() -> None:
    """A step that needs no thread."""


def plain() -> None:
    """A step as most users write it; each call gets a thread, so that its time limit holds."""


async def mixed(n: int, of: list[str], wait: float = 0.0) -> str:
    """A value that tells which step made it out of which values."""
    await asyncio.sleep(wait)
    return hashlib.sha256(f"{n} {' '.join(of)}".encode()).hexdigest()[:16]
