"""Entry points that test workflows call."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any


def echo(**values: Any) -> dict[str, Any]:
    return values


async def note(folder: str, label: str, idempotency_key: str, wait: float = 0.0) -> str:
    """Leave a trace of each execution, and take a while."""
    with (Path(folder) / "executed").open("a") as lines:
        lines.write(f"{idempotency_key}\n")
    await asyncio.sleep(wait)
    return label


def flaky(folder: str, idempotency_key: str, failures: int) -> int:
    """Fail a number of times, then tell how often it was called."""
    trace = Path(folder) / idempotency_key.replace("/", "_")
    calls = int(trace.read_text()) + 1 if trace.exists() else 1
    trace.write_text(str(calls))
    if calls <= failures:
        raise ConnectionError("not yet")
    return calls


async def meet(folder: str, name: str, others: list[str]) -> str:
    """End only when all others run at the same time."""
    (Path(folder) / name).touch()
    while not all((Path(folder) / other).exists() for other in others):
        await asyncio.sleep(0.005)
    return name


async def stuck_once(folder: str, item: int, stuck: int) -> int:
    """The first call for one of the items never ends; all others do at once."""
    trace = Path(folder) / f"item-{item}"
    calls = trace.stat().st_size if trace.exists() else 0
    with trace.open("a") as file:
        file.write("x")
    if item == stuck and calls == 0:
        await asyncio.Event().wait()
    return item


def deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def after_the_last() -> Any:
    return next(iter([]))


def no_such_file() -> None:
    """Names of files that are no text are told as os.fsdecode makes them."""
    raise ValueError("there is no " + os.fsdecode(b"caf\xe9"))


def says_much(size: int) -> None:
    raise ValueError("x" * size)


def broken() -> None:
    raise RuntimeError("it is broken")


async def fail_after(trace: str) -> None:
    """Fail once somebody else has begun."""
    while not await asyncio.to_thread(Path(trace).exists):
        await asyncio.sleep(0.01)
    raise RuntimeError("it is broken")


async def forever() -> None:
    await asyncio.Event().wait()


def busy(seconds: float) -> str:
    """A function that nobody can interrupt."""
    time.sleep(seconds)
    return "done"


def large(size: int) -> str:
    return "x" * size


def not_json() -> object:
    return object()


async def numbers(count: int, pause_at: int, gate: str) -> AsyncIterator[int]:
    """Yield numbers; before the one at `pause_at`, wait until the file `gate` is there."""
    for number in range(count):
        while number == pause_at and not await asyncio.to_thread(Path(gate).exists):
            await asyncio.sleep(0.01)
        yield number


def squares(count: int) -> Iterator[int]:
    for number in range(count):
        yield number * number


async def stopped_once(folder: str, item: int, stuck: int) -> int:
    """As `stuck_once`; it leaves a trace when the stuck call is stopped."""
    try:
        return await stuck_once(folder, item, stuck)
    except asyncio.CancelledError:
        (Path(folder) / f"stopped-{item}").touch()
        raise


async def yield_then_wait(folder: str, count: int) -> AsyncIterator[int]:
    """Yield all numbers but the last one, and that once somebody says so."""
    for number in range(count - 1):
        yield number
    while not (Path(folder) / "go").exists():
        await asyncio.sleep(0.01)
    yield count - 1


def mark(folder: str, name: str) -> str:
    """Leave a trace of each call."""
    with (Path(folder) / name).open("a") as file:
        file.write("x")
    return name


async def lets_go(how: str) -> None:
    """End as if the worker were to end."""
    raise {"cancelled": asyncio.CancelledError, "exit": SystemExit, "interrupt": KeyboardInterrupt}[
        how
    ]("enough")
