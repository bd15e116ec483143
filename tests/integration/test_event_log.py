"""What every event log promises, proved on the one in memory and on a real NATS server."""

from __future__ import annotations

import asyncio
import sys
import time
import uuid
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from dataclasses import asdict, replace
from importlib import import_module

import orjson
import pytest

from seedbed.crds.addresses import partition_of
from seedbed.crds.errors import InvalidError, QueueFullError, UnavailableError
from seedbed.runtime.bus import item_stream
from seedbed.runtime.bus.channels import (
    Channels,
    OptimizationProgress,
    ScaleOptimization,
    StartTrace,
    StopTrace,
    WorkerPerformanceUpdate,
    decode_message,
)
from seedbed.runtime.bus.event_metrics import SHED
from seedbed.runtime.bus.event_wire import (
    Batch,
    decode_batch,
    decode_letter,
    encode_batch,
    encode_letter,
)
from seedbed.runtime.bus.events import (
    NEW,
    PAYLOAD_LIMIT,
    PRIORITIES,
    DeadLetter,
    Delivered,
    Event,
    EventSettings,
    Follower,
    Limits,
    Priority,
    Start,
)
from seedbed.runtime.bus.handling import Patience, handle
from seedbed.runtime.bus.item_stream import WINDOW, Ask, ItemSource, items_after
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.bus.nats import NatsBus
from seedbed.runtime.bus.port import Bus
from tests.conftest import run_async
from tests.servers import NatsServer

zstd = import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
Open = Callable[..., AbstractAsyncContextManager[Bus]]
QUICK = EventSettings()
EAGER = Patience(failures=3, first=0.001, longest=0.002)


@pytest.fixture(params=["memory", "nats"])
def opened(request: pytest.FixtureRequest) -> Open:
    """Opens a bus of either kind, with an empty event log."""
    if request.param == "memory":

        @asynccontextmanager
        async def memory(settings: EventSettings = QUICK) -> AsyncIterator[Bus]:
            bus = MemoryBus(events=settings)
            yield bus
            await bus.close()

        return memory
    server: NatsServer = request.getfixturevalue("nats_server")
    return lambda settings=QUICK: on_nats(server, settings)


@asynccontextmanager
async def on_nats(server: NatsServer, settings: EventSettings = QUICK) -> AsyncIterator[NatsBus]:
    bus = await NatsBus.open(server.url, events=settings)
    try:
        yield bus
    finally:
        await bus.close()


def a_run() -> str:
    return f"run-{uuid.uuid4().hex[:12]}"


def a_name() -> str:
    return f"f{uuid.uuid4().hex[:12]}"


def numbered(run: str, number: int, priority: Priority = "normal") -> Event:
    return Event(run, "number", time.time(), b"%d" % number, priority)


def put_all(bus: Bus, events: list[Event]) -> None:
    for event in events:
        bus.events.put(event)


async def taken(follower: Follower, run: str, count: int) -> list[Event]:
    """The next `count` events of a run, acknowledged."""
    found: list[Event] = []
    while len(found) < count:
        delivered = await follower.next(10.0)
        assert delivered is not None, f"only {len(found)} of {count}"
        found += [event for event in delivered.events if event.key == run]
        await follower.ack(delivered)
    assert len(found) == count
    return found


@pytest.mark.req("COG-2.4.1")
def test_events_of_a_run_stay_in_order_and_runs_spread_over_16_partitions(opened: Open) -> None:
    async def body() -> None:
        runs = [a_run() for _ in range(200)]
        name, got = a_name(), defaultdict(list)
        done = asyncio.Event()

        async def take(event: Event) -> None:
            if event.key in got or event.key in runs:
                got[event.key].append(int(event.payload))
            if sum(map(len, got.values())) == 200 * 40:
                done.set()

        async with opened() as bus:
            for number in range(40):
                for run in runs:
                    bus.events.put(numbered(run, number))
                await asyncio.sleep(0)
            async with asyncio.timeout(30), asyncio.TaskGroup() as tasks:
                followers = [
                    tasks.create_task(handle(bus.events, name, partition, take))
                    for partition in range(16)
                ]
                await done.wait()
                for follower in followers:
                    follower.cancel()
            await bus.events.forget(name)
        assert {partition_of(run) for run in runs} == set(range(16))
        assert all(got[run] == list(range(40)) for run in runs)

    run_async(body())


@pytest.mark.req("COG-2.4.3")
def test_a_batch_goes_at_fifty_or_after_its_time_whichever_comes_first(opened: Open) -> None:
    async def body() -> None:
        run = a_run()
        slow = replace(QUICK, wait=3600.0)
        async with (
            opened(slow) as bus,
            bus.events.follow("", partition_of(run), ("normal",), start=NEW) as follower,
        ):
            for number in range(49):
                bus.events.put(numbered(run, number))
            assert await follower.next(0.3) is None
            bus.events.put(numbered(run, 49))
            assert len(await taken(follower, run, 50)) == 50
        async with (
            opened(replace(QUICK, wait=0.05)) as bus,
            bus.events.follow("", partition_of(run), ("normal",), start=NEW) as follower,
        ):
            bus.events.put(numbered(run, 1))
            assert len(await taken(follower, run, 1)) == 1

    run_async(body())


@pytest.mark.req("COG-2.4.3")
def test_what_comes_while_a_batch_is_under_way_goes_in_larger_ones(opened: Open) -> None:
    async def body() -> None:
        run = a_run()
        async with (
            opened() as bus,
            bus.events.follow("", partition_of(run), ("normal",), start=NEW) as follower,
        ):
            for number in range(2000):
                bus.events.put(numbered(run, number))
            await bus.events.flush()
            sizes: list[int] = []
            while sum(sizes) < 2000:
                delivered = await follower.next(5.0)
                assert delivered is not None
                sizes.append(sum(event.key == run for event in delivered.events))
                await follower.ack(delivered)
            assert max(sizes) == 500

    run_async(body())


@pytest.mark.req("COG-2.4.2")
def test_critical_events_pass_a_backlog_of_low_ones(opened: Open) -> None:
    async def body() -> None:
        run, name = a_run(), a_name()
        async with opened() as bus:
            for number in range(5000):
                bus.events.put(numbered(run, number, "low"))
            bus.events.put(numbered(run, 0, "normal"))
            bus.events.put(numbered(run, 0, "critical"))
            await bus.events.flush()
            async with bus.events.follow(name, partition_of(run)) as follower:
                order: list[str] = []
                while len(order) < 2 or order[-1] != "low":
                    delivered = await follower.next(5.0)
                    assert delivered is not None
                    if any(event.key == run for event in delivered.events):
                        order.append(delivered.lane.priority)
                    await follower.ack(delivered)
            await bus.events.forget(name)
        # What stands before the first low batch, whichever of them had arrived here by then.
        assert order[0] == "critical" if order[0] != "low" else "critical" in order

    run_async(body())


def test_a_name_goes_on_where_it_was(opened: Open) -> None:
    async def body() -> None:
        run, name = a_run(), a_name()
        where = partition_of(run)
        async with opened() as bus:
            for number in range(3):
                bus.events.put(numbered(run, number))
                await bus.events.flush()
            async with bus.events.follow(name, where, ("normal",)) as follower:
                assert [e.payload for e in await taken(follower, run, 2)] == [b"0", b"1"]
                third = await follower.next(5.0)
                assert third is not None
                assert third.deliveries == 1
            for again in (2, 3):
                async with bus.events.follow(name, where, ("normal",)) as follower:
                    third = await follower.next(5.0)
                    assert third is not None
                    assert [event.payload for event in third.events] == [b"2"]
                    assert third.deliveries == again
                    if again == 3:
                        await follower.ack(third)
            bus.events.put(numbered(run, 3))
            async with bus.events.follow(name, where, ("normal",)) as follower:
                assert [e.payload for e in await taken(follower, run, 1)] == [b"3"]
            await bus.events.forget(name)

    run_async(body())


def test_what_was_not_acknowledged_comes_again_before_what_is_newer(opened: Open) -> None:
    async def body() -> None:
        run, name = a_run(), a_name()
        async with opened() as bus:
            for number in range(6):
                bus.events.put(numbered(run, number))
                await bus.events.flush()
            async with bus.events.follow(name, partition_of(run), ("normal",)) as follower:
                await taken(follower, run, 1)
                for _ in range(3):
                    assert await follower.next(5.0) is not None
            async with bus.events.follow(name, partition_of(run), ("normal",)) as follower:
                got = [int(event.payload) for event in await taken(follower, run, 5)]
            assert got == [1, 2, 3, 4, 5]
            await bus.events.forget(name)

    run_async(body())


def test_replay_from_a_time_and_from_a_sequence(opened: Open) -> None:
    async def body() -> None:
        run = a_run()
        where = partition_of(run)
        async with opened() as bus:
            sequences = {}
            async with bus.events.follow("", where, ("normal",), start=NEW) as follower:
                for number in range(4):
                    if number == 2:
                        await asyncio.sleep(0.02)
                        later = time.time()
                    bus.events.put(numbered(run, number))
                    await bus.events.flush()
                    delivered = await follower.next(5.0)
                    assert delivered is not None
                    sequences[number] = delivered.sequence
            async with bus.events.follow("", where, ("normal",), start=Start(at=later)) as follower:
                assert [e.payload for e in await taken(follower, run, 2)] == [b"2", b"3"]
            begin = Start(sequence=sequences[1])
            async with bus.events.follow("", where, ("normal",), start=begin) as follower:
                assert [e.payload for e in await taken(follower, run, 3)] == [b"1", b"2", b"3"]

    run_async(body())


def test_an_event_that_cannot_be_handled_becomes_a_dead_letter_and_can_be_replayed(
    opened: Open,
) -> None:
    async def body() -> None:
        run, name, other = a_run(), a_name(), a_name()
        where = partition_of(run)
        tried, handled = [], []
        healed = False
        changed = asyncio.Event()

        async def picky(event: Event) -> None:
            if event.key != run:
                return
            tried.append(int(event.payload))
            if event.payload == b"3" and not healed:
                raise RuntimeError("cannot read \udcff")  # as names of files may be
            handled.append(int(event.payload))
            changed.set()

        async with opened() as bus, asyncio.TaskGroup() as tasks:
            for number in range(6):
                bus.events.put(numbered(run, number))
            await bus.events.flush()
            follower = tasks.create_task(
                handle(bus.events, name, where, picky, priorities=("normal",), patience=EAGER)
            )
            while len(handled) < 5:
                changed.clear()
                await changed.wait()
            assert tried == [0, 1, 2, 3, 3, 3, 4, 5]
            letters = [one for one in await bus.events.dead_letters() if one.follower == name]
            assert [one.event.payload for one in letters] == [b"3"]
            assert letters[0].failures == 3
            assert letters[0].reason == "RuntimeError: cannot read ?"
            healed = True
            async with bus.events.follow(other, where, ("normal",), start=NEW) as elsewhere:
                assert await bus.events.replay([letters[0].number]) == 1
                while len(handled) < 6:
                    changed.clear()
                    await changed.wait()
                assert await elsewhere.next(0.3) is None
            assert handled == [0, 1, 2, 4, 5, 3]
            assert await bus.events.replay([letters[0].number]) == 0
            assert not [one for one in await bus.events.dead_letters() if one.follower == name]
            follower.cancel()
            await bus.events.forget(name)
            await bus.events.forget(other)

    run_async(body())


def test_a_batch_that_ends_its_follower_is_put_aside_after_the_limit(opened: Open) -> None:
    async def body() -> None:
        run, name = a_run(), a_name()
        handled = asyncio.Event()

        async def take(event: Event) -> None:
            if event.payload == b"2":
                handled.set()

        async with opened() as bus:
            now = Start(at=time.time())
            bus.events.put(numbered(run, 1))
            await bus.events.flush()
            where = partition_of(run)
            normal: tuple[Priority, ...] = ("normal",)
            for _ in range(3):
                async with bus.events.follow(name, where, normal, start=now) as follower:
                    assert await follower.next(5.0) is not None
            bus.events.put(numbered(run, 2))
            with suppress(asyncio.CancelledError):
                async with asyncio.TaskGroup() as tasks:
                    task = tasks.create_task(
                        handle(bus.events, name, where, take, priorities=normal, patience=EAGER)
                    )
                    await handled.wait()
                    task.cancel()
            letters = [one for one in await bus.events.dead_letters() if one.follower == name]
            assert [one.event.payload for one in letters] == [b"1"]
            assert await bus.events.discard([one.number for one in letters]) == 1
            assert not [one for one in await bus.events.dead_letters() if one.follower == name]
            await bus.events.forget(name)

    run_async(body())


@pytest.mark.req("COG-2.4.2")
def test_a_full_log_loses_the_oldest_and_says_how_many(opened: Open) -> None:
    async def body() -> None:
        run = a_run()
        small = replace(QUICK, low=Limits(3600.0, 64 * 1024), size=5, largest=5, governs=True)
        async with (
            opened(small) as bus,
            bus.events.follow("", partition_of(run), ("low",), start=NEW) as follower,
        ):
            await bus.events.prepare()
            noise = uuid.uuid4().bytes * 64
            bus.events.put(Event(run, "x", 0.0, noise, "low"))
            await bus.events.flush()
            assert await follower.next(5.0) is not None
            for _ in range(500):
                payload = b"".join(uuid.uuid4().bytes for _ in range(64))
                bus.events.put(Event(run, "x", 0.0, payload, "low"))
                bus.events.put(Event(run, "y", 0.0, b"kept", "critical"))
            await bus.events.flush()
            missed = 0
            while not missed:
                delivered = await follower.next(5.0)
                assert delivered is not None
                missed += delivered.missed
                await follower.ack(delivered)
            where = partition_of(run)
            async with bus.events.follow("", where, ("critical",)) as critical:
                kept: list[Delivered] = []
                while sum(len([e for e in d.events if e.key == run]) for d in kept) < 500:
                    delivered = await critical.next(5.0)
                    assert delivered is not None
                    kept.append(delivered)
                    await critical.ack(delivered)

    run_async(body())


def test_what_cannot_be_followed_or_put_is_said(opened: Open) -> None:
    async def body() -> None:
        async with opened() as bus:
            for name, priorities, start in (
                ("a b", PRIORITIES, NEW),
                ("x" * 65, PRIORITIES, NEW),
                ("", (), NEW),
                ("", PRIORITIES, Start(sequence=3)),
            ):
                with pytest.raises(InvalidError):
                    async with bus.events.follow(name, 0, priorities, start=start):
                        pass
            with pytest.raises(InvalidError):
                bus.events.put(Event("r", "k", 0.0, b"x" * (PAYLOAD_LIMIT + 1)))

    run_async(body())


@pytest.mark.req("COG-2.4.2")
def test_while_the_server_is_away_low_events_go_first_and_critical_ones_never(
    nats_server: NatsServer,
) -> None:
    async def body() -> None:
        run, name = a_run(), a_name()
        tight = replace(QUICK, buffered=1000, wait=0.01)
        async with on_nats(nats_server, tight) as bus:
            bus.events.put(numbered(run, 0))
            await bus.events.flush()
            await asyncio.to_thread(nats_server.kill)
            for number in range(3000):
                bus.events.put(numbered(run, number, "low"))
            for number in range(1, 901):
                bus.events.put(numbered(run, number, "normal"))
            for number in range(150):
                bus.events.put(numbered(run, number, "critical"))
            with pytest.raises(QueueFullError):
                put_all(bus, [numbered(run, 901 + number) for number in range(3000)])
            await asyncio.to_thread(nats_server.start)
            await bus.events.flush(20.0)
            async with bus.events.follow(name, partition_of(run), ("critical",)) as follower:
                got = await taken(follower, run, 150)
                assert [int(event.payload) for event in got] == list(range(150))
            async with bus.events.follow(name, partition_of(run), ("normal",)) as follower:
                got = await taken(follower, run, 901)
                assert [int(event.payload) for event in got] == list(range(901))
            await bus.events.forget(name)

    run_async(body())


@pytest.mark.parametrize("disk", ["kept", "empty"])
def test_a_follower_goes_on_when_its_server_restarts(nats_server: NatsServer, disk: str) -> None:
    async def body() -> None:
        run, name = a_run(), a_name()
        async with (
            on_nats(nats_server) as bus,
            bus.events.follow(name, partition_of(run), ("normal",)) as durable,
            bus.events.follow("", partition_of(run), ("normal",), start=NEW) as passing,
        ):
            for follower in (durable, passing):
                bus.events.put(numbered(run, 0))
                await bus.events.flush()
                await taken(follower, run, 1)
            await asyncio.to_thread(nats_server.kill)
            if disk == "empty":
                nats_server.wipe()
            for number in range(1, 4):
                bus.events.put(numbered(run, number))
            await asyncio.to_thread(nats_server.start)
            await bus.events.flush(20.0)
            for follower in (durable, passing):
                seen = [0]
                while seen[-1] != 3:
                    delivered = await follower.next(20.0)
                    assert delivered is not None
                    seen += [int(event.payload) for event in delivered.events if event.key == run]
                    await follower.ack(delivered)
                assert seen[-3:] == [1, 2, 3]
            await bus.events.forget(name)

    run_async(body(), limit=60)


@pytest.mark.req("DSX-22")
def test_a_stalled_reader_stops_the_producer_and_one_that_is_gone_does_not(
    opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body() -> None:
        name, total = a_run(), 1000
        async with opened() as bus, asyncio.TaskGroup() as tasks:
            source = ItemSource(bus, name, life=2)
            await source.put(0)
            got = (await items_after(bus, name, Ask("me", 0, 0, most=1))).items

            async def produce() -> None:
                for number in range(1, total):
                    await source.put(number)

            producing = tasks.create_task(produce())
            while len(source._items) < WINDOW:
                await asyncio.sleep(0)
            # The reader stalls, having told that it has nothing yet.
            done, _ = await asyncio.wait({producing}, timeout=0.2)
            assert not done
            assert len(source._items) == WINDOW
            while len(got) < total // 2:
                found = await items_after(bus, name, Ask("me", 2, len(got)))
                assert found.first == len(got)
                assert len(source._items) <= len(got) + WINDOW
                got += found.items
            monkeypatch.setattr(item_stream, "READER_SECONDS", 0.05)
            source._read.set()  # it looks at the reader's time again
            await producing
            assert got == list(range(total // 2))
            await source.close()
            with pytest.raises(UnavailableError):
                await items_after(bus, name, Ask("me", 2, 0))

    run_async(body())


@pytest.mark.req("FND-04")
def test_subscribers_on_all_nodes_receive_broadcasts_in_order(opened: Open) -> None:
    async def body() -> None:
        async with opened() as bus, AsyncExitStack() as stack:
            channels = Channels(bus.events)
            heard = [
                await stack.enter_async_context(channels.subscribe("control")) for _ in range(3)
            ]
            telemetry = await stack.enter_async_context(channels.subscribe("telemetry"))
            for workers in range(20):
                message = ScaleOptimization(source="a", optimization="o", workers=workers)
                assert await channels.route_message(message) == "control"
            update = WorkerPerformanceUpdate(worker="w", steps_per_second=3.5)
            assert await channels.route_message(update) == "telemetry"
            assert await channels.route_message(update, priority="high") == "control"
            for each in heard:
                got = [await anext(each) for _ in range(21)]
                assert [m.workers for m in got if isinstance(m, ScaleOptimization)] == list(
                    range(20)
                )
                assert got[-1] == update
            assert await anext(telemetry) == update

    run_async(body())


@pytest.mark.req("FND-04")
def test_control_passes_a_flood_of_telemetry(opened: Open) -> None:
    async def body() -> None:
        tight = replace(QUICK, buffered=2000)
        async with opened(tight) as bus:
            channels = Channels(bus.events)
            async with channels.subscribe("control") as control:
                shed = SHED._value.get()
                update = WorkerPerformanceUpdate(worker="w", steps_per_second=3.5)
                for _ in range(10_000):
                    await channels.broadcast("telemetry", update)
                await channels.broadcast("control", StopTrace(trace="t"))
                assert await anext(control) == StopTrace(trace="t")
                assert SHED._value.get() > shed

    run_async(body())


def test_messages_of_every_kind_survive_the_way() -> None:
    for message in (
        StartTrace(trace="t", targets=("a", "b")),
        OptimizationProgress(optimization="o", done=0.5, score=None),
    ):
        assert decode_message(message.kind, orjson.dumps(asdict(message))) == message
    with pytest.raises(InvalidError):
        decode_message("unknown", b"{}")
    with pytest.raises(InvalidError):
        decode_message("stop_trace", b"{}")


def test_bytes_that_are_no_batch_are_refused() -> None:
    batch = Batch("me", 3, [numbered("r", 1), Event("r", "k", 0.5, b"\n\0x")], "them")
    data = encode_batch(batch)
    assert decode_batch(data, "normal") == replace(batch, events=list(batch.events))
    for wrong in (
        b"",
        b"plain",
        data[:-3],
        zstd.compress(b'[9,"s",1,"",[]]\n'),
        zstd.compress(b"[]\n"),
    ):
        with pytest.raises(InvalidError):
            decode_batch(wrong, "normal")
    letter = DeadLetter(numbered("r", 1, "low"), "f", 5, "why", 2.0, 7)
    assert decode_letter(encode_letter(letter), 7) == letter
    with pytest.raises(InvalidError):
        decode_letter(b"[1]\n", 7)
