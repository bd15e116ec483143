"""The owner's side of a process that evaluates expressions: started when one is needed, ended with it."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import Callable
from contextlib import suppress

from seedbed.runtime.workflow.evaluation.wire import (
    HEADER,
    Answer,
    Asked,
    FlagAsked,
    FlagTold,
    Limits,
    Message,
    length_of,
    packed,
    unpacked,
)

START_SECONDS = 60.0
WALL = 4
"""How many times the processor time an evaluation may take by the clock, where others want it too."""

Flag = Callable[[str, str | None], bool]


class Evaluator:
    """One process; a context that ends it."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._process: Process | None = None

    async def evaluate(self, asked: Asked, flag: Flag) -> Answer:
        """What an expression gives, or which limit it went beyond.

        Raises:
            OSError: no process can be started.
            TimeoutError: it does not start in time.
        """
        process = self._process or await self._start()
        try:
            async with asyncio.timeout(self._limits.seconds * WALL):
                return await self._talk(process, asked, flag)
        except TimeoutError:
            await self.close()
            return Answer(limit="time")
        except (asyncio.IncompleteReadError, ConnectionError, RuntimeError):
            ended = await process.wait()
            self._process = None
            # What asks for more memory than there may be ends by itself, in one way or another.
            return Answer(limit="time" if ended == -signal.SIGXCPU else "memory")

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _start(self) -> Process:
        limits = self._limits
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "seedbed.runtime.workflow.evaluation.child"),
            *(str(limits.memory), str(limits.seconds), str(limits.answer)),
            stdin=PIPE,
            stdout=PIPE,
            stderr=DEVNULL,
            start_new_session=True,  # what is typed at a terminal is for the engine
        )
        self._process = process
        try:
            async with asyncio.timeout(START_SECONDS):
                await _receive(process)
        except (TimeoutError, asyncio.IncompleteReadError, ConnectionError) as error:
            await self.close()
            raise TimeoutError("a process that evaluates expressions does not start") from error
        return process

    async def _talk(self, process: Process, asked: Asked, flag: Flag) -> Answer:
        await _send(process, asked)
        while not isinstance(said := await _receive(process), Answer):
            assert isinstance(said, FlagAsked)
            await _send(process, FlagTold(flag(said.name, said.subject)))
        return said


async def _send(process: Process, message: Message) -> None:
    assert process.stdin is not None
    process.stdin.write(packed(message))
    await process.stdin.drain()


async def _receive(process: Process) -> Message:
    assert process.stdout is not None
    header = await process.stdout.readexactly(HEADER)
    return unpacked(await process.stdout.readexactly(length_of(header)))
