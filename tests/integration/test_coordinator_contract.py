"""What every Coordinator promises, in process and on a real etcd."""

# ruff: noqa: SIM117  # nested blocks show what is closed before what

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager

import grpc.aio  # type: ignore[import-untyped]  # it ships no types
import pytest

from seedbed.crds.errors import FencedError, InvalidError, UnavailableError
from seedbed.runtime.coordination.etcd import EtcdCoordinator
from seedbed.runtime.coordination.lease import HeldLease
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.coordination.port import Change, Coordinator, Lease
from seedbed.runtime.coordination.registry import (
    DuplicateInstanceError,
    deregister,
    discover,
    register,
    update,
)
from seedbed.runtime.coordination.singleton import run_singleton
from tests.conftest import run_async
from tests.servers import EtcdServer

Connect = Callable[[], Coordinator]


@pytest.fixture(params=["memory", "etcd"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Makes a coordinator as another process would; those of one test see each other."""
    if request.param == "memory":
        shared = MemoryCoordinator()
        return lambda: shared
    server: EtcdServer = request.getfixturevalue("etcd_server")
    return lambda: EtcdCoordinator.open(server.endpoint)


@asynccontextmanager
async def connected(*connects: Connect) -> AsyncIterator[list[Coordinator]]:
    coordinators = [connect() for connect in connects]
    try:
        yield coordinators
    finally:
        for coordinator in coordinators:
            await coordinator.close()


async def end_lease(coordinator: Coordinator, lease: Lease) -> None:
    """What the server does when the holder has died."""
    assert isinstance(lease, HeldLease)
    if isinstance(coordinator, MemoryCoordinator):
        coordinator.expire(lease)
    else:
        assert isinstance(coordinator, EtcdCoordinator)
        await coordinator._etcd.revoke(lease.id, 5)


async def following(changes: AsyncIterator[Change]) -> Change:
    async with asyncio.timeout(20):
        return await anext(changes)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not condition():  # what is waited for is in another task
            await asyncio.sleep(0.01)


@pytest.mark.req("COG-S5.2")
def test_settings_are_set_read_and_deleted(connect: Connect) -> None:
    async def body() -> None:
        async with connected(connect, connect) as (one, two):
            await one.put("pools/a/general", b"1")
            await one.put("pools/a/general", b"2")
            await one.put("pools/b/general", b"\x00\xff")
            await one.put("poolsx", b"3")
            assert await two.settings("pools/") == {
                "pools/a/general": b"2",
                "pools/b/general": b"\x00\xff",
            }
            await two.delete("pools/a/general")
            await two.delete("pools/a/general")
            assert list(await one.settings("")) == ["pools/b/general", "poolsx"]

    run_async(body())


def test_a_name_has_one_owner_and_tokens_grow(connect: Connect) -> None:
    async def body() -> None:
        async with connected(connect, connect) as (one, two), one.lease(5) as a, two.lease(5) as b:
            first = await one.acquire("partition/1", "one", a)
            assert first is not None
            assert first.held
            assert await two.acquire("partition/1", "two", b) is None
            assert await two.acquire("partition/10", "two", b) is not None
            assert await one.acquire("partition/1", "one", a) == first
            assert await two.holder("partition/1") == ("one", first.token)
            await one.resign(first)
            assert await two.holder("partition/1") is None
            second = await two.acquire("partition/1", "two", b)
            assert second is not None
            assert second.token > first.token

    run_async(body())


def test_a_name_never_lies_within_another(connect: Connect) -> None:
    async def body() -> None:
        async with connected(connect) as (one,), one.lease(5) as a, one.lease(5) as b:
            assert await one.acquire("partition/1/x", "x", a) is not None
            assert await one.holder("partition/1") is None
            assert await one.acquire("partition/1", "y", b) is not None

    run_async(body())


def test_what_hangs_on_a_lease_goes_with_it(connect: Connect) -> None:
    async def body() -> None:
        async with connected(connect, connect) as (one, two):
            async with one.lease(5) as lease:
                await one.put("k", b"v", lease=lease)
                assert await one.acquire("name", "one", lease) is not None
                assert await two.settings("k") == {"k": b"v"}
                assert lease.alive
            assert not lease.alive
            assert lease.lost.is_set()
            assert await two.settings("k") == {}
            assert await two.holder("name") is None
            with pytest.raises(UnavailableError):
                await one.put("k", b"v", lease=lease)
            with pytest.raises(UnavailableError):
                await one.acquire("name", "one", lease)

    run_async(body())


def test_a_lease_is_kept_alive_beyond_its_ttl(connect: Connect) -> None:
    async def body() -> None:
        loop = asyncio.get_running_loop()
        async with connected(connect, connect) as (one, two), one.lease(1) as lease:
            await one.put("k", b"v", lease=lease)
            end = loop.time() + 3.5 * lease.ttl
            while loop.time() < end:
                assert lease.alive
                assert await two.settings("k") == {"k": b"v"}
                await asyncio.sleep(0.05)

    run_async(body())


def test_a_lost_lease_tells_its_holder_and_frees_the_name(connect: Connect) -> None:
    async def body() -> None:
        async with connected(connect, connect) as (one, two):
            async with one.lease(2) as lease, two.lease(5) as other:
                mine = await one.acquire("name", "one", lease)
                assert mine is not None
                waiting = asyncio.create_task(two.campaign("name", "two", other))
                await end_lease(one, lease)
                async with asyncio.timeout(20):
                    await lease.lost.wait()
                    theirs = await waiting
                assert not mine.held
                assert theirs.token > mine.token
                assert theirs.held

    run_async(body())


def test_writes_under_an_ownership_end_with_it(connect: Connect) -> None:
    async def body() -> None:
        async with connected(connect, connect) as (one, two), one.lease(5) as a, two.lease(5) as b:
            mine = await one.acquire("name", "one", a)
            assert mine is not None
            await one.put("k", b"1", under=mine)
            await end_lease(one, a)
            with pytest.raises(FencedError) as nobody:
                await one.put("k", b"2", under=mine)
            assert (nobody.value.mine, nobody.value.newest) == (mine.token, None)
            theirs = await two.acquire("name", "two", b)
            assert theirs is not None
            await two.put("k", b"3", under=theirs)
            with pytest.raises(FencedError) as put:
                await one.put("k", b"4", under=mine)
            with pytest.raises(FencedError) as delete:
                await one.delete("k", under=mine)
            assert put.value.newest == delete.value.newest == theirs.token
            assert put.value.what == "name"
            # To resign what is lost takes nothing from the new owner.
            await one.resign(mine)
            assert await two.holder("name") == ("two", theirs.token)
            assert await two.settings("k") == {"k": b"3"}
            await two.delete("k", under=theirs)
            assert await two.settings("k") == {}

    run_async(body())


def test_a_campaign_is_won_in_order_of_arrival(connect: Connect) -> None:
    async def body() -> None:
        won: list[int] = []
        tokens: list[int] = []

        async def candidate(coordinator: Coordinator, lease: Lease, number: int) -> None:
            ownership = await coordinator.campaign("name", str(number), lease)
            won.append(number)
            tokens.append(ownership.token)
            await coordinator.resign(ownership)

        async with AsyncExitStack() as stack:
            (one,) = await stack.enter_async_context(connected(connect))
            blocker = await stack.enter_async_context(one.lease(10))
            first = await one.acquire("name", "blocker", blocker)
            assert first is not None
            tasks = []
            for number in range(5):
                lease = await stack.enter_async_context(one.lease(10))
                tasks.append(asyncio.create_task(candidate(one, lease, number)))
                # Each must have arrived before the next one sets out.
                await arrived(one, number + 2)
            # One that gives up in the middle of the queue stops nobody.
            tasks[2].cancel()
            await asyncio.wait({tasks[2]})
            assert await one.holder("name") == ("blocker", first.token)
            await one.resign(first)
            await asyncio.gather(*tasks, return_exceptions=True)
            assert won == [0, 1, 3, 4]
            assert tokens == sorted(tokens)
            assert await one.holder("name") is None

    run_async(body())


async def arrived(coordinator: Coordinator, number: int, name: str = "name") -> None:
    """Until so many stand in the queue for a name."""
    async with asyncio.timeout(20):
        while True:
            if isinstance(coordinator, MemoryCoordinator):
                queue = len(coordinator._queues[name])
            else:
                from aetcd import rpc  # noqa: PLC0415  # only here the layout is looked into

                assert isinstance(coordinator, EtcdCoordinator)
                prefix = coordinator._queue(name)
                request = rpc.RangeRequest(key=prefix, range_end=prefix[:-1] + b"0")
                queue = len((await coordinator._etcd.range(request)).kvs)
            if queue == number:
                return
            await asyncio.sleep(0.01)


def test_a_campaign_ends_with_its_lease(connect: Connect) -> None:
    async def body() -> None:
        async with connected(connect, connect) as (one, two), one.lease(10) as a, two.lease(2) as b:
            assert await one.acquire("name", "one", a) is not None
            waiting = asyncio.create_task(two.campaign("name", "two", b))
            await asyncio.sleep(0)
            await end_lease(two, b)
            with pytest.raises(UnavailableError):
                await waiting

    run_async(body())


def test_a_watch_tells_what_is_there_then_each_change(connect: Connect) -> None:
    async def body() -> None:
        async with connected(connect, connect) as (one, two):
            await one.put("flags/a", b"1")
            await one.put("flags/b", b"1")
            await one.put("other", b"1")
            async with two.watch("flags/") as changes, one.lease(5) as lease:
                before = {await following(changes), await following(changes)}
                assert before == {Change("flags/a", b"1"), Change("flags/b", b"1")}
                # A wait that is given up loses nothing.
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.1):
                        await anext(changes)
                await one.put("flags/a", b"2")
                await one.put("other", b"2")
                await one.delete("flags/b")
                await one.put("flags/c", b"3", lease=lease)
                assert await following(changes) == Change("flags/a", b"2")
                assert await following(changes) == Change("flags/b", None)
                assert await following(changes) == Change("flags/c", b"3")
                await end_lease(one, lease)
                assert await following(changes) == Change("flags/c", None)

    run_async(body())


@pytest.mark.req("FND-02")
def test_a_singleton_runs_once_and_moves_when_its_holder_is_lost(connect: Connect) -> None:
    async def body() -> None:
        running: list[str] = []
        history: list[str] = []
        leases: dict[str, Lease] = {}

        async def process(coordinator: Coordinator, who: str) -> None:
            async def work(ownership: object) -> None:
                leases[who] = ownership.lease  # type: ignore[attr-defined]  # an Ownership
                running.append(who)
                history.append(who)
                try:
                    await asyncio.Event().wait()
                finally:
                    running.remove(who)

            await run_singleton(coordinator, "trace", who, work, ttl=2)

        async with connected(connect, connect) as (one, two):
            first = asyncio.create_task(process(one, "one"))
            await until(lambda: running == ["one"])
            second = asyncio.create_task(process(two, "two"))
            # The second has started and waits; only the first one's body runs.
            await arrived(one, 2, "singleton/trace")
            assert history == ["one"]
            await end_lease(one, leases["one"])
            await until(lambda: running == ["two"])
            assert history == ["one", "two"]
            # The first waits behind the second and comes back when that one ends.
            second.cancel()
            await until(lambda: running == ["one"])
            first.cancel()
            await asyncio.wait({first, second})
            assert running == []
            assert history == ["one", "two", "one"]

    run_async(body())


@pytest.mark.req("FND-02")
def test_a_singleton_that_ends_hands_its_end_to_the_caller(connect: Connect) -> None:
    async def body() -> None:
        async def fine(_: object) -> None:
            return

        async def broken(_: object) -> None:
            raise UnavailableError("its own trouble")

        async with connected(connect) as (one,):
            await run_singleton(one, "job", "one", fine)
            with pytest.raises(UnavailableError, match="its own trouble"):
                await run_singleton(one, "job", "one", broken)
            assert await one.holder("singleton/job") is None

    run_async(body())


@pytest.mark.req("FND-05")
def test_discovery_combines_filters(connect: Connect) -> None:
    async def body() -> None:
        async with connected(connect, connect) as (one, two), one.lease(5) as lease:
            ready = {"pool": "general", "status": "ready", "started_at": 1}
            await register(one, "worker", "w1", ["agent", "call"], ready, lease)
            await register(one, "worker", "w2", ["call"], {**ready, "pool": "gpu"}, lease)
            await register(one, "engine", "e1", ["agent"], ready, lease)

            async def ids(**filters: object) -> list[str]:
                return [s.instance for s in await discover(two, **filters)]  # type: ignore[arg-type]  # by name

            assert await ids() == ["e1", "w1", "w2"]
            assert await ids(name="worker") == ["w1", "w2"]
            assert await ids(name="work") == []
            assert await ids(capabilities=["agent"]) == ["e1", "w1"]
            assert await ids(name="worker", capabilities=["agent", "call"]) == ["w1"]
            assert await ids(metadata={"pool": "gpu"}) == ["w2"]
            assert await ids(metadata={"optimization_id": None}) == []
            assert await ids(name="worker", capabilities=["agent"], metadata={"pool": "gpu"}) == []
            found = (await discover(two, "worker", metadata={"pool": "gpu"}))[0]
            assert found.capabilities == {"call"}
            assert found.metadata == {**ready, "pool": "gpu"}

    run_async(body())


@pytest.mark.req("FND-05")
def test_the_dead_vanish_from_the_registry_and_a_watcher_is_told(connect: Connect) -> None:
    async def body() -> None:
        async with connected(connect, connect) as (one, two):
            async with two.watch("services/worker/") as changes:
                async with one.lease(2) as dying, one.lease(5) as living:
                    await register(one, "worker", "w1", [], {"status": "ready"}, dying)
                    kept = await register(one, "worker", "w2", [], {"status": "starting"}, living)
                    assert (await following(changes)).key == "services/worker/w1"
                    assert (await following(changes)).key == "services/worker/w2"
                    await end_lease(one, dying)
                    assert await following(changes) == Change("services/worker/w1", None)
                    assert [s.instance for s in await discover(two)] == ["w2"]
                    await update(one, kept, {"status": "ready"})
                    assert [s.instance for s in await discover(two, metadata={"status": "ready"})]
                    await deregister(one, kept)
                    assert await discover(two) == []
                    with pytest.raises(FencedError):
                        await update(one, kept, {})

    run_async(body())


@pytest.mark.req("FND-05")
def test_a_duplicate_instance_is_refused(connect: Connect) -> None:
    async def body() -> None:
        async with connected(connect, connect) as (one, two), one.lease(5) as a, two.lease(5) as b:
            mine = await register(one, "worker", "w1", [], {"n": 1}, a)
            for coordinator, lease in ((two, b), (one, a)):
                with pytest.raises(DuplicateInstanceError) as refusal:
                    await register(coordinator, "worker", "w1", [], {"n": 2}, lease)
                assert refusal.value.instance == "w1"
            assert (await discover(two))[0].metadata == {"n": 1}
            await deregister(one, mine)
            await register(two, "worker", "w1", [], {"n": 2}, b)
            with pytest.raises(InvalidError):
                await register(two, "worker", "a/b", [], {}, b)

    run_async(body())


# What only a server of its own can show.


@pytest.mark.req("COG-S5.2")
def test_a_restart_of_etcd_is_survived(etcd_server: EtcdServer) -> None:
    """The lease, the ownership and the watch go on; what changed meanwhile is told."""

    async def body() -> None:
        connect = lambda: EtcdCoordinator.open(etcd_server.endpoint)  # noqa: E731  # the fixture's form
        async with connected(connect, connect) as (one, two):
            async with one.lease(10) as lease, two.watch("k/") as changes, two.lease(10) as other:
                mine = await one.acquire("name", "one", lease)
                assert mine is not None
                waiting = asyncio.create_task(two.campaign("name", "two", other))
                await one.put("k/1", b"a", lease=lease)
                assert await following(changes) == Change("k/1", b"a")
                await asyncio.to_thread(etcd_server.kill)
                with pytest.raises(UnavailableError):
                    await one.put("k/1", b"b")
                await asyncio.to_thread(etcd_server.start)
                await eventually(lambda: one.put("k/2", b"c", under=mine))
                assert await following(changes) == Change("k/2", b"c")
                assert mine.held
                await one.resign(mine)
                async with asyncio.timeout(20):
                    theirs = await waiting
                assert theirs.token > mine.token

    run_async(body())


@pytest.mark.req("COG-S5.2")
def test_a_connection_from_before_etcd_served_is_left(etcd_server: EtcdServer) -> None:
    """etcd answers 404 on a connection that it took while it was starting, for as long as it lasts."""

    async def body() -> None:
        starting = grpc.aio.server()  # it serves nothing yet
        port = starting.add_insecure_port("127.0.0.1:0")
        await starting.start()
        ports = [port]

        async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            to = ports.pop() if ports else int(etcd_server.endpoint.rpartition(":")[2])
            their_reader, their_writer = await asyncio.open_connection("127.0.0.1", to)
            await asyncio.gather(pipe(reader, their_writer), pipe(their_reader, writer))

        async with await asyncio.start_server(connect, "127.0.0.1", 0) as proxy:
            address = proxy.sockets[0].getsockname()[1]
            coordinator = EtcdCoordinator.open(f"http://127.0.0.1:{address}")
            try:
                with pytest.raises(UnavailableError):
                    await coordinator.put("k/1", b"a")
                await eventually(lambda: coordinator.put("k/1", b"a"))
                assert await coordinator.settings("k/") == {"k/1": b"a"}
            finally:
                await coordinator.close()
                await starting.stop(None)

    run_async(body())


async def pipe(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass on what comes until it ends."""
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def eventually(action: Callable) -> None:
    """Repeat while the server is unavailable, as a client does."""
    async with asyncio.timeout(20):
        while True:
            try:
                await action()
            except UnavailableError:
                await asyncio.sleep(0.05)
            else:
                return


def test_a_watch_lists_anew_after_compaction_and_tells_deletions(etcd_server: EtcdServer) -> None:
    async def body() -> None:
        connect = lambda: EtcdCoordinator.open(etcd_server.endpoint)  # noqa: E731  # the fixture's form
        async with connected(connect, connect) as (one, two):
            for key in ("k/same", "k/gone", "k/changed"):
                await one.put(key, b"1")
            async with two.watch("k/") as changes:
                assert len({(await following(changes)).key for _ in range(3)}) == 3
                # Disconnected, it misses changes that etcd then forgets.
                changes._watch.cancel()  # type: ignore[attr-defined]  # cut its stream
                await one.delete("k/gone")
                await one.put("k/changed", b"2")
                await one.put("k/new", b"1")
                await asyncio.to_thread(etcd_server.compact)
                told = {await following(changes) for _ in range(3)}
                assert told == {
                    Change("k/gone", None),
                    Change("k/changed", b"2"),
                    Change("k/new", b"1"),
                }
                await one.put("k/last", b"1")
                assert await following(changes) == Change("k/last", b"1")

    run_async(body())


def test_without_etcd_the_holder_stops_by_its_own_clock(etcd_server: EtcdServer) -> None:
    async def body() -> None:
        async with connected(lambda: EtcdCoordinator.open(etcd_server.endpoint)) as (one,):
            async with one.lease(2) as lease:
                mine = await one.acquire("name", "one", lease)
                assert mine is not None
                await asyncio.to_thread(etcd_server.stop)
                async with asyncio.timeout(20):
                    await lease.lost.wait()
                assert not mine.held
                await asyncio.to_thread(etcd_server.start)
                assert not mine.held

    run_async(body())


def test_a_wrong_endpoint_names_what_was_expected() -> None:
    with pytest.raises(InvalidError, match="http://HOST:PORT"):
        EtcdCoordinator.open("localhost:2379")


# Owns `name` and says, each time it is told to on its standard input, whether it may write.
OWNER = """
import asyncio, sys
from seedbed.crds.errors import FencedError
from seedbed.runtime.coordination.etcd import EtcdCoordinator
async def main():
    coordinator = EtcdCoordinator.open(sys.argv[1])
    async with coordinator.lease(1) as lease:
        mine = await coordinator.campaign("name", "old", lease)
        print("owns", mine.token, flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            held = mine.held
            try:
                await coordinator.put("k", b"old", under=mine)
            except FencedError as error:
                print("fenced", held, error.mine, error.newest, flush=True)
            else:
                print("wrote", held, flush=True)
    await coordinator.close()
asyncio.run(main())
"""


@pytest.mark.req("FND-02")
def test_a_paused_owner_is_succeeded_and_cannot_write(etcd_server: EtcdServer) -> None:
    async def take_over() -> int:
        async with connected(lambda: EtcdCoordinator.open(etcd_server.endpoint)) as (two,):
            async with two.lease(10) as lease:
                theirs = await two.campaign("name", "new", lease)
                await two.put("k", b"new", under=theirs)
                os.kill(owner.pid, signal.SIGCONT)
                said = await asyncio.to_thread(ask)
                assert said == f"fenced False {token} {theirs.token}"
                assert await two.settings("k") == {"k": b"new"}
                return theirs.token

    def ask() -> str:
        assert owner.stdin is not None
        assert owner.stdout is not None
        owner.stdin.write("write\n")
        owner.stdin.flush()
        return owner.stdout.readline().strip()

    argv = [sys.executable, "-c", OWNER, etcd_server.endpoint]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as owner:
        try:
            assert owner.stdout is not None
            said, _, number = owner.stdout.readline().partition(" ")
            assert said == "owns"
            token = int(number)
            assert ask() == "wrote True"
            os.kill(owner.pid, signal.SIGSTOP)
            assert run_async(take_over()) > token
        finally:
            owner.kill()


# Takes part in the singleton `trace` and says when it runs.
SINGLETON = """
import asyncio, sys
from seedbed.runtime.coordination.etcd import EtcdCoordinator
from seedbed.runtime.coordination.singleton import run_singleton
async def body(ownership):
    print("runs", flush=True)
    await asyncio.Event().wait()
async def main():
    await run_singleton(EtcdCoordinator.open(sys.argv[1]), "trace", sys.argv[2], body, ttl=1)
asyncio.run(main())
"""


@pytest.mark.req("FND-02")
def test_a_singleton_reappears_in_another_process_when_its_own_is_killed(
    etcd_server: EtcdServer,
) -> None:
    def start(who: str) -> subprocess.Popen[str]:
        argv = [sys.executable, "-c", SINGLETON, etcd_server.endpoint, who]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)

    async def both_there() -> None:
        async with connected(lambda: EtcdCoordinator.open(etcd_server.endpoint)) as (one,):
            await arrived(one, 2, "singleton/trace")
            found = await one.holder("singleton/trace")
            assert found is not None
            assert found[0] == "first"

    with start("first") as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "runs\n"
            with start("second") as second:
                try:
                    assert second.stdout is not None
                    run_async(both_there())
                    # It stands in the queue and has said nothing.
                    assert select.select([second.stdout], [], [], 0)[0] == []
                    first.kill()
                    assert second.stdout.readline() == "runs\n"
                finally:
                    second.kill()
        finally:
            first.kill()
