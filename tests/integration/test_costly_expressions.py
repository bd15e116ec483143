"""Expressions that may cost much: what they may take, and that nobody else waits for them."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import pytest
from prometheus_client import REGISTRY

from seedbed.crds.engine_requests import Submit
from seedbed.crds.expressions import Expression, Pending, Scope
from seedbed.crds.messages import RunRequest, RunSummary
from seedbed.runtime.bus.memory import MemoryBus
from seedbed.runtime.store.sql import SqlStore
from seedbed.runtime.workflow import world
from seedbed.runtime.workflow.evaluation.evaluations import Evaluations
from seedbed.runtime.workflow.evaluation.process import Evaluator
from seedbed.runtime.workflow.evaluation.wire import Answer, Asked, Limits
from seedbed.runtime.workflow.records import StepFailed
from seedbed.runtime.workflow.replay import records_of
from tests.conftest import run_async
from tests.small_engine import NAMESPACE, a_store, ask, serving, until

LIMITS = Limits(memory=256 * 1024 * 1024, seconds=1, answer=1024 * 1024)
ENDLESS = "params.items.all(a, params.items.all(b, params.items.all(c, a + b + c >= 0)))"
"""A thousand million times what takes a microsecond."""
HUGE = "params.items.map(x, params.items.map(y, params.text))"
"""A hundred thousand million characters."""
PARAMS = {"items": list(range(1000)), "text": "x" * 100_000}


@pytest.fixture(autouse=True)
def _limits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(world, "Evaluations", partial(Evaluations, LIMITS))


def plan(name: str, *steps: dict[str, Any], **spec: Any) -> RunRequest:
    return RunRequest(f"uid-{name}-abcdef12", NAMESPACE, name, {"steps": list(steps), **spec})


def echo(name: str, value: Any, **more: Any) -> dict[str, Any]:
    return {"name": name, "call": {"entry": "tests.steps:echo", "args": {"it": value}}, **more}


async def ended(bus: MemoryBus, request: RunRequest) -> RunSummary:
    await ask(bus, request.run, Submit(request))
    return await until(bus, request.run)


def evaluated(outcome: str) -> float:
    """How many expressions were evaluated beside the engine so far."""
    name = "seedbed_engine_expressions_total"
    return REGISTRY.get_sample_value(name, {"outcome": outcome}) or 0.0


@asynccontextmanager
async def an_evaluator(limits: Limits = LIMITS) -> AsyncIterator[Evaluator]:
    evaluator = Evaluator(limits)
    try:
        yield evaluator
    finally:
        await evaluator.close()


def asked(text: str, **read: Any) -> Asked:
    return Asked(text, "spec.result", orjson.dumps(read))


def _on(_name: str, _subject: str | None) -> bool:
    return True


@pytest.mark.parametrize(
    ("text", "limit"),
    [
        (ENDLESS, "time"),
        (HUGE, "memory"),
        ("['xxxxxxxx']" + ".map(t, t + t + t + t)" * 20, "memory"),
        ("params.items.map(x, params.text)", "memory"),
        ("params.items.map(x, x < 20 ? params.text : '')", "result"),
    ],
)
def test_an_evaluation_has_limits_and_the_next_one_is_well(text: str, limit: str) -> None:
    async def body() -> None:
        async with an_evaluator() as evaluator:
            answer = await evaluator.evaluate(asked(text, params=PARAMS), _on)
            assert answer == Answer(limit=limit)
            assert await evaluator.evaluate(asked("1 + 1"), _on) == Answer(value=b"2")

    run_async(body())


def test_what_a_process_gives_is_what_the_engine_gives() -> None:
    flags: list[tuple[str, str | None]] = []

    def flag(name: str, subject: str | None) -> bool:
        flags.append((name, subject))
        return subject == "b"

    texts = [
        "['a', 'b'].filter(x, flag('new', x))",
        "flag('new')",
        "{'t': timestamp('2026-01-02T03:04:05Z'), 1: [1.5, null, params.n]}",
        "steps['a-b'].output.map(x, x * 2)",
    ]
    read: dict[str, Any] = {
        "params": {"n": 1},
        "steps": {"a-b": {"output": [1, 2], "state": "Succeeded"}},
    }

    async def body() -> None:
        async with an_evaluator() as evaluator:
            for text in texts:
                told = await evaluator.evaluate(asked(text, **read), flag)
                value = Expression.parse(text, "f").compute(Scope(**read, flag=flag))
                assert orjson.loads(told.value or b"") == value
            for text, said in {"params.n / 0": "division by zero", "1.0 / 0.0": "JSON"}.items():
                told = await evaluator.evaluate(asked(text, **read), flag)
                assert told.value is None
                assert said in told.wrong

    run_async(body())
    assert flags == [("new", "a"), ("new", "b")] * 2 + [("new", None)] * 2


@pytest.mark.req("DSX-19")
def test_a_hostile_expression_fails_its_step_and_holds_nobody_up(tmp_path: Path) -> None:
    """While it is evaluated runs come and go; the engine grows by nothing of what it makes."""

    async def body() -> None:
        async with a_store(tmp_path) as store, serving(store) as bus:
            hostile = plan("slow", echo("a", f"${{{ENDLESS}}}"), params=PARAMS)
            await ask(bus, hostile.run, Submit(hostile))
            for number in range(3):
                other = await ended(bus, plan(f"other-{number}", echo("a", 1)))
                assert other.phase == "Succeeded"
            before = evaluated("time")
            assert before == started, "others went through while it was evaluated"
            slow = await until(bus, hostile.run)
            assert slow.phase == "Failed"
            assert "spec.steps[0].call.args" in slow.message
            assert "takes more than 1 s of processor time" in slow.message
            assert ENDLESS[:30] in slow.message
            grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            huge = plan("huge", echo("a", "${item}", forEach=HUGE), params=PARAMS)
            found = await ended(bus, huge)
            assert found.phase == "Failed"
            assert "needs more than 256 MiB of memory" in found.message
            assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - grown < 64 * 1024
            assert [error.code async for error in _errors(store, huge.run)] == [
                "expression_too_costly"
            ]

    started = evaluated("time")
    run_async(body())


@pytest.mark.req("DSX-19")
def test_a_limit_that_was_exceeded_is_not_tried_again_by_the_next_owner(tmp_path: Path) -> None:
    async def body() -> None:
        request = plan(
            "once",
            echo("a", "${" + ENDLESS + "}", onError={"action": "continue"}),
            {"name": "wait", "wait": {"event": "go"}, "needs": ["a"]},
            params=PARAMS,
        )
        async with a_store(tmp_path) as store:
            async with serving(store) as bus:
                await ask(bus, request.run, Submit(request))
                await until(bus, request.run, lambda found: bool(found.waiting))
            before = evaluated("time")
            async with serving(store, start=1) as bus:
                found = await until(bus, request.run, lambda found: bool(found.waiting))
                assert found.counts.failed == 1
            assert evaluated("time") == before

    run_async(body())


async def _errors(store: SqlStore, run: str) -> AsyncIterator[Any]:
    async for _, record in records_of(store, run):
        if isinstance(record, StepFailed):
            yield record.error


@pytest.mark.req("DSX-19")
def test_every_place_takes_what_may_cost_much(tmp_path: Path) -> None:
    """Each of these goes through a list that is long enough to be evaluated beside the engine."""
    count = "size(params.items.filter(x, x >= 0))"

    async def body() -> None:
        branch = {"when": f"{count} == 1000", "then": ["yes"], "else": ["no"]}
        request = plan(
            "all",
            echo("first", "${params.items.map(x, x * 2)}", when=f"{count} == 1000"),
            echo(
                "each",
                "${params.items.filter(x, x == item)}",
                forEach="params.items.filter(x, x < 30)",
            ),
            {"name": "choose", "branch": branch},
            echo("yes", 1),
            echo("no", 2),
            {
                **echo("again", "${iteration}"),
                "repeat": {"until": f"output.it + 998 == {count} - 1", "max": 5},
            },
            {"name": "pause", "wait": {"until": f"{count} > 0 ? '2026-01-02T03:04:05Z' : ''"}},
            echo("last", "${" + count + "}"),
            params={"items": PARAMS["items"]},
            result="params.items.map(x, x + steps.again.output.it + size(steps.each.output))",
            onExit=["last"],
        )
        async with a_store(tmp_path) as store, serving(store) as bus:
            before = evaluated("value")
            found = await ended(bus, request)
        assert found.phase == "Succeeded", found.message
        assert found.counts.skipped == 1
        assert found.result == [x + 31 for x in range(1000)]
        assert evaluated("value") - before >= 36

    run_async(body())


def test_flags_of_such_an_expression_are_those_of_the_moment_it_is_used() -> None:
    """A flag that changes between the answer and its use has the expression evaluated anew."""
    on = False
    scope = Scope(params={"items": list(range(1000))}, flag=lambda _name, _subject: on)
    expression = Expression.parse("params.items.all(x, x >= 0) && flag('new')", "f")

    async def body() -> None:
        nonlocal on
        async with asyncio.TaskGroup() as tasks:
            evaluations = Evaluations(LIMITS)
            running = tasks.create_task(evaluations.run())
            evaluate = evaluations.of("run-1")
            assert await _value(evaluate, expression, scope) is False
            on = True
            assert await _value(evaluate, expression, scope) is True
            running.cancel()

    run_async(body())


async def _value(evaluate: Any, expression: Expression, scope: Scope) -> Any:
    while True:
        try:
            return evaluate(expression, scope)
        except Pending:
            await asyncio.sleep(0.01)
