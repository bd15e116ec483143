"""What the steps of the benchmarks do: nothing, or fail by a draw that only their name decides."""

from __future__ import annotations

import hashlib


async def nothing() -> None:
    """A step that needs no thread."""


def plain() -> None:
    """A step as most users write it; each call gets a thread, so that its time limit holds."""


def draw(*about: str) -> float:
    """A number from 0 to 1 that is always the same for the same words."""
    digest = hashlib.sha256("/".join(about).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


async def first(seed: str, name: str, share: float, lost: float, again: float) -> str:  # noqa: ARG001  # shared arguments
    """Fails for a share of the names, however often it is tried."""
    if draw(seed, name, "first") < share:
        raise _error(seed, name)
    return "first"


async def second(seed: str, name: str, share: float, lost: float, again: float) -> str:
    """Another way: fails for names that are lost, and for a share of the others."""
    return _other("second", seed, name, share, lost, again)


async def third(seed: str, name: str, share: float, lost: float, again: float) -> str:
    """One more."""
    return _other("third", seed, name, share, lost, again)


def _other(way: str, seed: str, name: str, share: float, lost: float, again: float) -> str:
    assert draw(seed, name, "first") < share, "another way was taken without need"
    if draw(seed, name, "lost") < lost or draw(seed, name, way) < again:
        raise _error(seed, name)
    return way


def _error(seed: str, name: str) -> Exception:
    if draw(seed, name, "kind") < 0.5:
        return ConnectionError("the other side is gone")
    return RuntimeError("this way does not work")
