"""A run's state: the fold of its records. Pure: no I/O, no clock; see `decide` for what comes next.

`apply` takes a record in, the same for a live and a resumed run. Work per record does not grow with the
run: a step counts the needs it still waits for, and what may start next stands in queues. The queues
may hold more than is true, after a replay for instance; who takes from them looks at the unit's status.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import Any

from msgspec.structs import replace

from seedbed.crds.graph_checks import COMPENSATE, FALLBACK
from seedbed.crds.messages import StepError, StepKey
from seedbed.runtime.workflow.entering import AsLeft
from seedbed.runtime.workflow.item_order import ItemOrder
from seedbed.runtime.workflow.records import (
    ApprovalGiven,
    EventReceived,
    Record,
    RunAdjusted,
    RunCheckpointed,
    RunCompensating,
    RunEnding,
    RunFinished,
    RunForked,
    RunHeld,
    RunRestored,
    RunStarted,
    StepAnticipated,
    StepExpanded,
    StepFailed,
    StepRepeated,
    StepReplanned,
    StepReported,
    StepScheduled,
    StepSkipped,
    StepSucceeded,
    StepWaiting,
)
from seedbed.runtime.workflow.revisions import Revision
from seedbed.runtime.workflow.run_facts import RECENT, RunFacts
from seedbed.runtime.workflow.units import (
    Done,
    Loop,
    StepState,
    Undoing,
    Unit,
    UnitStatus,
    told_of,
)

BUDGET_EXCEEDED = "budget_exceeded"
REPLAN = "replan"
LATER = "later"
"""What follows when a step fails that started early: it is tried again when its turn comes."""


class RunState(RunFacts):
    """One run, as its records make it."""

    def apply(self, record: Record) -> None:
        """Take a record in."""
        self.revision += 1
        match record:
            case StepSucceeded():
                self._end(self.unit(record.key), "Succeeded", output=record.output)
            case StepScheduled():
                self._schedule(self.unit(record.key), record)
            case StepFailed(key):
                self._fail(self.unit(key), record)
            case StepSkipped(key, _, reason):
                self._skip(self.unit(key), reason)
            case StepExpanded(step, _, items, more):
                self._expand(self.steps[step], items, more)
            case StepAnticipated(key):
                self._keep(self.unit(key), record)
            case StepRepeated(key):
                self._repeat(self.unit(key), record)
            case StepReplanned(key):
                self._replan(record)
            case StepWaiting(key):
                self._wait(self.unit(key), record)
            case StepReported():
                self.late.append(record)
            case _:
                self._apply_to_run(record)
        while self.stood_in:
            # One after the other: a chain of fallbacks may be longer than calls can be nested.
            self._recovered(self.stood_in.pop())

    def _apply_to_run(self, record: Record) -> None:
        match record:
            case RunStarted(at):
                self.started = at
            case RunAdjusted():
                self._adjust(record)
            case RunForked():
                self.origin = record
            case RunCheckpointed():
                self.checkpoint = record
            case RunHeld():
                self.held = record if record.reason else None
            case ApprovalGiven() | EventReceived():
                self.inbox.take(record)
            case RunCompensating(at, cause, why):
                self._undo_all(at, cause, why)
            case RunEnding():
                self._wind_up(record)
            case RunRestored(revision, recent, seen, completed):
                self.revision = revision
                self.completed = [Done(*each) for each in completed]
                self.recent = deque(recent, maxlen=RECENT)
                for event in seen:
                    self.inbox.see(event)
            case RunFinished():
                self.finished = record
                self.release()

    def _adjust(self, record: RunAdjusted) -> None:
        self.suspended, self.parallelism = record.suspend, record.parallelism
        self.priority = record.priority
        if record.suspend:
            self.full_since.clear()

    def _undo_all(self, at: float, cause: StepKey, why: str) -> None:
        self.undoing = Undoing(at, cause, why)
        self.scope = replace(self.scope, steps=AsLeft(self.told, self.steps))
        self._stop()

    def _wind_up(self, record: RunEnding) -> None:
        self.ending = record
        self.release()
        outcome = {"phase": record.phase, "reason": record.reason, "message": record.message}
        steps = AsLeft(self.told, self.steps)
        self.scope = replace(self.scope, steps=steps, run={**self.scope.run, **outcome})
        self._stop()
        self.unsettled = len(self.graph.exits)
        self.startable.extend(self.graph.exit_roots)

    def _stop(self) -> None:
        """Nothing of what was to come starts any more."""
        self.failed, self.verdict = None, ""
        self.startable.clear()
        self.early.clear()
        self.lanes.clear()
        self.full_since.clear()
        self.retries.clear()
        self.inbox.waiting.clear()

    def release(self) -> None:
        """Take every unit out of the Pools' hands: nothing is awaited here any more."""
        for unit in list(self.scheduled.values()):
            self._leave(unit)

    def _expand(self, step: StepState, items: list[Any], more: bool) -> None:  # noqa: FBT001  # of the record
        if more or step.more:
            self._extend(step, items, more)
            return
        step.items = items
        if step.node.step.ordered:
            step.order = ItemOrder(items)
        self._open(step, [Unit(StepKey(step.node.name, at)) for at in range(len(items))])
        if not items:
            self._settle(step)

    def _extend(self, step: StepState, items: list[Any], more: bool) -> None:  # noqa: FBT001  # of the record
        """Items that come while the step that yields them goes on, or the last of them."""
        first = step.items is None
        known = step.items = step.items or []
        name, begin = step.node.name, len(known)
        known += items
        step.units += [Unit(StepKey(name, at)) for at in range(begin, len(known))]
        step.open += len(items) + more - step.more
        step.more = more
        self.counts["total"] += len(items) - first
        if step.open == 0:
            self._settle(step)
        else:
            self.startable.append(name)

    def _schedule(self, unit: Unit, record: StepScheduled) -> None:
        before = unit.task
        if before is not None and record.inputs is None:
            record = replace(record, inputs=before.inputs)
        if before is not None and record.program is None:
            record = replace(record, program=before.program)
        unit.status, unit.attempt, unit.task = "Scheduled", record.attempt, record
        self.counts["running"] += 1
        self.scheduled[unit.key] = unit
        if record.kind == "container":
            self.pods[unit.key] = unit
        self._hands[self.request.namespace, record.pool] += 1
        self._note(unit, "Running")

    def _keep(self, unit: Unit, record: StepAnticipated) -> None:
        self._leave(unit)
        unit.status, unit.attempt, unit.task = "Held", record.attempt, None
        self.kept[unit.key] = record
        self._note(unit, "Held", "until its branch has decided")

    def _repeat(self, unit: Unit, record: StepRepeated) -> None:
        self._leave(unit)
        self.loops[unit.key] = Loop(record.iteration + 1, record.output, record.attempt)
        unit.attempt, unit.task, unit.error = record.attempt, None, None
        if self.steps[unit.key.step].node.undoes_each:
            self.completed.append(Done(unit.key, record.iteration))
            self.iterations.setdefault(unit.key, {})[record.iteration] = record.output
        step = self.step_of(unit.key)
        if step.goal is not None and step.goal.execute is not None:
            self.revisions[unit.key] = Revision.to_carry_out(step, record.attempt)
        unit.status, unit.retry_at = "Retrying", record.next_at
        if not self.is_undone:
            heapq.heappush(self.retries, (record.next_at, unit.key.step, unit.key.index))
        self._note(unit, "Repeating", f"iteration {record.iteration} has ended")

    def _replan(self, record: StepReplanned) -> None:
        # A snapshot tells of it before its unit comes into being, so the unit is not touched.
        key = record.key
        step = self.steps[key.step].node.step
        self.revisions[key] = Revision.after(self.revisions.get(key), step, record)
        self.replans.append(record)
        self.recent.appendleft((key, "Replanned", record.why))

    def _wait(self, unit: Unit, record: StepWaiting) -> None:
        unit.status = "Waiting"
        self.inbox.waiting[unit.key] = record
        if record.until is not None:
            unit.retry_at = record.until
            heapq.heappush(self.retries, (record.until, unit.key.step, unit.key.index))
        self._note(unit, "Waiting", record.message)

    def _fail(self, unit: Unit, record: StepFailed) -> None:
        unit.error = record.error
        if record.retry_at is None:
            self._give_up(unit, record)
            return
        self._leave(unit)
        unit.excused += record.error.code == BUDGET_EXCEEDED
        unit.status, unit.retry_at = "Retrying", record.retry_at
        heapq.heappush(self.retries, (record.retry_at, unit.key.step, unit.key.index))
        if record.then == REPLAN:
            unit.excused = 0
            return
        self._note(unit, "Retrying", record.error.message)

    def _give_up(self, unit: Unit, record: StepFailed) -> None:
        then = record.then
        if not then:  # a journal of a version that knew no other policy
            then = "continue" if self.steps[unit.key.step].node.step.allow_failure else "fail"
        if then == FALLBACK:
            self._recover(unit, record.error)
            return
        if then == LATER:
            self._leave(unit)
            unit.status, unit.attempt = "Ready", max(unit.attempt, record.attempt)
            unit.task = unit.error = None
            return
        self._end(unit, "Skipped" if then == "skip" else "Failed", error=record.error)
        if then not in ("skip", "continue"):
            self._doom(unit.key, then)

    def _recover(self, unit: Unit, error: StepError) -> None:
        """A step whose fallback runs: it ends when that has ended."""
        self._leave(unit)
        self.loops.pop(unit.key, None)
        self.inbox.waiting.pop(unit.key, None)
        unit.status, unit.task = "Recovering", None
        self._note(unit, "Recovering", error.message)
        policy = self.steps[unit.key.step].node.step.on_error
        assert policy is not None
        assert policy.step is not None
        fallback = self.steps[policy.step]
        if fallback.settled:
            self.stood_in.append(fallback)
            return
        fallback.waits_for -= 1
        if fallback.waits_for == 0:
            self.startable.append(policy.step)

    def _recovered(self, fallback: StepState) -> None:
        """A fallback has ended: so does the step that it stands for, where that has failed."""
        gate = fallback.node.gate
        assert gate is not None
        step = self.steps[gate.step]
        if step.settled or not step.units or step.units[0].status != "Recovering":
            return
        unit, told = step.units[0], self.told[fallback.node.name]
        given_up = told["state"] == "Skipped" and told["error"] is None
        state: UnitStatus = "Failed" if given_up else told["state"]
        self._end(unit, state, output=told["output"], error=unit.error)
        if given_up:
            self._doom(unit.key, "fail")

    def _doom(self, key: StepKey, verdict: str) -> None:
        """A failure that ends the run, where it is not about to end anyhow."""
        if self.failed is None and self.undoing is None and self.ending is None:
            self.failed, self.verdict = key, verdict

    def _leave(self, unit: Unit) -> None:
        if self.scheduled.pop(unit.key, None) is None:
            return
        assert unit.task is not None
        self.pods.pop(unit.key, None)
        self.counts["running"] -= 1
        self._hands[self.request.namespace, unit.task.pool] -= 1

    def _end(
        self,
        unit: Unit,
        status: UnitStatus,
        *,
        output: Any = None,
        error: StepError | None = None,
        message: str = "",
    ) -> None:
        if unit.status == "Waiting":
            wait = self.inbox.waiting.pop(unit.key)
            if wait.event and status == "Succeeded":
                self.inbox.taken(wait.event)
        loop = self.loops.pop(unit.key, None) if self.loops else None
        if self.kept:
            self.kept.pop(unit.key, None)
        self._leave(unit)
        unit.status, unit.output, unit.error, unit.task = status, output, error, None
        self.counts[status.lower()] += 1
        self._note(unit, status, error.message if error else message)
        step = self.steps[unit.key.step]
        if step.node.undo is not None and status == "Succeeded" and error is None:
            iteration = loop.iteration if loop else 0
            self.completed.append(Done(unit.key, iteration if step.node.undoes_each else -1))
        if self.undoing is not None and unit.key.step.endswith(COMPENSATE):
            self._undone(unit)
            return
        step.open -= 1
        if step.open == 0:
            self._settle(step)
        elif step.order is not None and step.order.end(unit.key.index):
            self.startable.append(step.node.name)

    def _skip(self, unit: Unit, reason: str) -> None:
        if reason:
            self.dead[unit.key.step] = reason
        self._end(unit, "Skipped", message=reason)

    def _undone(self, unit: Unit) -> None:
        """A compensation has ended: the unit before is next."""
        assert self.undoing is not None
        self.counts["total"] += 1
        self.undoing.done += 1
        if unit.status == "Failed":
            self.undoing.failed.append(unit.key)
        if self.completed:
            self.completed.pop()

    def _note(self, unit: Unit, state: str, message: str = "") -> None:
        self.recent.appendleft((unit.key, state, message))

    def _settle(self, step: StepState) -> None:
        step.settled = True
        self.unsettled -= 1
        settled = step.node.name
        told = self.told[settled] = told_of(step)
        for name in self.graph.dependents[settled]:
            dependent = self.steps[name]
            if dependent.join is not None and not dependent.join.take(settled, told["state"]):
                continue
            dependent.waits_for -= 1
            if dependent.waits_for == 0:
                self.startable.append(name)
            elif dependent.waits_for == 1 and dependent.node.early:
                self.early.append(name)
        if step.node.gate is not None and step.node.gate.arm == FALLBACK:
            self.stood_in.append(step)


def made(state: RunState, record: Record) -> list[Record]:
    """Take over what was just decided; returns it for the journal."""
    state.apply(record)
    return [record]
