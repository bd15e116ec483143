"""What every Bus promises, proved on the one in memory and on a real NATS server."""

from __future__ import annotations

import asyncio
import math
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from seedbed.crds.errors import (
    ConflictError,
    FencedError,
    InvalidError,
    NotFoundError,
    QueueFullError,
    RetryableError,
    SeedbedError,
    TerminalError,
    UnavailableError,
)
from seedbed.crds.messages import StepError, StepKey, StepResult, StepTask
from seedbed.crds.wire import decode, encode
from seedbed.runtime.bus.hearing import BACKLOG
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.bus.nats import NatsBus
from seedbed.runtime.bus.port import Bus, Unwanted
from tests.conftest import run_async
from tests.servers import NatsServer

Open = Callable[..., AbstractAsyncContextManager[Bus]]


@pytest.fixture(params=["memory", "nats"])
def opened(request: pytest.FixtureRequest) -> Open:
    """Opens a bus of either kind."""
    if request.param == "memory":

        @asynccontextmanager
        async def memory(**settings: Any) -> AsyncIterator[Bus]:
            bus = MemoryBus(**settings)
            yield bus
            await bus.close()

        return memory
    server: NatsServer = request.getfixturevalue("nats_server")
    return lambda **settings: on_nats(server, **settings)


@asynccontextmanager
async def on_nats(server: NatsServer, **settings: Any) -> AsyncIterator[NatsBus]:
    bus = await NatsBus.open(server.url, **settings)
    try:
        yield bus
    finally:
        await bus.close()


def a_queue() -> str:
    return f"ns-{uuid.uuid4().hex[:8]}.general"


def test_items_are_pulled_once_in_order(opened: Open) -> None:
    async def body() -> None:
        queue = a_queue()
        async with opened() as bus, bus.pull_work(queue) as pull:
            await asyncio.gather(*(bus.put_work(queue, f"{n}", b"%d" % n) for n in range(200)))
            got = []
            while (delivery := await pull(0.2)) is not None:
                assert not delivery.redelivered
                await delivery.ack()
                got.append(delivery.payload)
            assert sorted(got, key=int) == [b"%d" % n for n in range(200)]

    run_async(body())


def test_a_pull_that_waits_gets_the_item_that_comes(opened: Open) -> None:
    async def body() -> None:
        queue = a_queue()
        async with opened() as bus, bus.pull_work(queue) as pull:
            waiting = asyncio.ensure_future(pull(30.0))
            assert await pull_nothing(bus, a_queue())
            await bus.put_work(queue, "1", b"late")
            delivery = await waiting
            assert delivery is not None
            assert delivery.payload == b"late"
            await delivery.ack()

    run_async(body(), limit=20)


async def pull_nothing(bus: Bus, queue: str) -> bool:
    async with bus.pull_work(queue) as pull:
        return await pull(0.05) is None


def test_a_queue_goes_when_nobody_pulls_from_it_or_wants_what_it_holds(opened: Open) -> None:
    wanted = {b"wanted"}

    async def unwanted(payload: bytes) -> bool:
        return payload not in wanted

    async def body() -> None:
        queue = a_queue()
        async with opened() as bus:
            assert queue not in await bus.queues()
            async with bus.pull_work(queue) as pull:
                assert queue in await bus.queues()
                waiting = asyncio.ensure_future(pull(30.0))
                await asyncio.sleep(0)
                await until_pulled(bus, queue, unwanted)
                await bus.put_work(queue, "1", b"taken")
                delivery = await waiting
                assert delivery is not None
                await delivery.ack()
            await bus.put_all(queue, [("2", b"old"), ("3", b"wanted"), ("4", b"old")])
            assert not await bus.drop_queue(queue, unwanted)
            async with bus.pull_work(queue) as pull:
                delivery = await pull(5.0)
                assert delivery is not None
                assert delivery.payload == b"wanted", "it was kept, and what nobody wants is gone"
                await delivery.give_back()
            wanted.clear()
            await until_dropped(bus, queue, unwanted)
            assert queue not in await bus.queues()
            await bus.put_work(queue, "5", b"later")
            async with bus.pull_work(queue) as pull:
                delivery = await pull(5.0)
                assert delivery is not None
                assert delivery.payload == b"later", "what comes afterwards is kept"
                await delivery.ack()
                assert await pull(0.2) is None

    run_async(body())


async def until_pulled(bus: Bus, queue: str, unwanted: Unwanted) -> None:
    """Until the bus knows of a puller, which keeps the queue from going."""
    async with asyncio.timeout(10):
        while await bus.drop_queue(queue, unwanted):
            await asyncio.sleep(0.05)  # it has not asked yet, and makes the queue again


async def until_dropped(bus: Bus, queue: str, unwanted: Unwanted) -> None:
    async with asyncio.timeout(10):
        while not await bus.drop_queue(queue, unwanted):  # who pulled last may count for a moment
            await asyncio.sleep(0.02)


def test_what_a_dead_worker_had_is_delivered_again(opened: Open) -> None:
    async def body() -> None:
        queue = a_queue()
        async with opened() as bus, bus.pull_work(queue, redeliver_after=0.5) as pull:
            await bus.put_work(queue, "1", b"work")
            first = await pull(5.0)
            assert first is not None
            second = await pull(5.0)
            assert second is not None
            assert second.payload == b"work"
            assert second.redelivered
            await second.ack()
            assert await pull(1.0) is None

    run_async(body())


def test_who_says_working_keeps_the_item(opened: Open) -> None:
    async def body() -> None:
        queue = a_queue()
        async with opened() as bus, bus.pull_work(queue, redeliver_after=0.8) as pull:
            await bus.put_work(queue, "1", b"long")
            delivery = await pull(5.0)
            assert delivery is not None
            for _ in range(6):
                assert await pull(0.3) is None
                await delivery.working()
            await delivery.ack()
            assert await pull(1.2) is None

    run_async(body())


def test_an_item_given_back_goes_to_another(opened: Open) -> None:
    async def body() -> None:
        queue = a_queue()
        async with opened() as bus, bus.pull_work(queue) as one, bus.pull_work(queue) as other:
            await bus.put_work(queue, "1", b"work")
            delivery = await one(5.0)
            assert delivery is not None
            await delivery.give_back()
            again = await other(5.0)
            assert again is not None
            assert again.redelivered
            await again.give_back(delay=0.5)
            assert await one(0.1) is None
            later = await one(5.0)
            assert later is not None
            await later.ack()

    run_async(body())


def test_a_cancelled_pull_takes_nothing_away(opened: Open) -> None:
    async def body() -> None:
        queue = a_queue()
        async with opened() as bus:
            async with bus.pull_work(queue) as pull:
                waiting = asyncio.ensure_future(pull(30.0))
                assert await pull_nothing(bus, a_queue())
                waiting.cancel()
                await asyncio.gather(waiting, return_exceptions=True)
                await bus.put_work(queue, "1", b"work")
            async with bus.pull_work(queue) as pull:
                delivery = await pull(5.0)
                assert delivery is not None
                await delivery.ack()

    run_async(body(), limit=20)


def test_the_same_id_is_queued_once(opened: Open) -> None:
    async def body() -> None:
        queue, other = a_queue(), a_queue()
        async with opened() as bus:
            for _ in range(3):
                await bus.put_work(queue, "run/step/1", b"work")
            await bus.put_work(other, "run/step/1", b"elsewhere")
            for name in (queue, other):
                async with bus.pull_work(name) as pull:
                    delivery = await pull(5.0)
                    assert delivery is not None
                    await delivery.ack()
                    assert await pull(0.1) is None

    run_async(body())


def test_many_items_are_put_and_pulled_at_once(opened: Open) -> None:
    async def body() -> None:
        queue = a_queue()
        items = [(f"{n}", b"%d" % n) for n in range(300)]
        async with opened() as bus, bus.pull_work(queue) as pull:
            await bus.put_all(queue, items[:200])
            # What is there already is not queued again.
            await bus.put_all(queue, items)
            got: list[bytes] = []
            while found := await pull.many(1.0, 64):
                assert len(found) <= 64
                for delivery in found:
                    got.append(delivery.payload)
                    await delivery.ack()
            assert sorted(got, key=int) == [payload for _, payload in items]

    run_async(body())


def test_who_asks_for_many_takes_no_more_and_waits_for_no_more(opened: Open) -> None:
    async def body() -> None:
        queue = a_queue()
        async with opened() as bus, bus.pull_work(queue) as one, bus.pull_work(queue) as other:
            await bus.put_all(queue, [(f"{n}", b"%d" % n) for n in range(5)])
            mine = list(await one.many(30.0, 3))
            while len(mine) < 3:
                mine += await one.many(30.0, 3 - len(mine))
            theirs = list(await other.many(30.0, 10))
            while len(theirs) < 2:
                theirs += await other.many(30.0, 10)
            assert len({each.payload for each in (*mine, *theirs)}) == 5
            for delivery in (*mine, *theirs):
                await delivery.ack()

    run_async(body(), limit=20)


def test_a_queue_that_takes_some_of_many_says_so_and_takes_the_rest_later() -> None:
    async def body() -> None:
        queue, bus = a_queue(), MemoryBus(queue_limit=3)
        items = [(f"{n}", b"%d" % n) for n in range(5)]
        with pytest.raises(QueueFullError):
            await bus.put_all(queue, items)
        async with bus.pull_work(queue) as pull:
            first = await pull.many(1.0, 10)
            for delivery in first:
                await delivery.ack()
            await bus.put_all(queue, items)
            second = await pull.many(1.0, 10)
            assert [each.payload for each in (*first, *second)] == [item for _, item in items]
        await bus.close()

    run_async(body())


def test_a_full_queue_refuses_and_names_its_limit() -> None:
    async def body() -> None:
        bus = MemoryBus(queue_limit=3)
        await fill_and_check(bus)

    run_async(body())


def test_a_full_queue_of_nats_refuses(tmp_path: Any) -> None:
    async def body(server: NatsServer) -> None:
        async with on_nats(server, queue_limit=3) as bus:
            await fill_and_check(bus)

    server = NatsServer(tmp_path)
    server.start()
    try:
        run_async(body(server))
    finally:
        server.stop()


async def fill_and_check(bus: Bus) -> None:
    queue = a_queue()
    for n in range(3):
        await bus.put_work(queue, str(n), b"work")
    with pytest.raises(QueueFullError) as caught:
        await bus.put_work(queue, "3", b"work")
    assert (caught.value.queue, caught.value.limit) == (queue, 3)
    await bus.put_work(a_queue(), "3", b"another queue has its own limit")
    async with bus.pull_work(queue) as pull:
        delivery = await pull(5.0)
        assert delivery is not None
        await delivery.ack()
    while True:  # the server counts the acknowledgement a moment later
        try:
            await bus.put_work(queue, "3", b"work")
        except QueueFullError:
            await asyncio.sleep(0.02)
        else:
            return


def test_pullers_share_a_queue_fairly(opened: Open) -> None:
    async def body() -> None:
        queue = a_queue()
        done: list[int] = []

        async def worker(bus: Bus, number: int) -> None:
            async with bus.pull_work(queue) as pull:
                while len(done) < 80:
                    delivery = await pull(0.3)
                    if delivery is not None:
                        await asyncio.sleep(0.01)
                        await delivery.ack()
                        done.append(number)

        async with opened() as bus, asyncio.TaskGroup() as group:
            for number in range(4):
                group.create_task(worker(bus, number))
            for n in range(80):
                await bus.put_work(queue, str(n), b"work")
        assert len(done) == 80
        assert min(done.count(number) for number in range(4)) >= 10

    run_async(body())


ERRORS = [
    InvalidError("spec.steps[2].when", "expected an expression"),
    NotFoundError("Run", "run-1"),
    FencedError("partition/3", 7, 9),
    FencedError("partition/3", 7),
    UnavailableError("no database", retry_after=1.5),
    QueueFullError("ns.pool", 10, 2.0),
    ConflictError("changed meanwhile"),
    TerminalError("it stays wrong: ünïcode ✓"),
    RetryableError("later", 0.25),
    SeedbedError("plain"),
]


@pytest.mark.req("DSX-07")
def test_an_error_of_the_handler_reaches_the_requester_as_the_same_error(opened: Open) -> None:
    class ModuleMissingError(TerminalError):
        code = "module_not_found"

    async def body() -> None:
        async def handler(payload: bytes) -> bytes:
            number = int(payload)
            raise ERRORS[number] if number < len(ERRORS) else ModuleMissingError("no module 'x.y'")

        async with opened() as bus, bus.serve("engine.3", handler):
            for number, sent in enumerate(ERRORS):
                with pytest.raises(SeedbedError) as caught:
                    await bus.request("engine.3", b"%d" % number)
                assert type(caught.value) is type(sent)
                assert vars(caught.value) | {"code": sent.code} == vars(sent) | {"code": sent.code}
                assert str(caught.value) == str(sent)
            # An error that only the handler's side knows keeps its code and its family.
            with pytest.raises(TerminalError, match="no module") as unknown:
                await bus.request("engine.3", b"%d" % len(ERRORS))
            assert unknown.value.code == "module_not_found"

    run_async(body())


VALUES: list[Any] = [
    None,
    True,
    0,
    -(2**53),
    2**53,
    0.1 + 0.2,
    1e-320,
    1.7976931348623157e308,
    -0.0,
    "",
    'naïve ✓ 日本語 \U0001f331 \u0000 \u2028 " \\',
    [],
    {},
    {"a": {"b": [{"c": [1, [2, [3.5, None]]]}, {}], "ключ": {"🌱": "🌳"}}, "": {"": ""}},
]


@pytest.mark.req("DSX-07")
def test_values_come_back_as_they_were_sent(opened: Open) -> None:
    async def body() -> None:
        async def worker(payload: bytes) -> bytes:
            task = decode(StepTask, payload)
            result = StepResult(task.run, task.key, task.attempt, "w", output=task.inputs["value"])
            return encode(result)

        async with opened() as bus, bus.serve("worker.1", worker):
            for value in [*VALUES, VALUES]:
                key = StepKey("audit", 3)
                task = StepTask("r", "ns", "w", key, 1, "call", {}, {"value": value}, 30.0)
                result = decode(StepResult, await bus.request("worker.1", encode(task)))
                assert result.key == key
                assert result.output == value
                if isinstance(value, float):
                    assert math.copysign(1, result.output) == math.copysign(1, value)
            failed = StepResult("r", key, 1, "w", error=StepError("x", "é", retryable=False))
            assert decode(StepResult, encode(failed)) == failed

    run_async(body())


def test_four_mebibytes_travel(opened: Open) -> None:
    async def body() -> None:
        value = bytes(range(256)) * 16384

        async def echo(payload: bytes) -> bytes:
            return payload

        async with opened() as bus, bus.serve("echo", echo):
            assert await bus.request("echo", value) == value

    run_async(body())


def test_requests_are_answered_side_by_side(opened: Open) -> None:
    async def body() -> None:
        together = asyncio.Barrier(20)

        async def handler(payload: bytes) -> bytes:
            await together.wait()  # ends only when all twenty are in a handler at once
            return payload

        async with opened() as bus, bus.serve("slow", handler):
            answers = await asyncio.gather(*(bus.request("slow", b"%d" % n) for n in range(20)))
        assert answers == [b"%d" % n for n in range(20)]

    run_async(body())


def test_a_handler_may_hand_on_and_give_a_future(opened: Open) -> None:
    async def body() -> None:
        asked: dict[bytes, asyncio.Future[bytes]] = {}

        def handler(payload: bytes) -> asyncio.Future[bytes]:
            if payload == b"bad":
                raise NotFoundError("run", "r-1")
            asked[payload] = asyncio.get_running_loop().create_future()
            loop = asyncio.get_running_loop()
            if payload == b"late":
                error = ConflictError("run r-1 has ended")
                loop.call_later(0.01, asked[payload].set_exception, error)
            elif payload == b"good":
                loop.call_later(0.01, asked[payload].set_result, b"done")
            return asked[payload]

        async with opened() as bus, bus.serve("engine.4", handler):
            assert await bus.request("engine.4", b"good") == b"done"
            with pytest.raises(NotFoundError):
                await bus.request("engine.4", b"bad")
            with pytest.raises(ConflictError, match="has ended"):
                await bus.request("engine.4", b"late")
            with pytest.raises(UnavailableError, match=r"engine\.4"):
                await bus.request("engine.4", b"never", wait=0.1)
            if not asked[b"never"].done():  # over a network nobody tells that one has given up
                asked[b"never"].set_result(b"")

    run_async(body())


def test_a_request_that_was_taken_is_answered_when_serving_ends(opened: Open) -> None:
    async def body() -> None:
        taken, go = asyncio.Event(), asyncio.Event()

        async def handler(_: bytes) -> bytes:
            taken.set()
            await go.wait()
            return b"done"

        async with opened() as bus:
            async with bus.serve("ending", handler):
                asked = asyncio.create_task(bus.request("ending", b""))
                await taken.wait()
                asyncio.get_running_loop().call_later(0.1, go.set)
            assert await asked == b"done"
            with pytest.raises(UnavailableError):
                await bus.request("ending", b"")

    run_async(body())


def test_nobody_serves_and_nobody_answers(opened: Open) -> None:
    async def body() -> None:
        late = asyncio.Event()

        async def silent(_: bytes) -> bytes:
            await late.wait()
            return b""

        async def broken(_: bytes) -> bytes:
            raise ZeroDivisionError

        async with opened() as bus:
            # Told at once: the hour is never waited for.
            with pytest.raises(UnavailableError, match="nobody serves"):
                await bus.request("nowhere", b"", wait=3600)
            async with bus.serve("broken", broken):
                with pytest.raises(SeedbedError, match="ZeroDivisionError"):
                    await bus.request("broken", b"", wait=3600)
            async with bus.serve("silent", silent):
                with pytest.raises(UnavailableError, match="silent"):
                    await bus.request("silent", b"", wait=0.2)
                late.set()

    run_async(body(), limit=40)


def test_patterns_are_heard(opened: Open) -> None:
    async def body() -> None:
        async with (
            opened() as bus,
            bus.hear("runs.*") as some,
            bus.hear("runs.>") as deep,
            bus.hear("runs.1") as one,
        ):
            for topic in ("other.1", "runs", "runs.2.x", "runs.2", "runs.1"):
                await bus.publish(topic, topic.encode())
            assert (await anext(one)).topic == "runs.1"
            assert [(await anext(some)).payload for _ in range(2)] == [b"runs.2", b"runs.1"]
            heard = [(await anext(deep)).topic for _ in range(3)]
            assert heard == ["runs.2.x", "runs.2", "runs.1"]

    run_async(body())


def test_a_listener_that_falls_behind_loses_the_oldest(opened: Open) -> None:
    async def body() -> None:
        async def pong(_: bytes) -> bytes:
            return b""

        more = 500
        async with opened() as bus, bus.hear("flood") as slow, bus.serve("ping", pong):
            for n in range(BACKLOG + more):
                await bus.publish("flood", b"%d" % n)
            first = await anext(slow)
            while int(first.payload) < more:  # all have arrived once the oldest are gone
                await bus.request("ping", b"")
                first = await anext(slow)
            got = [int((await anext(slow)).payload) for _ in range(100)]
            assert got == list(range(got[0], got[0] + 100))

    run_async(body())


def test_a_name_that_would_change_the_subject_is_refused(nats_server: NatsServer) -> None:
    async def body() -> None:
        async with on_nats(nats_server) as bus:
            for name in ("", "a b", "a.*", ">", "a..b", "a\r\nPUB x"):
                with pytest.raises(InvalidError):
                    await bus.put_work(name, "1", b"")
                with pytest.raises(InvalidError):
                    await bus.request(name, b"")

    run_async(body())


def test_no_server_is_told_in_time() -> None:
    async def body() -> None:
        with pytest.raises(UnavailableError):
            await NatsBus.open("nats://127.0.0.1:9", wait=0.5)

    run_async(body())


@pytest.mark.parametrize("disk", ["kept", "empty"])
def test_a_server_that_restarts_is_usable_at_once(nats_server: NatsServer, disk: str) -> None:
    async def body() -> None:
        queue = a_queue()
        restored = asyncio.Event()

        async def pong(_: bytes) -> bytes:
            return b"pong"

        async with (
            on_nats(nats_server) as bus,
            on_nats(nats_server) as workers,
            workers.pull_work(queue) as pull,
            bus.serve("ping", pong),
            bus.hear("news") as news,
        ):
            bus.on_restore(restored.set)
            await bus.put_work(queue, "1", b"before")
            held = await pull(5.0)
            assert held is not None
            await held.ack()
            await bus.put_work(queue, "2", b"waiting")
            await asyncio.to_thread(nats_server.kill)
            if disk == "empty":
                nats_server.wipe()
            waiting = asyncio.ensure_future(pull(30.0))
            putting = asyncio.create_task(bus.put_work(queue, "3", b"meanwhile"))
            await asyncio.to_thread(nats_server.start)
            await restored.wait()
            await putting
            got = await waiting
            expected = {b"meanwhile"} if disk == "empty" else {b"waiting", b"meanwhile"}
            seen = set()
            while got is not None:
                seen.add(got.payload)
                await got.ack()
                got = await pull(0.5)
            assert seen == expected
            assert await workers.request("ping", b"") == b"pong"
            await workers.publish("news", b"again")
            assert (await anext(news)).payload == b"again"

    run_async(body(), limit=60)


def test_a_server_away_is_unavailable_not_silence(nats_server: NatsServer) -> None:
    async def body() -> None:
        async with on_nats(nats_server) as bus, bus.pull_work(a_queue()) as pull:
            await asyncio.to_thread(nats_server.stop)
            assert await pull(0.3) is None
            with pytest.raises(UnavailableError):
                await bus.put_work(a_queue(), "1", b"")
            with pytest.raises(UnavailableError):
                await bus.request("ping", b"", wait=0.3)

    try:
        run_async(body())
    finally:
        nats_server.start()
