"""What the gateway has learnt of its models, kept up to date from the store; namespaces stay apart.

The store has the truth, so a restart forgets nothing and every replica learns what any was told. At
each look only answers that are new are read, and only models with new answers are fitted anew, in a
thread: requests never wait for it.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

from seedbed.crds.errors import RetryableError, UnavailableError
from seedbed.runtime.llm.routing.confidence import Confidence, Judged, learnt
from seedbed.runtime.llm.routing.fitting import ENOUGH, Example, Fitted, fit
from seedbed.runtime.llm.routing.marks import from_bytes, word_in
from seedbed.runtime.llm.routing.predictor import Outcomes, Predictor
from seedbed.runtime.store.outcomes import JudgedRow, OutcomeRow, OutcomeStore
from seedbed.runtime.store.port import StoreRefusedError

log = logging.getLogger(__name__)

EVERY = 10.0
"""Seconds between two looks at what other gateways have learnt."""
OVERLAP = 60.0
"""Seconds that are read again at each look: clocks differ, and transactions end out of order."""
MOST_EXAMPLES = 20_000
"""Newest answers of one model in one namespace that are fitted to."""
TRIM = 360
"""Looks between two times that the store is told to forget what is too old."""


_NOTHING = Confidence()


def _sure(fitted: Fitted, examples: list[Example]) -> Confidence:
    return learnt(
        [
            Judged(fitted.quality(each.task, each.marks), each.word, each.good)
            for each in examples
            if each.word is not None
        ]
    )


class Learning:
    """Predictors by namespace."""

    def __init__(self, stated: Mapping[str, float]) -> None:
        """`stated`: quality by model, as the models file says."""
        self._stated = stated
        self._store: OutcomeStore | None = None
        self._empty = Predictor((), stated)
        self._predictors: dict[str, Predictor] = {}
        self._examples: dict[tuple[str, str], OrderedDict[str, Example]] = {}
        self._fitted: dict[tuple[str, str], Fitted] = {}
        self._confident: dict[tuple[str, str], Confidence] = {}
        self._newest = 0.0
        self._looking = asyncio.Lock()

    def of(self, namespace: str) -> Predictor:
        """What is known for a namespace."""
        return self._predictors.get(namespace, self._empty)

    def confidence(self, namespace: str, model: str) -> Confidence:
        """What a model's word on its own answers is worth."""
        return self._confident.get((namespace, model), _NOTHING)

    async def add(self, row: OutcomeRow, shown: bytes = b"") -> None:
        """Learn an outcome; it counts for routing at the next look.

        Args:
            row: the outcome.
            shown: marks of what was asked, where they are known, and the model's word (`marks.sent`).

        Raises:
            UnavailableError: where there is nowhere to keep it.
        """
        if self._store is None:
            raise UnavailableError("this service has no store for outcomes")
        await self._store.add(row, shown)

    async def look(self) -> None:
        """Read what is new, and fit to it; one look after the other, so that each ends fitted."""
        async with self._looking:
            if self._store is not None:
                await self._look(self._store)

    async def _look(self, store: OutcomeStore) -> None:
        changed = self._noted(await store.judged(self._newest - OVERLAP))
        for key in changed:
            examples = list(self._examples[key].values())
            if len(examples) >= ENOUGH:
                self._fitted[key] = await asyncio.to_thread(fit, examples)
                self._confident[key] = await asyncio.to_thread(_sure, self._fitted[key], examples)
        by_namespace: dict[str, list[Outcomes]] = {}
        for row in await store.all():
            found = Outcomes(row.task, row.model, row.hardness, row.asked, row.good)
            by_namespace.setdefault(row.namespace, []).append(found)
        self._predictors = {
            namespace: Predictor(outcomes, self._stated, self._fits(namespace))
            for namespace, outcomes in by_namespace.items()
        }

    def _noted(self, rows: list[JudgedRow]) -> set[tuple[str, str]]:
        """Take in what was read; gives the namespaces and models of which something was new."""
        changed = set()
        for row in rows:
            self._newest = max(self._newest, row.at)
            key = (row.namespace, row.model)
            examples = self._examples.setdefault(key, OrderedDict())
            if row.id in examples:
                continue
            try:
                marks = from_bytes(row.marks)
            except ValueError:
                # Written by a version that knows other marks; the counts hold all the same.
                continue
            examples[row.id] = Example(row.task, marks, row.good, word_in(row.marks))
            changed.add(key)
            if len(examples) > MOST_EXAMPLES:
                examples.popitem(last=False)
        return changed

    def _fits(self, namespace: str) -> dict[str, Fitted]:
        return {
            model: found for (space, model), found in self._fitted.items() if space == namespace
        }

    @asynccontextmanager
    async def following(self, store: OutcomeStore) -> AsyncIterator[None]:
        """Outcomes are kept in the store, and read from it, while the context is open."""
        self._store = store
        async with asyncio.TaskGroup() as tasks:
            task = tasks.create_task(self._follow(store))
            try:
                yield
            finally:
                task.cancel()
                self._store = None

    async def _follow(self, store: OutcomeStore) -> None:
        looks = 0
        while True:
            try:
                if looks % TRIM == 0:
                    await store.trim()
                await self.look()
            except (RetryableError, StoreRefusedError) as error:
                log.warning("outcomes cannot be read: %s", error)
            looks += 1
            await asyncio.sleep(EVERY)
