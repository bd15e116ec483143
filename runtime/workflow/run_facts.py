"""What is known of one run, and what follows from that alone. Pure: no I/O, no clock.

The fold that changes it stands in `state`.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Any

from msgspec.structs import replace

from seedbed.crds.base import seconds
from seedbed.crds.expressions import Elsewhere, Scope
from seedbed.crds.graph_checks import COMPENSATE
from seedbed.crds.messages import Decision, RunRequest, StepKey, StepTask
from seedbed.crds.step import Step
from seedbed.runtime.workflow.entering import Join, things_to_await
from seedbed.runtime.workflow.inbox import Inbox
from seedbed.runtime.workflow.plan import RunPlan, plan_of
from seedbed.runtime.workflow.records import (
    RunCheckpointed,
    RunEnding,
    RunFinished,
    RunForked,
    RunHeld,
    StepAnticipated,
    StepReplanned,
    StepReported,
)
from seedbed.runtime.workflow.revisions import Revision
from seedbed.runtime.workflow.units import ENDED, Done, Loop, Steps, StepState, Undoing, Unit
from seedbed.runtime.workflow.world import Hands

RECENT = 5
LIMIT = 3600.0
"""Seconds that compensation may take in all, and onExit steps."""

Lane = tuple[int, str, str]
"""First the order of its steps' priority, then who takes them, then the Pool."""


class RunFacts:
    """One run as it stands.

    Args:
        request: who asked for what.
        plan: the request's plan, compiled; needed where the request does not hold the steps.
        hands: counts the steps that each Pool, by namespace and name, has in hand; shared by all runs.

    Attributes:
        revision: how many records were applied.
        counts: units by state, as in `Counts`; a step that is not expanded counts as one.
        recent: what changed last, newest first.
        scheduled: units that a worker may have.
        pods: those of them that are containers.
        startable: steps whose needs have all ended.
        lanes: units that are ready, by what they wait for; see `decide`.
        retries: heap of (time, step, index).
        told: what expressions see of the steps that have ended.
        early: steps that may start although their branch has not decided.
        kept: results of such steps, while it has not.
        loops: units that run again, from their second iteration on.
        stood_in: fallbacks that have ended, while a record is taken in.
        replans: the changes of the plan so far, in order.
        revisions: units that are done otherwise than the Workflow says at first.
        inbox: what came from outside, and the steps that wait for it.
        late: results that came while nobody could go on with the run, not taken in yet.
        dead: steps to which no way leads any more, with why; see `entering`.
        failed: the first unit whose failure fails the run.
        verdict: what its policy says about the run.
        undoing: what happens to undo what was done, once a step's failure asks for that.
        completed: what can be undone, in the order in which it succeeded.
        iterations: what earlier iterations gave, by number, where each of them can be undone.
        ending: the outcome, once it is known and the onExit steps run.
        starved: whether units wait for a Pool that has its hands full.
        eta: Unix time at which it is expected to end, as `planning.forecast` last thought.
        advice: what the optimiser found.

    Raises:
        InvalidError: the plan cannot run.
    """

    def __init__(
        self, request: RunRequest, hands: Hands | None = None, plan: RunPlan | None = None
    ) -> None:
        plan = plan or plan_of(request)
        self.request = request
        self.spec = plan.spec
        self.graph = plan.graph
        self.deadline = seconds(self.spec.deadline) if self.spec.deadline else None
        self.suspended = self.spec.suspend
        self.parallelism = self.spec.parallelism
        self.priority = self.spec.priority
        self.revision = 0
        self.started: float | None = None
        self.finished: RunFinished | None = None
        self.held: RunHeld | None = None
        self.origin: RunForked | None = None
        self.checkpoint: RunCheckpointed | None = None
        self.failed: StepKey | None = None
        self.verdict = ""
        self.starved = False
        self.eta: float | None = None
        self.advice = request.advice
        self.ending: RunEnding | None = None
        self.undoing: Undoing | None = None
        self.completed: list[Done] = []
        self.iterations: dict[StepKey, dict[int, Any]] = {}
        self.steps = Steps(
            (name, StepState(node, things_to_await(node), join=Join.of(node)))
            for name, node in self.graph.nodes.items()
        )
        self.unsettled = len(self.steps) - len(self.graph.exits)
        self.counts = dict.fromkeys(("total", "running", *map(str.lower, ENDED)), 0)
        self.counts["total"] = len(self.steps)
        self.recent: deque[tuple[StepKey, str, str]] = deque(maxlen=RECENT)
        self.scheduled: dict[StepKey, Unit] = {}
        self.pods: dict[StepKey, Unit] = {}
        self.startable: deque[str] = deque(self.graph.roots)
        self.lanes: dict[Lane, deque[StepKey]] = {}
        # Since when a full queue takes nothing of a lane, and which; by the owner, not journalled.
        self.full_since: dict[Lane, tuple[float, str]] = {}
        self.retries: list[tuple[float, str, int]] = []
        self.told: dict[str, dict[str, Any]] = {}
        self.dead: dict[str, str] = {}
        self.loops: dict[StepKey, Loop] = {}
        self.early = deque(name for name in self.graph.early if self.steps[name].waits_for == 1)
        self.kept: dict[StepKey, StepAnticipated] = {}
        self.stood_in: list[StepState] = []
        self.replans: list[StepReplanned] = []
        self.revisions: dict[StepKey, Revision] = {}
        self.inbox = Inbox()
        self.late: list[StepReported] = []
        for step, given in self.spec.approvals.items():
            self.inbox.approvals[step] = Decision(given.decision, given.by, given.comment)
        run = {"id": request.run, "namespace": request.namespace, "workflow": request.workflow}
        self.scope = Scope(params=self.spec.params, steps=self.told, run=run)
        self._hands: Hands = Counter() if hands is None else hands

    def evaluate_by(self, elsewhere: Elsewhere) -> None:
        """Have expressions evaluated by somebody from now on."""
        self.scope = replace(self.scope, elsewhere=elsewhere)

    def unit(self, key: StepKey) -> Unit:
        """The unit of a key; the one of a step without forEach comes into being here."""
        step = self.steps[key.step]
        if not step.units:
            self._open(step, [Unit(StepKey(key.step))])
        return step.units[max(key.index, 0)]

    def step_of(self, key: StepKey) -> Step:
        """What a unit does, as the plan is now."""
        if self.revisions and key in self.revisions:
            return self.revisions[key].step
        return self.steps[key.step].node.step

    def awaits(self, key: StepKey, attempt: int) -> bool:
        """Whether the result of this attempt still counts."""
        unit = self.scheduled.get(key)
        return self.finished is None and unit is not None and unit.attempt == attempt

    def behind(self, key: StepKey, attempt: int) -> bool:
        """Whether the attempt is one that this state does not know yet, as a newer owner's is."""
        step = self.steps.get(key.step)
        if step is None and key.step.endswith(COMPENSATE):
            return self.finished is None
        if step is None or step.settled or self.finished is not None:
            return False
        at = max(key.index, 0)
        if at >= len(step.units):
            return not step.units or step.more
        return step.units[at].status not in ENDED and step.units[at].attempt < attempt

    @property
    def is_undone(self) -> bool:
        """Whether what was done is being undone now."""
        return self.undoing is not None and self.ending is None

    @property
    def ends(self) -> float | None:
        """Unix time at which the run is over whatever it has done, or None.

        What undoes a run, and what follows its outcome, has a time limit of its own.
        """
        if self.ending is not None:
            return self.ending.at + LIMIT
        if self.undoing is not None:
            return self.undoing.at + LIMIT
        if self.deadline is None and self.request.parent is None:
            return None
        ends = []
        if self.deadline is not None and self.started is not None:
            ends.append(self.started + self.deadline)
        if self.request.parent is not None and self.request.parent.deadline is not None:
            ends.append(self.request.parent.deadline)
        return min(ends, default=None)

    def due(self) -> float | None:
        """When something will have to be decided although nothing happens."""
        end = self.ends
        if not self.retries or self.suspended:
            return end
        again = self.retries[0][0]
        return again if end is None else min(again, end)

    def task(self, unit: Unit) -> StepTask:
        """The message to a worker for a scheduled unit."""
        record = unit.task
        assert record is not None
        assert record.kind in ("agent", "call")
        return StepTask(
            self.request.run,
            self.request.namespace,
            self.request.outermost,
            unit.key,
            unit.attempt,
            record.kind,
            record.program or {},
            record.inputs or {},
            record.timeout,
            self.ends,
            self.request.traceparent,
            self.loops[unit.key].iteration if self.loops and unit.key in self.loops else 0,
        )

    def _open(self, step: StepState, units: list[Unit]) -> None:
        step.units, step.open = units, len(units)
        self.counts["total"] += len(units) - 1

    def anticipates(self, key: StepKey) -> bool:
        """Whether the unit runs before its branch has decided."""
        node = self.steps[key.step].node
        return node.early and node.gate is not None and node.gate.step not in self.told
