"""What every test may use."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings

T = TypeVar("T")

# How long an example takes says something of the machine only.
settings.register_profile("seedbed", deadline=None)
settings.load_profile("seedbed")


def run_async(body: Coroutine[Any, Any, T], limit: float = 60.0) -> T:
    """Run a test's coroutine to its end within `limit` seconds."""

    async def bounded() -> T:
        async with asyncio.timeout(limit):
            return await body

    return asyncio.run(bounded())
