"""Which arm a branch will most likely choose, told from the last runs of the same Workflow.

A branch that speculates without naming an arm asks for it. The answer becomes part of the plan before
the run begins, so that whoever resumes the run finds the same plan.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import Mapping

from seedbed.crds.engine_requests import Submit
from seedbed.crds.errors import InvalidError
from seedbed.crds.graph_builder import build_graph
from seedbed.crds.graph_checks import may_start_early
from seedbed.crds.step import Step
from seedbed.runtime.store.port import Store
from seedbed.runtime.workflow.plan import RunPlan, Start, aside, started
from seedbed.runtime.workflow.records import StepSucceeded
from seedbed.runtime.workflow.replay import records_of

RUNS = 50
"""Ended runs that are asked."""
MOST_RECORDS = 100_000
"""Records that are read for that."""
KEPT = 60.0
"""Seconds for which an answer serves all runs that begin."""
MOST = 1000
"""Workflows whose answers are kept."""

Outcomes = Mapping[str, Counter[str]]
"""How often each branch chose which arm."""


def guess(outcomes: Counter[str]) -> tuple[str, float] | None:
    """The arm to expect and how sure that is: (k + 1) / (n + 2), the rule of succession (Laplace 1814).

    Returns:
        None where nothing is known.
    """
    if not outcomes:
        return None
    (arm, count), *_ = outcomes.most_common(1)
    return arm, (count + 1) / (outcomes.total() + 2)


def foretold(plan: RunPlan, outcomes: Outcomes) -> RunPlan:
    """The plan with what is to be expected of its branches; the same one where nothing starts early."""
    steps = {step.name: step for step in plan.spec.steps}
    told = tuple(_told(step, steps, outcomes) for step in plan.spec.steps)
    spec = plan.spec.model_copy(update={"steps": told})
    try:
        return RunPlan(spec, build_graph(spec)) if told != plan.spec.steps else plan
    except InvalidError:
        # What would start early reads which arm was chosen, so it cannot.
        return plan


def _told(step: Step, steps: Mapping[str, Step], outcomes: Outcomes) -> Step:
    found = guess(outcomes.get(step.name, Counter())) if _asks(step) else None
    if found is None or step.branch is None or step.branch.speculate is None:
        return step
    arm, confidence = found
    if not any(may_start_early(steps[name]) for name in step.branch.arms[arm]):
        return step
    known = step.branch.speculate.model_copy(update={"arm": arm, "confidence": confidence})
    return step.model_copy(update={"branch": step.branch.model_copy(update={"speculate": known})})


def _speculates(asked: Start | Submit) -> bool:
    if isinstance(asked, Start):
        return any(map(_asks, asked.plan.spec.steps))
    steps = asked.request.spec.get("steps") or ()
    guesses = ((step.get("branch") or {}).get("speculate") for step in steps)
    return any(guess is not None and guess.get("arm") is None for guess in guesses)


def _asks(step: Step) -> bool:
    guessed = step.branch.speculate if step.branch is not None else None
    return guessed is not None and guessed.arm is None


class Foresight:
    """Tells plans what to expect of their branches.

    A fork keeps the plan that it comes from, and starts nothing early by itself.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[tuple[str, str], tuple[float, Outcomes]] = {}
        self._reading = asyncio.Lock()

    async def ready(self, asked: Start | Submit) -> Start | Submit:
        """The start with a plan whose branches know what to expect, where one of them asks.

        Raises:
            InvalidError: the plan cannot run.
            UnavailableError: the store does not answer.
        """
        request = asked.request
        if request.spec.get("forkFrom") is not None or not _speculates(asked):
            return asked
        if await self._store.run(request.run) is not None:
            return asked
        start = asked if isinstance(asked, Start) else started(request)
        outcomes = await self._outcomes(request.namespace, request.workflow)
        plan = await asyncio.to_thread(foretold, start.plan, outcomes)
        return start if plan is start.plan else aside(start.request, plan)

    async def _outcomes(self, namespace: str, workflow: str) -> Outcomes:
        key = (namespace, workflow)
        async with self._reading:
            read, found = self._known.get(key, (-KEPT, {}))
            if time.monotonic() >= read + KEPT:
                found = await self._read(namespace, workflow)
                self._known.pop(key, None)
                self._known[key] = (time.monotonic(), found)
                if len(self._known) > MOST:
                    # What was read longest ago stands first.
                    del self._known[next(iter(self._known))]
        return found

    async def _read(self, namespace: str, workflow: str) -> Outcomes:
        found: dict[str, Counter[str]] = defaultdict(Counter)
        records = 0
        for run in await self._store.ended(namespace, workflow, RUNS):
            async for _, record in records_of(self._store, run):
                records += 1
                if isinstance(record, StepSucceeded) and record.output in ("then", "else"):
                    found[record.key.step][record.output] += 1
            if records >= MOST_RECORDS:
                break
        return found
