"""Workers: who they are, what they execute, and what one's end means to the others."""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from seedbed.crds.addresses import engine_address, partition_of, unwanted_topic, work_queue
from seedbed.crds.engine_requests import Report, Reported, ReportMany, decode_request
from seedbed.crds.errors import ConflictError, InvalidError, UnavailableError
from seedbed.crds.messages import StepKey, StepResult, StepTask, Unwanted
from seedbed.crds.run_ids import attempt_id
from seedbed.crds.wire import encode
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.coordination.memory import MemoryCoordinator
from seedbed.runtime.coordination.registry import Service, discover
from seedbed.runtime.worker import adapters
from seedbed.runtime.worker.adapters import (
    AdapterStartError,
    UnsupportedAdapterError,
    adapter_named,
)
from seedbed.runtime.worker.reporting import Hands
from seedbed.runtime.worker.serving import serve_workers
from seedbed.runtime.worker.worker import Worker
from tests.conftest import run_async

RUN = "run-1"


def a_task(entry: str, name: str = "a", timeout: float = 20.0, **inputs: Any) -> StepTask:
    program = {"entry": entry}
    return StepTask(RUN, "team", "plan", StepKey(name), 1, "call", program, inputs, timeout)


class Place:
    """A Pool's surroundings in memory, with an engine that takes every result."""

    def __init__(self) -> None:
        self.bus = MemoryBus()
        self.coordinator = MemoryCoordinator()
        self.results: asyncio.Queue[StepResult] = asyncio.Queue()

    async def engine(self, payload: bytes) -> bytes:
        request = decode_request(payload)
        assert isinstance(request, Report | ReportMany)
        for result in [request.result] if isinstance(request, Report) else request.results:
            self.results.put_nowait(result)
        return b"{}"

    def worker(self, adapter: str = "python", worker_id: str | None = None) -> Worker:
        return Worker(
            bus=self.bus,
            coordinator=self.coordinator,
            gateway_url="",
            namespace="team",
            pool="general",
            adapter=adapter,
            stopping=asyncio.Event(),
            node="here",
            worker_id=worker_id,
        )

    async def give(self, *tasks: StepTask) -> None:
        for task in tasks:
            await self.bus.put_work(work_queue("team", "general"), str(task.key), encode(task))

    async def workers(self) -> list[Service]:
        return await discover(self.coordinator, "worker")


@asynccontextmanager
async def serving(place: Place, **options: Any) -> AsyncIterator[asyncio.Event]:
    """A Pool's workers and the engine."""
    stopping = asyncio.Event()
    async with place.bus.serve(engine_address(partition_of(RUN)), place.engine):
        pool = asyncio.create_task(
            serve_workers(
                bus=place.bus,
                coordinator=place.coordinator,
                gateway_url="",
                namespace="team",
                pool="general",
                stopping=stopping,
                **options,
            )
        )
        try:
            yield stopping
            stopping.set()
            await pool
        finally:
            pool.cancel()
            await asyncio.wait({pool})


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    while not await condition():
        await asyncio.sleep(0.01)


@pytest.mark.req("SNK-27")
def test_by_default_a_pool_has_four_healthy_registered_workers() -> None:
    async def body() -> None:
        place = Place()
        async with serving(place):

            async def four() -> bool:
                return len(await place.workers()) == 4

            await until(four)
            found = await place.workers()
            assert len({service.instance for service in found}) == 4
            for service in found:
                facts = service.metadata
                assert (facts["namespace"], facts["pool"]) == ("team", "general")
                assert facts["status"] == "ready"
        assert await place.workers() == []

    run_async(body())


@pytest.mark.req("SNK-06")
def test_a_workers_id_has_its_form_and_is_refused_a_second_time() -> None:
    async def body() -> None:
        place = Place()
        assert re.fullmatch(r"worker_[0-9A-F]{16}", place.worker().worker_id)
        assert place.worker(worker_id="worker_1").worker_id == "worker_1"
        first = asyncio.create_task(place.worker(worker_id="worker_1").run())

        async def there() -> bool:
            return bool(await place.workers())

        await until(there)
        with pytest.raises(ConflictError, match="worker_1"):
            await place.worker(worker_id="worker_1").run()
        first.cancel()
        await asyncio.wait({first})

    run_async(body())


@pytest.mark.req("SNK-06")
def test_a_worker_whose_adapter_fails_ends_with_the_reason_and_is_never_registered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body() -> None:
        place = Place()
        monkeypatch.setattr(shutil, "which", lambda _: None)
        worker = place.worker("javascript")
        async with place.coordinator.watch("services/") as changes:
            with pytest.raises(AdapterStartError, match="node"):
                await worker.run()
            assert worker.health == "failed"
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(changes), 0.1)

    run_async(body())


@pytest.mark.req("SNK-07")
def test_an_adapter_that_does_not_exist_is_one_typed_error() -> None:
    async def body() -> None:
        place = Place()
        with pytest.raises(UnsupportedAdapterError) as refused:
            await serve_workers(
                bus=place.bus,
                coordinator=place.coordinator,
                gateway_url="",
                namespace="team",
                pool="general",
                adapter="cobol",
            )
        assert refused.value.code == "unsupported_adapter"
        assert refused.value.adapter == "cobol"

    run_async(body())


@pytest.mark.req("SNK-07")
def test_a_worker_executes_one_step_at_a_time_and_measures_it() -> None:
    async def body() -> None:
        place = Place()
        async with serving(place, count=1, concurrency=1):
            await place.give(
                *(a_task("tests.steps:busy", name, seconds=0.1) for name in ("a", "b", "c"))
            )
            results = [await place.results.get() for _ in range(3)]
            assert [str(result.key) for result in results] == ["a", "b", "c"]
            assert all(result.output == "done" for result in results)
            for result in results:
                assert result.finished - result.started >= 0.1
            for earlier, later in itertools.pairwise(results):
                assert later.started >= earlier.finished

    run_async(body())


def test_a_worker_executes_side_by_side_what_it_can_start_and_leaves_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body() -> None:
        place = Place()
        going, most, gate = 0, 0, asyncio.Event()

        async def waits(*_: Any) -> str:
            nonlocal going, most
            going += 1
            most = max(most, going)
            await gate.wait()
            going -= 1
            return "done"

        monkeypatch.setattr(adapters.PythonAdapter, "call", waits)
        names = [f"s{n}" for n in range(7)]
        async with serving(place, count=1, concurrency=3):
            await place.give(*(a_task("tests.steps:echo", name) for name in names))

            async def three() -> bool:
                return going == 3

            await until(three)
            # The others are there for whoever is free.
            async with place.bus.pull_work(work_queue("team", "general")) as pull:
                others = await pull.many(1.0, 10)
                assert len(others) == 4
                for delivery in others:
                    await delivery.give_back()
            gate.set()
            results = [await place.results.get() for _ in names]
            assert {str(result.key) for result in results} == set(names)
            assert most == 3

    run_async(body())


def test_results_collect_while_the_engine_is_busy_and_those_it_asks_for_are_sent_again() -> None:
    async def body() -> None:
        place = Place()
        asked: list[list[str]] = []
        busy, go = asyncio.Event(), asyncio.Event()

        async def engine(payload: bytes) -> bytes:
            request = decode_request(payload)
            assert isinstance(request, Report | ReportMany)
            results = (request.result,) if isinstance(request, Report) else request.results
            asked.append([str(result.key) for result in results])
            busy.set()
            await go.wait()
            return encode(Reported((1,) if len(results) == 3 else ()))

        names = ["a", "b", "c", "d"]
        queue = work_queue("team", "general")
        await place.give(*(a_task("tests.steps:echo", name) for name in names))
        async with (
            place.bus.serve(engine_address(partition_of(RUN)), engine),
            place.bus.pull_work(queue, redeliver_after=0.2) as pull,
            asyncio.TaskGroup() as tasks,
        ):
            hands = Hands(place.bus, "worker", 0.2)
            keeping = tasks.create_task(hands.keep())
            deliveries = await pull.many(1.0, 10)
            for delivery in deliveries:
                hands.take(delivery)
            for name, delivery in zip(names, deliveries, strict=True):
                result = StepResult(RUN, StepKey(name), 1, "worker")
                tasks.create_task(hands.done(delivery, result))
                await busy.wait()
            # Longer than the bus waits: what is in hand is kept.
            assert await pull.many(0.5, 10) == []
            go.set()
            await hands.until_empty()
            keeping.cancel()
            assert asked == [["a"], ["b", "c", "d"], ["c"]]
            assert await pull.many(0.3, 10) == []

    run_async(body())


def test_no_report_keeps_an_engine_busy_for_long() -> None:
    async def body() -> None:
        place = Place()
        sizes: list[int] = []
        go = asyncio.Event()

        async def engine(payload: bytes) -> bytes:
            request = decode_request(payload)
            assert isinstance(request, Report | ReportMany)
            sizes.append(1 if isinstance(request, Report) else len(request.results))
            await go.wait()
            return encode(Reported())

        names = [f"s{number}" for number in range(1100)]
        await place.give(*(a_task("tests.steps:echo", name) for name in names))
        async with (
            place.bus.serve(engine_address(partition_of(RUN)), engine),
            place.bus.pull_work(work_queue("team", "general")) as pull,
            asyncio.TaskGroup() as tasks,
        ):
            hands = Hands(place.bus, "worker", 30.0)
            for name, delivery in zip(names, await pull.many(1.0, 1100), strict=True):
                hands.take(delivery)
                result = StepResult(RUN, StepKey(name), 1, "worker")
                tasks.create_task(hands.done(delivery, result))
            go.set()
            await hands.until_empty()
        assert sizes == [1, 500, 500, 99]

    run_async(body())


def test_what_is_left_of_a_run_that_has_ended_is_not_executed() -> None:
    async def body() -> None:
        place = Place()
        executed: list[str] = []

        async def over(payload: bytes) -> bytes:
            request = decode_request(payload)
            assert isinstance(request, Report | ReportMany)
            results = (request.result,) if isinstance(request, Report) else request.results
            executed.extend(str(result.key) for result in results)
            return encode(Reported(ended=(RUN,)))

        place.engine = over  # type: ignore[method-assign]  # one that knows the run has ended
        async with serving(place, count=1, concurrency=1):
            await place.give(a_task("tests.steps:echo", "first"))

            queue = place.bus._queues[work_queue("team", "general")]

            async def gone() -> bool:
                return len(queue) == 0

            await until(gone)
            await place.give(*(a_task("tests.steps:echo", f"s{n}") for n in range(5)))

            await until(gone)
        assert executed == ["first"]

    run_async(body())


def test_an_engine_of_an_earlier_version_gets_one_result_at_a_time() -> None:
    async def body() -> None:
        place = Place()
        asked: list[str] = []
        busy, go = asyncio.Event(), asyncio.Event()

        async def engine(payload: bytes) -> bytes:
            request = decode_request(payload)
            if isinstance(request, ReportMany):
                raise InvalidError("op", "expected one of submit, report")
            assert isinstance(request, Report)
            asked.append(str(request.result.key))
            busy.set()
            await go.wait()
            return b"{}"

        await place.give(*(a_task("tests.steps:echo", name) for name in ("a", "b", "c")))
        queue = work_queue("team", "general")
        async with (
            place.bus.serve(engine_address(partition_of(RUN)), engine),
            place.bus.pull_work(queue) as pull,
            asyncio.TaskGroup() as tasks,
        ):
            hands = Hands(place.bus, "worker", 30.0)
            for name, delivery in zip(("a", "b", "c"), await pull.many(1.0, 10), strict=True):
                hands.take(delivery)
                result = StepResult(RUN, StepKey(name), 1, "worker")
                tasks.create_task(hands.done(delivery, result))
                await busy.wait()
            go.set()
            await hands.until_empty()
            assert asked == ["a", "b", "c"]

    run_async(body())


@pytest.mark.parametrize(
    ("task", "code", "retryable", "told"),
    [
        (a_task("tests.steps:broken"), "entry_failed", True, "RuntimeError: it is broken"),
        (a_task("tests.steps:echo2"), "invalid", False, "no function 'echo2'"),
        (a_task("tests.nothing:echo"), "invalid", False, "cannot be imported"),
        (a_task("tests.steps:busy", seconds=1, minutes=1), "invalid", False, "minutes"),
        (a_task("tests.steps:not_json"), "invalid", False, "must return JSON"),
        (a_task("tests.steps:deep", levels=255), "invalid", False, "levels deep"),
        (a_task("tests.steps:after_the_last"), "entry_failed", True, "StopIteration"),
        (a_task("tests.steps:no_such_file"), "entry_failed", True, "there is no caf?"),
        (a_task("tests.steps:says_much", size=1_000_000), "entry_failed", True, "ValueError: x"),
        (a_task("tests.steps:large", size=5_000_000), "invalid", False, "at most"),
        (a_task("tests.steps:forever", timeout=0.1), "timeout", True, "0.1 s"),
        (a_task("tests.steps:busy", timeout=0.1, seconds=1.5), "timeout", True, "0.1 s"),
    ],
)
def test_what_goes_wrong_is_told_with_its_class(
    task: StepTask, code: str, retryable: bool, told: str
) -> None:
    async def body() -> None:
        result = await Place().worker().execute(task)
        assert result.error is not None
        assert (result.error.code, result.error.retryable) == (code, retryable)
        assert told in result.error.message
        assert "Traceback" not in result.error.message
        assert len(encode(result)) < 20_000

    run_async(body())


@pytest.mark.parametrize("answer", ["cut off: \ud83d", {"tree": [[]]}])
def test_an_answer_that_nobody_can_write_is_malformed(
    answer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half a character, or a tree without end, must not end the worker that is to tell of it."""
    if isinstance(answer, dict):
        for _ in range(300):
            answer = {"tree": [answer]}

    async def body() -> None:
        async def say(*_: Any) -> Any:
            return answer

        worker = Place().worker()
        monkeypatch.setattr(worker, "_ask", say)
        task = msgspec.structs.replace(a_task("tests.steps:echo"), kind="agent")
        result = await worker.execute(task)
        assert result.error is not None
        assert (result.error.code, result.error.retryable) == ("answer_malformed", True)
        assert encode(result)

    run_async(body())


def test_a_step_gets_its_idempotency_key_where_it_asks_for_it(tmp_path: Path) -> None:
    async def body() -> None:
        worker = Place().worker()
        await worker.execute(a_task("tests.steps:note", folder=str(tmp_path), label="x"))
        assert (tmp_path / "executed").read_text() == "run-1/a\n"

    run_async(body())


def test_a_defect_is_a_failed_attempt_and_its_text_stays_in_the_log(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body() -> None:
        async def defect(*_: Any) -> Any:
            raise ZeroDivisionError("the key is sk-123")

        worker = Place().worker()
        monkeypatch.setattr(worker._adapter, "call", defect)
        result = await worker.execute(a_task("tests.steps:echo"))
        assert result.error is not None
        assert (result.error.code, result.error.retryable) == ("internal", True)
        assert "sk-123" not in result.error.message

    run_async(body())


@pytest.mark.req("SNK-02", "SNK-27", "DSX-01")
def test_a_worker_that_crashes_is_replaced_and_the_others_stay(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def body() -> None:
        place = Place()
        async with serving(place, count=3):

            async def three() -> bool:
                return len(await place.workers()) == 3

            await until(three)
            before = {service.instance for service in await place.workers()}

            async def crash(*_: Any) -> None:
                monkeypatch.undo()
                raise RuntimeError("this worker is broken")

            monkeypatch.setattr(Worker, "execute", crash)
            await place.give(a_task("tests.steps:echo"))

            async def replaced() -> bool:
                now = {service.instance for service in await place.workers()}
                return len(now) == 3 and now != before

            await until(replaced)
            after = {service.instance for service in await place.workers()}
            assert len(before & after) == 2
            await place.give(a_task("tests.steps:echo", "b", v=1))
            # Another worker has what the one that crashed had in hand, and what came since.
            results = [await place.results.get() for _ in range(2)]
            assert {str(result.key): result.output for result in results} == {
                "a": {},
                "b": {"v": 1},
            }

    run_async(body())


def test_a_result_is_reported_until_the_engine_takes_it() -> None:
    async def body() -> None:
        place = Place()
        refused = 0

        async def away(payload: bytes) -> bytes:
            nonlocal refused
            if refused < 3:
                refused += 1
                raise UnavailableError("the partition moves")
            return await Place.engine(place, payload)

        place.engine = away  # type: ignore[method-assign]  # an engine that is away at first
        async with serving(place, count=1):
            await place.give(a_task("tests.steps:echo", v=1))
            assert (await place.results.get()).output == {"v": 1}
        assert refused == 3
        async with place.bus.pull_work(work_queue("team", "general")) as pull:
            assert await pull(0.0) is None

    run_async(body())


def test_stopping_lets_a_step_end_within_the_drain_time_and_gives_back_what_takes_longer() -> None:
    async def body() -> None:
        place = Place()
        async with serving(place, count=2, drain=1.0) as stopping:
            await place.give(
                a_task("asyncio:sleep", "short", delay=0.3, result="slept"),
                a_task("tests.steps:forever", "long"),
            )

            async def taken() -> bool:
                return not place.bus._queues[work_queue("team", "general")].waiting

            await until(taken)
            stopping.set()
            assert (await place.results.get()).output == "slept"
        async with place.bus.pull_work(work_queue("team", "general")) as pull:
            delivery = await pull(1.0)
            assert delivery is not None
            assert delivery.redelivered
            assert b"long" in delivery.payload

    run_async(body())


@pytest.mark.req("SNK-07")
@pytest.mark.skipif(shutil.which("node") is None, reason="needs the program node")
def test_javascript_entry_points_give_their_value_or_their_error(tmp_path: Path) -> None:
    module = tmp_path / "steps.mjs"
    module.write_text(
        "export const add = async ({a, b, idempotencyKey}) => ({sum: a + b, idempotencyKey});\n"
        "export const fail = () => { throw new Error('it broke'); };\n"
        "export const hang = () => new Promise(() => setInterval(() => {}, 1000));\n"
    )

    async def body() -> None:
        adapter = adapter_named("javascript")
        await adapter.start()
        output = await adapter.call(f"{module}:add", {"a": 1, "b": 2}, "run-1/a")
        assert output == {"sum": 3, "idempotencyKey": "run-1/a"}
        with pytest.raises(adapters.EntryFailedError, match="it broke"):
            await adapter.call(f"{module}:fail", {}, "k")
        with pytest.raises(adapters.EntryFailedError, match="exports no function"):
            await adapter.call(f"{module}:nothing", {}, "k")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1.0):
                await adapter.call(f"{module}:hang", {}, "k")

    run_async(body())


def test_an_unwanted_attempt_is_stopped_and_its_lane_takes_the_next_step() -> None:
    async def body() -> None:
        place = Place()
        async with serving(place, count=1, concurrency=1):
            stuck, late = a_task("tests.steps:forever", "stuck"), a_task("tests.steps:echo", "late")
            following = StepKey("next")
            await place.give(stuck, late, a_task("tests.steps:echo", "next"))
            unwanted = Unwanted(tuple(attempt_id(RUN, task.key, 1) for task in (stuck, late)))
            others = Unwanted((attempt_id(RUN, following, 2), attempt_id("run-2", following, 1)))

            async def told() -> bool:
                await place.bus.publish(unwanted_topic("team"), encode(others))
                await place.bus.publish(unwanted_topic("team"), encode(unwanted))
                return not place.results.empty()

            await until(told)
            # Neither the stopped attempt nor the one that came later is reported.
            assert (await place.results.get()).key.step == "next"
            assert place.results.empty()

    run_async(body())
