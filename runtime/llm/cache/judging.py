"""Learns from semantic hits that a model was asked for anyway: was the kept answer right?

That happens beside the requests, one comparison after the other. Where more come than can be
compared, the newest are left out: learning takes longer, and what is measured stays true.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import orjson

from seedbed.crds.errors import UnavailableError
from seedbed.runtime.llm.cache.alike import Alike
from seedbed.runtime.llm.cache.counting import Counting
from seedbed.runtime.llm.cache.embedder import Embeds
from seedbed.runtime.llm.cache.sameness import same_answers
from seedbed.runtime.llm.cache.shelf import Shelf
from seedbed.runtime.llm.cache.similar import Candidate
from seedbed.runtime.llm.requests import Json
from seedbed.runtime.store.answers import AnswerRow

log = logging.getLogger(__name__)

WAITING = 256


@dataclass(frozen=True, slots=True)
class Trial:
    """A kept answer and what the model said to the similar request.

    Attributes:
        measured: whether the kept answer would have been served, so that it counts as a hit.
    """

    row: AnswerRow
    candidate: Candidate
    fresh: Json
    measured: bool


class Judging:
    """See the module; works while `running` is open."""

    def __init__(
        self, alike: Alike, shelf: Shelf, embeds: Embeds, counting: Counting, close: float
    ) -> None:
        self._alike = alike
        self._shelf = shelf
        self._embeds = embeds
        self._counting = counting
        self._close = close
        self._trials: asyncio.Queue[Trial] = asyncio.Queue(WAITING)

    def put(self, trial: Trial) -> None:
        """Compare these two when there is time."""
        if not self._trials.full():
            self._trials.put_nowait(trial)

    async def idle(self) -> None:
        """Wait until all that was put is compared."""
        await self._trials.join()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Trials are judged while the context is open."""
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self._judge_on())
            try:
                yield
            finally:
                task.cancel()

    async def _judge_on(self) -> None:
        while True:
            trial = await self._trials.get()
            try:
                await self._judge(trial)
            except UnavailableError as error:
                log.warning("semantic hits cannot be judged: %s", error)
            finally:
                self._trials.task_done()

    async def _judge(self, trial: Trial) -> None:
        row = trial.row
        kept = orjson.loads(row.answer)
        correct = await same_answers(kept, trial.fresh, self._embeds, self._close)
        if trial.measured:
            self._counting.verified(row.namespace, correct=correct)
        taught = self._alike.learn(row.scope, trial.candidate, correct=correct)
        if taught is not None:
            self._shelf.learnt(row.id, taught)
