"""What a run needs to know of the world around it: Agents, Pools and flags as they are now."""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson
from msgspec import Struct
from pydantic import ValidationError

from seedbed.crds.addresses import agent_setting, flag_setting, pool_setting, template_setting
from seedbed.crds.agent import AgentSpec
from seedbed.crds.base import seconds
from seedbed.crds.feature_flag import FeatureFlagSpec
from seedbed.crds.pool import PoolSpec, QueuePolicy
from seedbed.crds.spending import (
    SPENDING_PREFIX,
    Limits,
    Spending,
    agent_account,
    workflow_account,
    workflow_setting,
)
from seedbed.crds.step import Step
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.coordination.port import Change
from seedbed.runtime.flags.evaluate import evaluate
from seedbed.runtime.workflow.evaluation.evaluations import Evaluations
from seedbed.runtime.workflow.fairness import PoolKey, Shares, weight_of
from seedbed.runtime.workflow.plan import program_of
from seedbed.runtime.workflow.shedding import Shedding

if TYPE_CHECKING:
    from seedbed.runtime.workflow.state import RunState

log = logging.getLogger(__name__)

DEFAULT_TIMEOUT = 3600.0
"""Seconds for an attempt of a step that sets no time limit."""

Hands = Counter[tuple[str, str]]
"""Steps handed to a Pool and not ended, by namespace and Pool."""


class Place(Struct, frozen=True):
    """Where a step can run now. `pool` is empty for a container step.

    Attributes:
        sheds: whether the Pool takes places from steps of a lower rank.
    """

    pool: str
    program: dict[str, Any]
    timeout: float
    sheds: bool = False


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why a step cannot run now.

    Attributes:
        missing: where something does not exist or is suspended.
        policy: what a full queue does with the step.
        patience: seconds that the queue may stay full; None for as long as it likes.
        pool: the Pool whose queue is full.
    """

    reason: str
    message: str
    missing: bool = True
    policy: QueuePolicy = "Wait"
    patience: float | None = None
    pool: str = ""

    @property
    def absent(self) -> bool:
        """Whether something does not exist or is suspended; a budget that is used up is there."""
        return self.missing and self.reason != "BudgetExceeded"


@lru_cache(maxsize=4096)
def _program_of_call(entry: str) -> dict[str, Any]:
    """The same object for all steps that call it, so that it is journalled and sent as one."""
    return {"entry": entry}


class World:
    """The live settings, read once and kept; and how many steps each Pool has in hand.

    Attributes:
        gone: Pools that do not exist and may have steps in hand.
    """

    def __init__(self) -> None:
        self.hands: Hands = Counter()
        self.shares = Shares()
        self.shedding = Shedding()
        self.evaluations = Evaluations()
        self.gone: set[PoolKey] = set()
        self._agents: dict[str, AgentSpec] = {}
        self._pools: dict[str, PoolSpec] = {}
        self._flags: dict[str, FeatureFlagSpec] = {}
        self._templates: dict[str, WorkflowSpec] = {}
        self._limits: dict[str, Limits] = {}
        self._spending: dict[str, Spending] = {}
        self._programs: dict[str, dict[str, Any]] = {}

    def change(self, change: Change) -> None:
        """A live setting has changed."""
        forms: dict[str, tuple[dict[str, Any], Any]] = {
            "agents": (self._agents, AgentSpec),
            "pools": (self._pools, PoolSpec),
            "flags": (self._flags, FeatureFlagSpec),
            "templates": (self._templates, WorkflowSpec),
            "workflows": (self._limits, Limits),
        }
        if change.key.startswith(SPENDING_PREFIX):
            self._spending[change.key] = Spending.read(change.value)
            return
        kept = forms.get(change.key.split("/", 1)[0])
        if kept is None:
            return
        known, form = kept
        known.pop(change.key, None)
        self._programs.pop(change.key, None)
        if known is self._pools:
            _, namespace, pool = change.key.split("/", 2)
            (self.gone.add if change.value is None else self.gone.discard)((namespace, pool))
        if change.value is None:
            return
        try:
            known[change.key] = form.model_validate(orjson.loads(change.value))
        except (ValidationError, orjson.JSONDecodeError) as error:
            # What cannot be read is not there: steps that need it wait.
            log.warning("setting %s cannot be read: %s", change.key, error)

    def resumed(self, state: RunState) -> None:
        """A run has come with steps that were handed out before."""
        self.shedding.resumed(state)
        namespace = state.request.namespace
        pools = {unit.task.pool for unit in state.scheduled.values() if unit.task is not None}
        self.gone |= {
            (namespace, pool)
            for pool in pools
            if pool and pool_setting(namespace, pool) not in self._pools
        }

    def left(self, state: RunState) -> Blocked | None:
        """What keeps steps that were handed out from being done: their Pool is gone."""
        if not self.gone:
            return None
        namespace = state.request.namespace
        gone = {pool for space, pool in self.gone if space == namespace and self.hands[space, pool]}
        for unit in state.scheduled.values() if gone else ():
            pool = unit.task.pool if unit.task is not None else ""
            if pool in gone:
                told = f"Pool {pool!r} does not exist: the steps that it has in hand wait for it"
                return Blocked("PoolNotFound", told)
        return None

    def pulled(self, queue: str) -> bool:
        """Whether a work queue is that of a Pool that exists."""
        namespace, _, pool = queue.partition(".")
        return pool_setting(namespace, pool) in self._pools

    def flag(self, namespace: str, name: str, subject: str | None) -> bool:
        """Whether a flag is on for a subject; an unknown flag is off."""
        spec = self._flags.get(flag_setting(namespace, name))
        return spec is not None and evaluate(spec, f"{namespace}/{name}", subject).value

    def place(
        self, namespace: str, step: Step, spec: WorkflowSpec, workflow: str = ""
    ) -> Place | Blocked:
        """Where a step of a Workflow can run."""
        timeout = seconds(step.timeout) if step.timeout else DEFAULT_TIMEOUT
        if step.container is not None:
            container = step.container.model_dump(mode="json", by_alias=True, exclude_none=True)
            return Place("", container, timeout)
        if step.call is not None:
            pool = (step.pool or spec.pool).name
            return self._in_pool(namespace, pool, _program_of_call(step.call.entry), timeout)
        if step.goal is not None:
            pool = (step.pool or spec.pool).name
            goal = step.goal.model_dump(mode="json", by_alias=True, exclude={"text", "execute"})
            return self._in_pool(namespace, pool, {"goal": goal}, timeout)
        if step.workflow is not None:
            return self._nested(namespace, step, spec)
        assert step.agent is not None
        name = step.agent.name
        key = agent_setting(namespace, name)
        agent = self._agents.get(key)
        if agent is None:
            return Blocked("AgentNotFound", f"Agent {name!r} does not exist")
        if agent.suspend:
            return Blocked("AgentSuspended", f"Agent {name!r} is suspended")
        unpaid = self._unpaid(namespace, name, agent, workflow)
        if unpaid is not None:
            return unpaid
        program = self._programs.get(key)
        if program is None:
            program = {**agent.model_dump(mode="json", by_alias=True), "agentName": name}
            self._programs[key] = program
        limit = seconds(step.timeout or agent.timeout)
        return self._in_pool(namespace, (step.pool or agent.pool).name, program, limit)

    def _unpaid(self, namespace: str, name: str, agent: AgentSpec, workflow: str) -> Blocked | None:
        """Whether a budget that would pay for asking the Agent is used up."""
        of_workflow = self._limits.get(workflow_setting(namespace, workflow))
        paying = (
            (f"Agent {name!r}", agent_account(namespace, name), agent.budget),
            (
                f"Workflow {workflow!r}",
                workflow_account(namespace, workflow),
                of_workflow.budget if of_workflow is not None else None,
            ),
        )
        for who, account, budget in paying:
            spending = self._spending.get(f"{SPENDING_PREFIX}{account}")
            if budget is not None and spending is not None and spending.exceeds(budget):
                return Blocked("BudgetExceeded", f"the budget of {who}: {spending.told(budget)}")
        return None

    def _nested(self, namespace: str, step: Step, spec: WorkflowSpec) -> Place | Blocked:
        """A run of its own; it has the time of the run around it where the step sets no limit."""
        assert step.workflow is not None
        limit = seconds(step.timeout) if step.timeout else 0.0
        name = step.workflow.name
        if name is None:
            return Place("", program_of(step, spec), limit)
        key = template_setting(namespace, name)
        template = self._templates.get(key)
        if template is None:
            return Blocked("WorkflowNotFound", f"there is no Workflow {name!r} with spec.template")
        program = self._programs.get(key)
        if program is None:
            plan = template.model_dump(mode="json", by_alias=True, exclude_defaults=True)
            program = self._programs[key] = {"workflow": name, "spec": plan}
        return Place("", program, limit)

    def wait(self, namespace: str, pool: str, run: str, priority: int) -> None:
        """A run wants more of a Pool than it gets."""
        self.shares.wait((namespace, pool), run, weight_of(priority))

    def yields(self, namespace: str, pool: str, run: str, priority: int, held: int) -> bool:
        """Whether a run that holds so many places leaves the next one of a Pool to others."""
        known = self._pools.get(pool_setting(namespace, pool))
        if known is None:
            return False
        key, weight = (namespace, pool), weight_of(priority)
        if not self.shares.yields(key, run, weight, held, known.queue_limit):
            return False
        self.shares.wait(key, run, weight)
        return True

    def _in_pool(
        self, namespace: str, pool: str, program: dict[str, Any], timeout: float
    ) -> Place | Blocked:
        known = self._pools.get(pool_setting(namespace, pool))
        if known is None:
            return Blocked("PoolNotFound", f"Pool {pool!r} does not exist")
        if self.hands[namespace, pool] >= known.queue_limit:
            full = f"Pool {pool!r} has its {known.queue_limit} steps in hand"
            patience = seconds(known.queue_timeout) if known.queue_timeout else None
            return Blocked(
                "QueueFull",
                full,
                missing=False,
                policy=known.queue_policy,
                patience=patience,
                pool=pool,
            )
        return Place(pool, program, timeout, known.queue_policy == "ShedLow")
