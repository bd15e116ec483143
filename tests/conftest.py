"""What every test may use."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_async(body: Coroutine[Any, Any, T], limit: float = 60.0) -> T:
    """Run a test's coroutine to its end within `limit` seconds."""

    async def bounded() -> T:
        async with asyncio.timeout(limit):
            return await body

    return asyncio.run(bounded())
