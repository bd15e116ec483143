"""What the steps of the benchmarks do: nothing."""

from __future__ import annotations


async def nothing() -> None:
    """A step that needs no thread."""


def plain() -> None:
    """A step as most users write it; each call gets a thread, so that its time limit holds."""
