"""State folders of `seedbed run`, filled by hand, for tests of the commands that read them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from seedbed.cli.embedded.cluster import MemoryCluster
from seedbed.cli.embedded.state import folder
from seedbed.runtime.store.sql import SqlStore
from tests.conftest import run_async


def filled_folder(path: Path, fill: Callable[[SqlStore], Awaitable[None]]) -> list[str]:
    """Make a folder whose store holds what `fill` puts into it; gives the options that name it."""
    state = folder(path)
    state.save(MemoryCluster(), 1)

    async def filling() -> None:
        store = SqlStore.open(state.database)
        try:
            await store.migrate()
            await fill(store)
        finally:
            await store.close()

    run_async(filling())
    return ["--local", str(state.path)]
