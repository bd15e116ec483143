"""What a partition is asked: taken in by its runs, and answered once the effect is durable."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence

import orjson
from msgspec import Struct

from seedbed.crds.engine_requests import (
    Adjust,
    Approve,
    Cancel,
    EngineRequest,
    ListActive,
    Report,
    Reported,
    ReportMany,
    Signal,
    Submit,
    Summarise,
    TakeCheckpoint,
)
from seedbed.crds.errors import (
    ConflictError,
    FencedError,
    InvalidError,
    NotFoundError,
    SeedbedError,
    UnavailableError,
)
from seedbed.crds.expressions import Pending
from seedbed.crds.messages import StepResult
from seedbed.crds.wire import encode
from seedbed.runtime.store.port import RunRow, Store
from seedbed.runtime.workflow.checkpoint.content import capture
from seedbed.runtime.workflow.checkpoint.metrics import PAUSE
from seedbed.runtime.workflow.checkpoint.taking import Capture, Note
from seedbed.runtime.workflow.decide import accept, asked
from seedbed.runtime.workflow.ending import fail
from seedbed.runtime.workflow.journal import LiveRun
from seedbed.runtime.workflow.opening import arrived
from seedbed.runtime.workflow.plan import Start, started
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.streams import Arrived
from seedbed.runtime.workflow.stuck import Stuck
from seedbed.runtime.workflow.summary import summarise
from seedbed.runtime.workflow.world import World

log = logging.getLogger(__name__)

# A defect that one plan meets must not stop the others. What was decided before the defect, in the
# same step, is not written and has no effect.
DEFECT = "run %s met a defect and ends"

Known = bytes | SeedbedError
"""An answer that needs no commit."""
Asked = EngineRequest | Start | Capture | Note | Arrived
"""What a partition may be asked, by others and by the engine itself."""
_STARTS = (Start, Submit)
_TOLD = (Report, ReportMany, ListActive, Note, Arrived)
"""What is answered with no more than that it is durable."""


class Ask(Struct):
    """A request and who waits for its answer.

    Attributes:
        known: an answer that is known before its effect is durable.
    """

    request: Asked
    answer: asyncio.Future[bytes]
    known: Known | None = None

    def settle(self, value: Known) -> None:
        """Give the answer, where somebody still waits for it."""
        if self.answer.done():
            return
        if isinstance(value, SeedbedError):
            self.answer.set_exception(value)
        else:
            self.answer.set_result(value)


class Requests:
    """Takes requests in, for the runs of one partition.

    Args:
        runs: the runs under way; those that begin are added.
        stuck: runs that could not be resumed.
        touch: called with the name of a run that has something to decide.
    """

    def __init__(
        self,
        runs: dict[str, LiveRun],
        stuck: Stuck,
        store: Store,
        world: World,
        touch: Callable[[str], None],
    ) -> None:
        self._runs = runs
        self._stuck = stuck
        self._store = store
        self._world = world
        self._touch = touch
        self._stored_runs: Mapping[str, RunRow] | SeedbedError = {}

    async def take(self, asks: Sequence[Ask], now: float) -> None:
        """Apply requests to their runs, in order; answers that are known already are noted."""
        new = self._new_runs(asks)
        self._stored_runs = await self._look_up(new) if new else {}
        for each in asks:
            each.known = await self._take(each.request, now)

    async def _take(self, request: Asked, now: float) -> Known | None:
        """Apply a request to its run; returns an answer that is known already, or None."""
        if isinstance(request, Report):
            return await self._result(request.result, now)
        if isinstance(request, ListActive):
            return orjson.dumps({"runs": [*self._runs, *self._stuck]})
        if isinstance(request, ReportMany):
            return await self._results(request.results, now)
        if isinstance(request, _STARTS):
            return self._submit(request)
        run = self._runs.get(request.run)
        if run is None:
            return await self._stored(request)
        match request:
            case Adjust() | Approve() | Signal() | Cancel():
                refusal = _ask(run, request, now)
                if refusal is not None:
                    return refusal
            case Arrived(_, step, attempt, first, items):
                run.records += arrived(run.state, step, attempt, first, items, now)
            case Note(_, record) if not run.state.finished:
                run.state.apply(record)
                run.records.append(record)
        self._touch(request.run)
        return None

    async def _result(self, result: StepResult, now: float) -> Known | None:
        """Take one result in."""
        name = result.run
        run = self._runs.get(name)
        if run is None:
            stuck = name in self._stuck
            return await (self._keep(name, [result]) if stuck else self._late(name))
        if not _taken(run, result, now):
            return moving()
        self._touch(name)
        return None

    async def _results(self, results: Sequence[StepResult], now: float) -> Known:
        """Take many results in; those that a newer owner must not miss are asked for again."""
        again = []
        late: dict[str, Known] = {}
        kept: dict[str, list[int]] = {}
        for position, result in enumerate(results):
            run = self._runs.get(result.run)
            if run is None:
                if result.run in self._stuck:
                    kept.setdefault(result.run, []).append(position)
                    continue
                if result.run not in late:
                    late[result.run] = await self._late(result.run)
                if isinstance(late[result.run], SeedbedError):
                    again.append(position)
            elif not _taken(run, result, now):
                again.append(position)
            else:
                self._touch(result.run)
        for name, positions in kept.items():
            answer = await self._keep(name, [results[position] for position in positions])
            again += positions if isinstance(answer, SeedbedError) else ()
        ended = tuple(name for name, answer in late.items() if answer == _ended(name))
        return encode(Reported(tuple(again), ended))

    def _new_runs(self, asks: Iterable[Ask]) -> set[str]:
        """Runs that shall begin and are not here."""
        new = set()
        for each in asks:
            request = each.request
            if isinstance(request, _STARTS) and request.request.run not in self._runs:
                new.add(request.request.run)
        return new

    async def _look_up(self, new: set[str]) -> Mapping[str, RunRow] | SeedbedError:
        """Those of the runs that shall begin which the store knows: they began before."""
        try:
            return {row.run: row for row in await self._store.named(sorted(new))}
        except SeedbedError as error:
            return error

    def _submit(self, asked: Start | Submit) -> Known | None:
        request = asked.request
        if request.run in self._runs:
            return None
        if isinstance(self._stored_runs, SeedbedError):
            return self._stored_runs
        known = self._stored_runs.get(request.run)
        if known is not None:
            return known.summary
        try:
            start = asked if isinstance(asked, Start) else started(request)
            state = RunState(start.request, self._world.hands, start.plan)
            state.evaluate_by(self._world.evaluations.of(request.run))
            for record in start.first:
                state.apply(record)
            first = list(start.first)
            self._runs[request.run] = LiveRun(
                state, stored=False, values=start.values, records=first, taken_over=len(first)
            )
        except SeedbedError as error:
            return error
        except Exception as error:
            log.exception(DEFECT, request.run)
            return InvalidError(
                "spec", f"meets a defect, {type(error).__name__}: see the engine's log"
            )
        self._touch(request.run)
        return None

    async def _late(self, name: str) -> Known:
        """Answer the result of a run that is not here.

        Where the run has ended it is of no use to anybody. Where it goes on, a newer owner has it, who
        must not miss the result.
        """
        try:
            known = await self._store.run(name)
        except SeedbedError as error:
            return error
        if known is None:
            return b"{}"
        return _ended(name) if known.finished else moving()

    async def _keep(self, name: str, results: Sequence[StepResult]) -> Known:
        """Answer results of a run that nobody can go on with now."""
        if name not in self._stuck or self._stuck.is_tried(name):
            return moving()
        try:
            await self._stuck.keep(name, results)
        except FencedError:
            raise
        except SeedbedError as error:
            log.warning("results of %s cannot be kept: %s", name, error)
            return moving()
        return b"{}"

    async def _stored(
        self,
        request: Summarise
        | Adjust
        | Approve
        | Signal
        | Cancel
        | TakeCheckpoint
        | Capture
        | Note
        | Arrived,
    ) -> Known:
        if isinstance(request, TakeCheckpoint | Capture | Note | Arrived):
            return NotFoundError("run under way", request.run)
        if request.run in self._stuck:
            return await self._of_stuck(request)
        try:
            known = await self._store.run(request.run)
        except SeedbedError as error:
            return error
        if known is not None and isinstance(request, Approve | Signal):
            return ConflictError(f"run {request.run} has ended")
        if known is not None:
            return known.summary
        return b"{}" if isinstance(request, Cancel) else NotFoundError("run", request.run)

    async def _of_stuck(self, request: Summarise | Adjust | Approve | Signal | Cancel) -> Known:
        """What can be done with a run that cannot be resumed: it can be ended."""
        if self._stuck.is_tried(request.run) and not isinstance(request, Summarise):
            return moving()
        if isinstance(request, Cancel):
            return encode(await self._stuck.end(request.run, request.reason))
        summary = self._stuck.summary(request.run)
        if isinstance(request, Approve | Signal):
            return ConflictError(summary.message)
        return encode(summary)

    def answer(self, asked: Ask) -> Known:
        """The answer to a request whose effect is durable."""
        request = asked.request
        if asked.known is not None:
            return asked.known
        if isinstance(request, _TOLD):
            return b"{}"
        if isinstance(request, Capture):
            with PAUSE.time():
                request.captured = capture(self._runs[request.run].state)
            return b"{}"
        name = request.request.run if isinstance(request, _STARTS) else request.run
        return encode(summarise(self._runs[name].state))


def _taken(run: LiveRun, result: StepResult, now: float) -> bool:
    """Take a result in; not what a newer owner asked for, nor while an expression over it is evaluated."""
    if run.state.behind(result.key, result.attempt):
        return False
    try:
        run.records += accept(run.state, result, now)
    except Pending:
        return False
    except Exception as error:
        log.exception(DEFECT, result.run)
        run.records += fail(run.state, type(error).__name__, now)
    return True


def _ask(
    run: LiveRun, request: Adjust | Approve | Signal | Cancel, now: float
) -> SeedbedError | None:
    try:
        run.records += asked(run.state, request, now)
    except SeedbedError as error:
        return error
    except Exception as error:
        log.exception(DEFECT, request.run)
        run.records += fail(run.state, type(error).__name__, now)
    return None


def _ended(name: str) -> bytes:
    return encode(Reported(ended=(name,)))


def moving() -> UnavailableError:
    """The answer while nobody, or somebody else, owns the partition."""
    return UnavailableError("the partition moves", 0.1)
