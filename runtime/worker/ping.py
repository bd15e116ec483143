"""What a worker says of itself: the smallest proof that a Pool executes steps."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version


def ping() -> dict[str, str | None]:
    """Status and versions; `dspy` is None in an image whose Pools ask no Agents."""
    return {
        "status": "ok",
        "seedbed": _version("seedbed"),
        "dspy": _version("dspy"),
        "python": platform.python_version(),
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
