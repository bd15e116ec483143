"""Runs driven through the pure core: no store, no bus, a clock of their own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from seedbed.crds.messages import RunRequest, StepError, StepKey, StepResult, StepTask
from seedbed.crds.pool import PoolSpec
from seedbed.runtime.coordination.port import Change
from seedbed.runtime.workflow.decide import accept, advance
from seedbed.runtime.workflow.records import Record
from seedbed.runtime.workflow.state import RunState
from seedbed.runtime.workflow.world import World

Behaviour = Callable[[StepTask], Any]
"""What a step does: its output, or a StepError it returns."""


def call(name: str, **fields: Any) -> dict[str, Any]:
    """A step that calls something."""
    args = fields.pop("args", {})
    return {
        "name": name,
        "call": {"entry": f"steps:{name.replace('-', '_')}", "args": args},
        **fields,
    }


def request(*steps: dict[str, Any], run: str = "run-1", **spec: Any) -> RunRequest:
    return RunRequest(run, "team", "plan", {"steps": list(steps), **spec})


def a_world(*pools: str, **limits: Any) -> World:
    """A world with these Pools, by default `general`."""
    world = World()
    for pool in pools or ("general",):
        set_pool(world, pool, **limits)
    return world


def set_pool(world: World, name: str, **fields: Any) -> None:
    spec = PoolSpec(**fields).model_dump_json(by_alias=True)
    world.change(Change(f"pools/team/{name}", spec.encode()))


def set_agent(world: World, name: str, **fields: Any) -> None:
    spec = {"pool": {"name": "general"}, "signature": "question -> answer", **fields}
    world.change(Change(f"agents/team/{name}", orjson.dumps(spec)))


class Clockwork:
    """Drives one run to its end: schedules, executes, reports, in order, without any wait.

    Attributes:
        journal: every record so far.
        executed: every attempt that was executed, as (key, attempt).
    """

    def __init__(
        self, state: RunState, world: World, behave: Behaviour, journal: list[Record] | None = None
    ) -> None:
        self.state = state
        self.world = world
        self.behave = behave
        self.journal = [] if journal is None else journal
        self.now = 1000.0
        self.executed: list[tuple[str, int]] = []
        self.most_running = 0

    def advance(self) -> list[Record]:
        made = advance(self.state, self.now, self.world)
        self.journal += made
        self.most_running = max(self.most_running, len(self.state.scheduled))
        return made

    def execute(self, key: StepKey) -> list[Record]:
        """Have a scheduled unit executed and its result taken in."""
        task = self.state.task(self.state.scheduled[key])
        self.executed.append((str(key), task.attempt))
        answer = self.behave(task)
        error = answer if isinstance(answer, StepError) else None
        output = None if error else answer
        result = StepResult(
            task.run, key, task.attempt, "worker", output, error, self.now, self.now
        )
        made = accept(self.state, result, self.now)
        self.journal += made
        return made

    def turn(self) -> bool:
        """One decision and one result, or a leap of the clock; False when nothing is left to do."""
        self.advance()
        if self.state.finished:
            return False
        if self.state.scheduled:
            self.execute(next(iter(self.state.scheduled)))
            return True
        due = self.state.due()
        if due is None:
            return False
        self.now = max(self.now, due)
        return True

    def to_the_end(self) -> RunState:
        while self.turn():
            pass
        return self.state


def play(
    plan: RunRequest, behave: Behaviour | None = None, world: World | None = None
) -> Clockwork:
    """A run from its beginning to its end."""
    world = world or a_world()
    clockwork = Clockwork(RunState(plan, world.hands), world, behave or (lambda task: task.inputs))
    clockwork.to_the_end()
    return clockwork
