"""How a role lives as a process: it waits for its servers, serves, and ends.

Every role writes structured logs, tells its health on a port of its own, and ends in good order on
SIGTERM. The exit code tells why it ended.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TypeVar

import typer

from seedbed.cli.settings import Settings
from seedbed.crds.errors import InvalidError, RetryableError, SeedbedError, UnavailableError
from seedbed.runtime.seeds.torchrun import local_rank

START_SECONDS = 300.0
"""How long a role waits for its servers; then it ends, and Kubernetes starts it again."""
END_SECONDS = 10.0
"""How long a role that has nothing to drain may take to end."""

FAILED, MISUSED = 1, 2
"""Exit codes: something is wrong here; something is wrong with what it was given."""
# It owned something, such as the leadership, and owns it no more: another process goes on.
_REPLACED = 3
_REPLACED_CODES = ("fenced", "lease_lost")
_RETRY_SECONDS = 1.0

_log = logging.getLogger("seedbed.cli.serve")

_T = TypeVar("_T")


def always() -> bool:
    """Waits, until somebody says otherwise."""
    return True


@dataclass(slots=True)
class Process:
    """What a role is given.

    Attributes:
        stopping: set when the process is to end.
        drain: seconds that the role may take from then on; after that it is cancelled.
        waiting: tells what it waits for, by name; it is ready when all of them say no.
    """

    settings: Settings
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    drain: float = 0.0
    waiting: dict[str, Callable[[], bool]] = field(default_factory=lambda: {"its start": always})

    def started(self) -> None:
        """The role serves from now on."""
        self.waiting.pop("its start", None)

    def reason(self) -> str:
        """What it waits for now, empty when it is ready."""
        if self.stopping.is_set():
            return "its end"
        return ", ".join(name for name, waits in self.waiting.items() if waits())


Role = Callable[[Process], Awaitable[None]]


async def patiently(name: str, attempt: Callable[[], Awaitable[_T]]) -> _T:
    """Try until the server answers: in a cluster everything starts at once."""
    try:
        async with asyncio.timeout(START_SECONDS):
            while True:
                try:
                    return await attempt()
                except RetryableError as error:
                    _log.warning("waiting for %s: %s", name, error)
                    await asyncio.sleep(error.retry_after or _RETRY_SECONDS)
    except TimeoutError:
        raise UnavailableError(f"{name} did not answer within {START_SECONDS:g} s") from None


def run_role(
    name: str, role: Role, *needed: str, loop: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> None:
    """Run a role until it is told to stop, on `loop` or asyncio's own; the exit code tells why it ended."""
    from seedbed.runtime.telemetry.logs import configure  # noqa: PLC0415  # orjson, for this alone

    configure(name)
    try:
        settings = Settings.read(os.environ, *needed)
        if local_rank():
            # Another process of this pod has the ports that others know.
            settings = settings.model_copy(update={"health_port": 0, "port": 0})
        configure(name, settings.log_level)
        with asyncio.Runner(loop_factory=loop) as runner:
            runner.run(_run(Process(settings), role))
    except InvalidError as error:
        _log.error("%s", error)
        raise typer.Exit(MISUSED) from None
    except SeedbedError as error:
        _log.error("%s", error, extra={"code": error.code})
        raise typer.Exit(_REPLACED if error.code in _REPLACED_CODES else FAILED) from None
    except Exception:  # noqa: BLE001  # the process's last word is a log line, not a bare traceback
        _log.exception("%s failed", name)
        raise typer.Exit(FAILED) from None


async def _run(process: Process, role: Role) -> None:
    from seedbed.runtime.telemetry.health import serving_health  # noqa: PLC0415  # aiohttp, likewise

    async with (
        _signals(process.stopping),
        serving_health(process.reason, port=process.settings.health_port),
    ):
        running = asyncio.ensure_future(role(process))
        stopping = asyncio.ensure_future(process.stopping.wait())
        try:
            await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if process.stopping.is_set() and process.drain:
                await asyncio.wait({running}, timeout=process.drain)
        finally:
            stopping.cancel()
            running.cancel()
            await asyncio.wait({running}, timeout=END_SECONDS)
        _log.info("ended")
        if running.done() and not running.cancelled():
            running.result()
        if not process.stopping.is_set():
            raise UnavailableError("the role ended by itself")


@asynccontextmanager
async def _signals(stopping: asyncio.Event) -> AsyncIterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    try:
        yield
    finally:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
