"""What every test may use."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Coroutine
from typing import Any, TypeVar

from hypothesis import settings

T = TypeVar("T")

# Small tensors on many threads wait for each other, minutes where the machine has other work. It must be
# said before torch is imported, and the processes that tests start hear it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says something of the machine only.
settings.register_profile("seedbed", deadline=None)
settings.load_profile("seedbed")


def run_async(body: Coroutine[Any, Any, T], limit: float = 60.0) -> T:
    """Run a test's coroutine to its end within `limit` seconds."""

    async def bounded() -> T:
        async with asyncio.timeout(limit):
            return await body

    return asyncio.run(bounded())
