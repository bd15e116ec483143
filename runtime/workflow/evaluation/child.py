"""A process that evaluates expressions, one after the other, and may die of them.

It bounds itself before it reads the first one: the kernel refuses it more memory, and ends it where one
evaluation takes too long, also while code runs that looks at no signal. Its owner sees how it ended.
"""

from __future__ import annotations

import math
import os
import resource
import sys
from pathlib import Path
from typing import BinaryIO

import orjson

from seedbed.crds.errors import InvalidError
from seedbed.crds.expressions import Expression, Scope
from seedbed.crds.values import written
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

_NICER = 5
"""The engine goes first where both want a processor."""


class _Wire:
    """Both pipes, out of the reach of whatever prints."""

    def __init__(self) -> None:
        self._read: BinaryIO = os.fdopen(os.dup(0), "rb")
        self._write: BinaryIO = os.fdopen(os.dup(1), "wb")
        nowhere = os.open(os.devnull, os.O_RDWR)
        for standard in range(3):
            os.dup2(nowhere, standard)

    def receive(self) -> Message | None:
        """The next message; None where the owner is gone."""
        header = self._read.read(HEADER)
        return unpacked(self._read.read(length_of(header))) if header else None

    def send(self, message: Message) -> None:
        """Say something."""
        self._write.write(packed(message))
        self._write.flush()

    def flag(self, name: str, subject: str | None) -> bool:
        """Ask the owner for a flag."""
        self.send(FlagAsked(name, subject))
        told = self.receive()
        return isinstance(told, FlagTold) and told.on


def evaluate(asked: Asked, limits: Limits, wire: _Wire) -> Answer:
    """What an expression gives."""
    scope = Scope(**orjson.loads(asked.read), flag=wire.flag)
    try:
        data = written(
            Expression.parse(asked.text, asked.field).compute(scope),
            any_keys=True,
        )
    except InvalidError as error:
        return Answer(wrong=error.expected)
    except TypeError as error:
        return Answer(wrong=f"cannot be written: {error}")
    except MemoryError:
        return Answer(limit="memory")
    return Answer(value=data) if len(data) <= limits.answer else Answer(limit="result")


def main(limits: Limits) -> None:
    """Evaluate until the owner is gone."""
    wire = _Wire()
    os.nice(_NICER)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":  # elsewhere the kernel keeps no such account
        # Where memory runs out, this goes and not the engine.
        Path("/proc/self/oom_score_adj").write_text("1000")
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * resource.getpagesize() + limits.memory
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    wire.send(Answer())
    while isinstance(asked := wire.receive(), Asked):
        _bound_time(limits.seconds)
        wire.send(evaluate(asked, limits, wire))


def _bound_time(seconds: int) -> None:
    """End this process after so many more seconds of its processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    most = math.ceil(used.ru_utime + used.ru_stime) + seconds
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (most, hard))


if __name__ == "__main__":
    main(Limits(*(int(each) for each in sys.argv[1:])))
