"""Who evaluates the expressions of runs: the engine what is cheap, processes under limits the rest.

A run that needs a value which is not known yet goes on without it (`Pending`) and decides again when it
is: the event loop waits for no expression. Values are known by what an expression reads, so deciding
again asks for nothing twice. Nothing of this is journalled: a run that resumes asks anew for what it had
not used, and what was used, a limit that was exceeded too, stands in the journal as what followed.

Runs take turns, and none has more than one process at a time.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from seedbed.crds.addresses import partition_of
from seedbed.crds.errors import InvalidError, TooCostlyError
from seedbed.crds.expression_errors import short
from seedbed.crds.expressions import Elsewhere, Expression, Flag, Pending, Scope
from seedbed.runtime.workflow import metrics
from seedbed.runtime.workflow.evaluation.process import Evaluator
from seedbed.runtime.workflow.evaluation.wire import Answer, Asked, Limits

log = logging.getLogger(__name__)

PROCESSES = 2
IDLE_SECONDS = 60.0
"""Seconds after which a process that has nothing to do is ended."""
TURN_SECONDS = 0.05
"""Seconds that the cheap expressions of one turn may take together; the rest has the next turn."""
ASKED_AT_ONCE = 16
"""Values that one run may wait for."""
ASKED_BYTES = 64 * 1024 * 1024
KEPT_BYTES = 128 * 1024 * 1024
"""Bytes of what is asked, and of what was answered, that are kept for all runs."""
_START_AGAIN = 1.0
_KNOWN_OVERHEAD = 1024

Key = tuple[str, bytes]
"""A run, and the digest of an expression with what it reads."""


@dataclass(slots=True)
class _Question:
    key: Key
    asked: Asked
    flag: Flag
    flags: dict[tuple[str, str | None], bool] = field(default_factory=dict)

    def tell(self, name: str, subject: str | None) -> bool:
        """Whether a flag is on, and note what was said."""
        on = self.flag(name, subject)
        self.flags[name, subject] = on
        return on


@dataclass(frozen=True, slots=True)
class _Known:
    answer: Answer
    flags: dict[tuple[str, str | None], bool]

    @property
    def size(self) -> int:
        return _KNOWN_OVERHEAD + len(self.answer.value or b"")

    def holds(self, flag: Flag | None) -> bool:
        """Whether the flags are as they were when it was evaluated."""
        return all(flag is not None and flag(*asked) == on for asked, on in self.flags.items())


def _off(_name: str, _subject: str | None) -> bool:
    return False


class Evaluations:
    """The expressions of all runs of one engine.

    Attributes:
        wake: by partition, has a run decide again.
    """

    def __init__(self, limits: Limits | None = None) -> None:
        self.wake: dict[int, Callable[[str], None]] = {}
        self._limits = limits or Limits()
        self._left = TURN_SECONDS
        self._lines: dict[str, dict[Key, _Question]] = {}
        self._turns: asyncio.Queue[str] = asyncio.Queue()
        self._bytes = 0
        self._blocked: set[str] = set()
        self._known: OrderedDict[Key, _Known] = OrderedDict()
        self._known_of: dict[str, set[Key]] = {}
        self._known_bytes = 0

    def of(self, run: str) -> Elsewhere:
        """Evaluates the expressions of a run."""
        return partial(self._evaluate, run)

    def new_turn(self) -> None:
        """A partition begins a turn."""
        self._left = TURN_SECONDS

    def forget(self, run: str) -> None:
        """A run is over, or has moved to another owner."""
        self._blocked.discard(run)
        for question in self._lines.pop(run, {}).values():
            self._bytes -= len(question.asked.read)
        for key in [*self._known_of.get(run, ())]:
            self._drop(key)

    async def run(self) -> None:
        """Evaluate until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(PROCESSES):
                tasks.create_task(self._work())

    def _evaluate(self, run: str, expression: Expression, scope: Scope) -> Any:
        reads = expression.reads(scope)
        try:
            read = orjson.dumps(reads, option=orjson.OPT_NON_STR_KEYS)
        except orjson.JSONEncodeError as error:
            raise InvalidError(expression.field, f"cannot be read: {error}") from error
        if expression.cost.is_cheap(read):
            return self._here(run, expression, scope, reads)
        key = run, _digest(expression.text, read)
        known = self._known.get(key)
        if known is not None and known.holds(scope.flag):
            self._known.move_to_end(key)
            return self._told(expression, known.answer)
        self._ask(
            _Question(key, Asked(expression.text, expression.field, read), scope.flag or _off)
        )
        raise Pending(full=len(self._lines[run]) >= ASKED_AT_ONCE)

    def _here(self, run: str, expression: Expression, scope: Scope, reads: dict[str, Any]) -> Any:
        if self._left <= 0:
            self._wake(run)
            raise Pending(full=True)
        began = time.perf_counter()
        try:
            return expression.compute(scope, reads)
        finally:
            self._left -= time.perf_counter() - began

    def _told(self, expression: Expression, answer: Answer) -> Any:
        if answer.value is not None:
            return orjson.loads(answer.value)
        if not answer.limit:
            raise InvalidError(expression.field, answer.wrong)
        why = self._limits.told(answer.limit)
        message = f"cannot evaluate `{short(expression.text)}`: {why}"
        raise TooCostlyError(expression.field, message, answer.limit)

    def _ask(self, question: _Question) -> None:
        """Stand in line, where there is room."""
        run, size = question.key[0], len(question.asked.read)
        line = self._lines.setdefault(run, {})
        if question.key in line:
            return
        too_much = self._bytes and self._bytes + size > ASKED_BYTES
        if too_much or len(line) >= ASKED_AT_ONCE:
            self._blocked.add(run)
            raise Pending(full=True)
        if not line:
            self._turns.put_nowait(run)
        line[question.key] = question
        self._bytes += size

    async def _work(self) -> None:
        """Evaluate for one run after the other, one expression each."""
        evaluator = Evaluator(self._limits)
        try:
            while True:
                try:
                    async with asyncio.timeout(IDLE_SECONDS):
                        run = await self._turns.get()
                except TimeoutError:
                    await evaluator.close()
                    continue
                question = next(iter(self._lines.get(run, {}).values()), None)
                if question is not None:
                    await self._answer(evaluator, question)
                if self._lines.get(run):
                    self._turns.put_nowait(run)
                else:
                    self._lines.pop(run, None)
        finally:
            await evaluator.close()

    async def _answer(self, evaluator: Evaluator, question: _Question) -> None:
        began = time.perf_counter()
        try:
            answer = await evaluator.evaluate(question.asked, question.tell)
        except OSError as error:  # TimeoutError is one: the question stays in its line
            log.warning("no process evaluates expressions: %s", error)
            await asyncio.sleep(_START_AGAIN)
            return
        metrics.EXPRESSION_SECONDS.observe(time.perf_counter() - began)
        metrics.EXPRESSIONS.labels(answer.limit or ("invalid" if answer.wrong else "value")).inc()
        run = question.key[0]
        if self._lines.get(run, {}).pop(question.key, None) is None:
            return  # forgotten meanwhile
        self._bytes -= len(question.asked.read)
        self._keep(question.key, _Known(answer, question.flags))
        self._wake(run)
        blocked, self._blocked = self._blocked, set()
        for name in blocked - {run}:
            self._wake(name)

    def _keep(self, key: Key, known: _Known) -> None:
        self._drop(key)
        self._known[key] = known
        self._known_of.setdefault(key[0], set()).add(key)
        self._known_bytes += known.size
        while self._known_bytes > KEPT_BYTES and len(self._known) > 1:
            self._drop(next(iter(self._known)))

    def _drop(self, key: Key) -> None:
        known = self._known.pop(key, None)
        if known is None:
            return
        self._known_bytes -= known.size
        of_run = self._known_of[key[0]]
        of_run.remove(key)
        if not of_run:
            del self._known_of[key[0]]

    def _wake(self, run: str) -> None:
        wake = self.wake.get(partition_of(run))
        if wake is not None:
            wake(run)


def _digest(text: str, read: bytes) -> bytes:
    taken = hashlib.blake2b(text.encode(), digest_size=20)
    taken.update(b"\0")
    taken.update(read)
    return taken.digest()
