"""What every test may use."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine, Iterator
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

T = TypeVar("T")


class ByFile(LoadFileScheduling):  # type: ignore[misc]  # xdist has no types
    """Tests of a file follow each other in one process, and so do all tests on the one node."""

    def _split_scope(self, nodeid: str) -> str:
        file: str = super()._split_scope(nodeid)
        return "node" if file.startswith("tests/e2e/") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByFile:
    """Asked where tests run in several processes."""
    return ByFile(config, log)


# Small tensors on many threads wait for each other, minutes where the machine has other work. It must be
# said before torch is imported, and the processes that tests start hear it too.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# How long an example takes says something of the machine only.
settings.register_profile("seedbed", deadline=None)
settings.load_profile("seedbed")


@pytest.fixture(autouse=True)
def answers_as_described() -> Iterator[None]:
    """Whatever a service answers in a test is as its description says."""
    if "seedbed.runtime.openapi" not in sys.modules:
        yield
        return
    from tests.described import held_to_descriptions  # noqa: PLC0415  # where there are services

    with held_to_descriptions() as wrong:
        yield
    assert not wrong, "\n".join(dict.fromkeys(wrong))


def run_async(body: Coroutine[Any, Any, T], limit: float = 60.0) -> T:
    """Run a test's coroutine to its end within `limit` seconds."""

    async def bounded() -> T:
        async with asyncio.timeout(limit):
            return await body

    return asyncio.run(bounded())
