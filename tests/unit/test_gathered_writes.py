"""Writes under an ownership: gathered, in order, each answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from seedbed.crds.errors import UnavailableError
from seedbed.runtime.coordination.etcd_gathered import MOST_WRITES, GatheredWrites, Write
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.coordination.port import Ownership
from tests.conftest import run_async


class Etcd:
    """Holds the first transaction until told; fails those that hold the operation `bad`."""

    def __init__(self) -> None:
        self.sent: list[list[str]] = []
        self.go = asyncio.Event()

    async def send(self, _: Ownership, operations: Sequence[str]) -> None:
        self.sent.append(list(operations))
        if len(self.sent) == 1:
            await self.go.wait()
        if "bad" in operations:
            raise UnavailableError("etcd is away")


async def owned() -> Ownership:
    coordinator = MemoryCoordinator()
    async with coordinator.lease() as lease:
        return await coordinator.campaign("operator", "me", lease)


def write(name: str, size: int = 1) -> Write:
    return Write(name.partition("=")[0].encode(), name, size)


def test_what_comes_during_a_transaction_goes_out_together_and_a_key_once_in_each() -> None:
    async def body() -> None:
        etcd, ownership = Etcd(), await owned()
        writes = GatheredWrites(etcd.send)
        names = ["first", *(f"key-{n}" for n in range(MOST_WRITES)), "a=1", "b", "a=2", "c"]
        async with asyncio.TaskGroup() as tasks:
            for name in names:
                tasks.create_task(writes.write(ownership, write(name)))
            await asyncio.sleep(0)
            etcd.go.set()
        assert [len(each) for each in etcd.sent] == [1, MOST_WRITES, 2, 2]
        assert [name for each in etcd.sent for name in each] == names
        await writes.write(ownership, write("later"))
        assert etcd.sent[-1] == ["later"]

    run_async(body())


def test_large_values_go_alone() -> None:
    async def body() -> None:
        etcd, ownership = Etcd(), await owned()
        writes = GatheredWrites(etcd.send)
        async with asyncio.TaskGroup() as tasks:
            for name in ("first", "large", "larger", "small"):
                size = 400_000 if "large" in name else 1
                tasks.create_task(writes.write(ownership, write(name, size)))
            await asyncio.sleep(0)
            etcd.go.set()
        assert etcd.sent == [["first"], ["large"], ["larger", "small"]]

    run_async(body())


def test_a_failure_is_told_to_all_that_went_together_and_stops_nobody_else() -> None:
    async def body() -> None:
        etcd, ownership = Etcd(), await owned()
        writes = GatheredWrites(etcd.send)
        names = ("first", "a=1", "bad", "a=2")
        going = [asyncio.ensure_future(writes.write(ownership, write(name))) for name in names]
        await asyncio.sleep(0)
        etcd.go.set()
        results = await asyncio.gather(*going, return_exceptions=True)
        assert [type(each) for each in results] == [
            type(None), UnavailableError, UnavailableError, type(None),
        ]  # fmt: skip

    run_async(body())


@pytest.mark.parametrize("gone", [0, 1])
def test_a_writer_that_is_cancelled_takes_no_other_with_it(gone: int) -> None:
    async def body() -> None:
        etcd, ownership = Etcd(), await owned()
        writes = GatheredWrites(etcd.send)
        names = ("a", "b", "c")
        going = [asyncio.ensure_future(writes.write(ownership, write(name))) for name in names]
        await asyncio.sleep(0)
        going[gone].cancel()
        await asyncio.wait({going[gone]}, timeout=10)
        etcd.go.set()
        async with asyncio.timeout(10):
            await asyncio.gather(*(each for each in going if not each.cancelled()))
        assert sum(each.cancelled() for each in going) == 1
        sent = {name for each in etcd.sent for name in each}
        assert sent >= {*names} - {names[gone]}

    run_async(body())
