"""Runs of one partition and their children and parents in others.

Everything here may be lost and is asked for again: a child's id follows from its step, so that a
second request for it does nothing; its end is told to the parent, which asks by itself now and then; and
a child asks now and then whether its parent goes on. So no crash between two engines loses a child, runs
one twice or leaves one alone.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import suppress
from typing import Any, Self

from seedbed.crds.addresses import engine_address, partition_of
from seedbed.crds.engine_requests import Adjust, Cancel, EngineRequest, Report, Submit, Summarise
from seedbed.crds.errors import InvalidError, NotFoundError, SeedbedError, UnavailableError
from seedbed.crds.messages import RunRequest, RunSummary, StepResult
from seedbed.crds.run_ids import child_id
from seedbed.crds.wire import decode, encode
from seedbed.runtime.bus.port import Bus
from seedbed.runtime.store.port import Store
from seedbed.runtime.workflow import metrics
from seedbed.runtime.workflow.history import StoredHistory
from seedbed.runtime.workflow.journal import LiveRun
from seedbed.runtime.workflow.nesting import child_request, refusal_of, result_of
from seedbed.runtime.workflow.records import (
    Record,
    RunAdjusted,
    RunEnding,
    RunFinished,
    StepScheduled,
    StepSucceeded,
)
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.units import Unit

log = logging.getLogger(__name__)

ASK_EVERY = 15.0
"""Seconds after which a parent asks for a silent child, and a child for its parent."""
_WAIT = 30.0
_TOGETHER = 64
"""Requests to other runs that are under way at the same time."""
_AGAIN = 0.2
_LONGEST = 5.0
_TRIES = 8
_ENDED = ("Succeeded", "Failed")


class Children:
    """Begins children, takes their results, tells parents.

    Args:
        runs: the partition's runs.
        ask: has the own partition do a request.
    """

    def __init__(
        self,
        bus: Bus,
        store: Store,
        runs: Mapping[str, LiveRun],
        ask: Callable[[EngineRequest], Awaitable[bytes]],
    ) -> None:
        self._bus = bus
        self._history = StoredHistory(store)
        self._runs = runs
        self._own = ask
        self._tasks: set[asyncio.Task[None]] = set()
        self._free = asyncio.Semaphore(_TOGETHER)
        self._asked: dict[str, float] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def follow(self, run: LiveRun, records: Iterable[Record]) -> None:
        """Act on what these records, now durable, have decided."""
        state = run.state
        for record in records:
            match record:
                case StepSucceeded():
                    pass  # what most records are, and no run begins or ends with it
                case StepScheduled(kind="workflow", key=key, attempt=attempt):
                    if state.awaits(key, attempt):
                        self._begin(state, state.scheduled[key])
                case RunAdjusted(_, suspend):
                    for unit in _running(state):
                        self._spawn(self._tell(_id(state, unit), _adjust(state, unit, suspend)))
                case RunEnding():
                    self._cancel_left(state)
                case RunFinished():
                    self._cancel_left(state)
                    if state.request.parent is not None:
                        self._spawn(self._report_end(state))

    def look(self, run: LiveRun, now: float) -> None:
        """Ask for children that were silent for long, and for the parent."""
        state = run.state
        for unit in state.scheduled.values():
            nested = unit.task is not None and unit.task.kind == "workflow"
            if nested and now > self._asked.get(_id(state, unit), 0.0) + ASK_EVERY:
                self._begin(state, unit)
        parent = state.request.parent
        if parent is not None and now > self._asked.get(parent.run, 0.0) + ASK_EVERY:
            self._note_asked(parent.run, now)
            self._spawn(self._ask_parent(parent.run))

    def _cancel_left(self, state: RunState) -> None:
        """Cancel the children whose end nobody awaits any more."""
        for unit in _running(state):
            if unit.key not in state.scheduled:
                cancel = Cancel(_id(state, unit), "the run around it has ended")
                self._spawn(self._tell(cancel.run, cancel))

    def forget(self) -> None:
        """What was sent may be lost: ask again at the next look."""
        self._asked.clear()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except SeedbedError as error:
            # It is asked for again.
            log.info("a request between runs was given up: %s", error)
        finally:
            work.close()

    def _begin(self, state: RunState, unit: Unit) -> None:
        request = child_request(state, unit)
        self._note_asked(request.run, time.time())
        self._spawn(self._begin_child(state, unit, request))

    def _note_asked(self, run: str, now: float) -> None:
        self._asked.pop(run, None)
        self._asked[run] = now
        # The oldest stand first; what is due again need not be known.
        while self._asked[oldest := next(iter(self._asked))] + ASK_EVERY < now:
            del self._asked[oldest]

    async def _begin_child(self, state: RunState, unit: Unit, request: RunRequest) -> None:
        wait = _AGAIN
        while state.awaits(unit.key, unit.attempt):
            try:
                summary = await self._summary(request)
            except InvalidError as error:
                await self._own(Report(refusal_of(request, error, time.time())))
                return
            except UnavailableError as error:
                log.info("%s waits for run %s: %s", unit.key, request.run, error)
                await asyncio.sleep(wait)
                wait = min(_LONGEST, wait * 2)
                continue
            if summary.phase in _ENDED:
                await self._own(Report(await self._result(request, summary)))
            return

    async def _summary(self, request: RunRequest) -> RunSummary:
        """What has become of a child; it begins where nobody knows it."""
        try:
            return decode(RunSummary, await self._request(request.run, Summarise(request.run)))
        except NotFoundError:
            metrics.CHILDREN.inc()
            return decode(RunSummary, await self._request(request.run, Submit(request)))

    async def _result(self, request: RunRequest, summary: RunSummary) -> StepResult:
        output = summary.result
        if output is None and summary.result_bytes:
            output = await self._history.result(request.run)
        times = (summary.started or 0.0, summary.finished or 0.0)
        said = (summary.phase, summary.reason, summary.message)
        return result_of(request, *said, output, times)

    async def _report_end(self, state: RunState) -> None:
        end, parent = state.finished, state.request.parent
        assert end is not None
        assert parent is not None
        said = (end.phase, end.reason, end.message)
        times = (state.started or end.at, end.at)
        result = result_of(state.request, *said, end.result, times)
        await self._tell(parent.run, Report(result))

    async def _tell(self, run: str, message: Report | Adjust | Cancel) -> None:
        """Tell another run's owner; given up after a while, since the other side asks too."""
        wait = _AGAIN
        for tried in range(1, _TRIES + 1):
            try:
                with suppress(NotFoundError):
                    await self._request(run, message)
            except UnavailableError:
                if tried == _TRIES:
                    raise
                await asyncio.sleep(wait)
                wait = min(_LONGEST, wait * 2)
            else:
                return

    async def _ask_parent(self, parent: str) -> None:
        """Do to the children of this partition what was done to their parent."""
        try:
            summary = decode(RunSummary, await self._request(parent, Summarise(parent)))
        except NotFoundError:
            over, suspended = True, False
        else:
            over, suspended = summary.phase in _ENDED, summary.suspended
        for name, run in list(self._runs.items()):
            above = run.state.request.parent
            if above is None or above.run != parent:
                continue
            if over:
                await self._own(Cancel(name, "the run around it has ended"))
            elif suspended != run.state.suspended:
                await self._own(Adjust(name, suspended, run.state.parallelism))

    async def _request(self, run: str, message: EngineRequest) -> bytes:
        address = engine_address(partition_of(run))
        async with self._free:
            return await self._bus.request(address, encode(message), wait=_WAIT)


def _running(state: RunState) -> Iterable[Unit]:
    """Units whose children may run; also of a run that has ended and awaits nothing any more."""
    for step in state.steps.values():
        said = step.node.step
        if said.workflow is not None or said.goal is not None or said.alternatives:
            for unit in step.units:
                if unit.status == "Scheduled" and unit.task and unit.task.kind == "workflow":
                    yield unit


def _id(state: RunState, unit: Unit) -> str:
    return child_id(state.request.run, unit.key, unit.attempt)


def _adjust(state: RunState, unit: Unit, suspend: bool) -> Adjust:  # noqa: FBT001  # of the record
    assert unit.task is not None
    assert unit.task.program is not None
    spec = unit.task.program["spec"]
    return Adjust(_id(state, unit), suspend, spec.get("parallelism", 100))
