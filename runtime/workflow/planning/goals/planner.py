"""Grows a tree of goals with a planner: level by level, everything of a level at once.

A planner is asked about many goals in one call and may answer with several levels of parts. All calls
for a level run side by side, so time grows with the levels divided by the levels of an answer, not with
the tasks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from seedbed.crds.errors import InvalidError, RetryableError, SeedbedError, TerminalError
from seedbed.crds.goal import MOST_LEVELS, MOST_TASKS
from seedbed.runtime.workflow.planning.goals.tree import GoalTree, Growth

LONGEST_GOAL = 500


@dataclass(frozen=True, slots=True)
class Asked:
    """A goal to be taken apart.

    Attributes:
        above: the goals that it is a part of, the whole goal first.
    """

    text: str
    level: int
    above: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a goal.

    Attributes:
        of: place of the part, in the same answer, that it is a part of; -1 for the goal asked about.
        whole: whether it is one piece of work that needs no further planning.
        after: whether it begins once all parts before it are done, as those behind it do.
    """

    of: int
    text: str
    whole: bool = False
    after: bool = False


class Planner(Protocol):
    """Takes goals apart.

    Attributes:
        costs_calls: whether asking it counts against the budget of calls.
    """

    costs_calls: bool

    def knows(self, asked: Asked) -> bool:
        """Whether it can take this goal apart; one that it does not know is left whole."""

    async def apart(self, goals: Sequence[Asked], room: int) -> Sequence[Sequence[Part]]:
        """The parts of each goal; none for a goal that is one piece of work.

        Args:
            goals: at most `Bounds.batch`.
            room: how many more tasks the tree may have.

        Raises:
            RetryableError: trying again may help.
            TerminalError: it cannot answer.
        """


@dataclass(frozen=True, slots=True)
class Bounds:
    """How far a goal may be taken apart.

    Attributes:
        max_tasks: tasks in the tree, the goal included.
        max_depth: levels below the goal; goals there are left whole.
        max_calls: calls of planners that cost something.
        batch: goals in one call.
        concurrency: calls at the same time.
        call_seconds: longest time for one call.
    """

    max_tasks: int = 10_000
    max_depth: int = 120
    max_calls: int = 1_000
    batch: int = 10
    concurrency: int = 16
    call_seconds: float = 120.0

    def __post_init__(self) -> None:
        for name, most in (("max_tasks", MOST_TASKS), ("max_depth", MOST_LEVELS)):
            if not 1 <= getattr(self, name) <= most:
                raise InvalidError(name, f"must be from 1 to {most:,}")
        if self.max_calls < 1:
            raise InvalidError("max_calls", "must be at least 1")


class GoalTooLargeError(TerminalError):
    """A goal is made of more tasks than there may be, and rules say so before anything was spent.

    Attributes:
        limit: how many tasks there may be.
    """

    code = "goal_too_large"

    def __init__(self, goal: str, limit: int) -> None:
        super().__init__(f"the rules make more than {limit:,} tasks, at `{goal}`: raise maxTasks")
        self.limit = limit


@dataclass
class _Growing:
    """One decomposition under way."""

    planners: Sequence[Planner]
    bounds: Bounds
    growth: Growth
    calls: int = 0
    cut: str = ""
    gate: asyncio.Semaphore = field(init=False)

    def __post_init__(self) -> None:
        self.gate = asyncio.Semaphore(self.bounds.concurrency)

    async def grow(self) -> None:
        frontier = [0]
        while frontier:
            following: list[int] = []
            for planner, numbers in self._shared_out(frontier):
                following += await self._level(planner, numbers)
            frontier = sorted(following)

    def _shared_out(self, frontier: Sequence[int]) -> list[tuple[Planner, list[int]]]:
        """Which planner is asked about which task: the first one that knows it."""
        found: list[tuple[Planner, list[int]]] = [(planner, []) for planner in self.planners]
        for number in frontier:
            asked = self._asked(number)
            for planner, numbers in found:
                if planner.knows(asked):
                    numbers.append(number)
                    break
        return [(planner, numbers) for planner, numbers in found if numbers]

    async def _level(self, planner: Planner, numbers: Sequence[int]) -> list[int]:
        """Ask about all of them side by side; returns the tasks that may be taken apart further."""
        if planner.costs_calls and not self.growth.room:
            self.cut = self._full
            return []
        size = self.bounds.batch
        batches = [numbers[at : at + size] for at in range(0, len(numbers), size)]
        if planner.costs_calls:
            left = self.bounds.max_calls - self.calls
            if len(batches) > left:
                self.cut = f"the budget of {self.bounds.max_calls:,} calls is spent"
                batches = batches[:left]
            self.calls += len(batches)
        try:
            async with asyncio.TaskGroup() as tasks:
                asking = [tasks.create_task(self._ask(planner, batch)) for batch in batches]
        except* SeedbedError as group:
            raise group.exceptions[0] from None
        # Taken in in order, so that the tree does not depend on who answered first.
        open_tasks: list[int] = []
        for batch, answers in zip(batches, asking, strict=True):
            for number, parts in zip(batch, answers.result(), strict=True):
                open_tasks += self._take(planner, number, parts)
        return open_tasks

    async def _ask(self, planner: Planner, batch: Sequence[int]) -> Sequence[Sequence[Part]]:
        goals = [self._asked(number) for number in batch]
        if not planner.costs_calls:
            return await planner.apart(goals, self.growth.room)
        async with self.gate:
            try:
                async with asyncio.timeout(self.bounds.call_seconds):
                    return await planner.apart(goals, self.growth.room)
            except TimeoutError:
                message = f"{planner} did not answer within {self.bounds.call_seconds:g} s"
                raise RetryableError(message) from None

    def _asked(self, number: int) -> Asked:
        task = self.growth.tasks[number]
        return Asked(task.text, task.level, tuple(self.growth.above(number)))

    def _take(self, planner: Planner, number: int, parts: Sequence[Part]) -> list[int]:
        """Put the parts into the tree as far as there is room for them."""
        if len(parts) > self.growth.room:
            if not planner.costs_calls:
                raise GoalTooLargeError(self.growth.tasks[number].text, self.bounds.max_tasks)
            self.cut = self._full
            parts = parts[: self.growth.room]
        numbers: list[int] = []
        above = {part.of for part in parts}
        following: list[int] = []
        for place, part in enumerate(parts):
            parent = number if part.of < 0 else numbers[part.of]
            if self.growth.tasks[parent].level >= self.bounds.max_depth:
                numbers.append(parent)  # below the last level everything belongs to it
                continue
            made = self.growth.put(
                parent, part.text[:LONGEST_GOAL], whole=part.whole, after=part.after
            )
            numbers.append(made)
            leaf = place not in above and not part.whole
            if not leaf or self.growth.tasks[made].level >= self.bounds.max_depth:
                continue
            if not (planner.costs_calls and self._circles(made)):
                following.append(made)
        return following

    @property
    def _full(self) -> str:
        return f"there are {self.bounds.max_tasks:,} tasks already"

    def _circles(self, number: int) -> bool:
        """Whether a task says what one above it says: taken apart it would lead back to itself."""
        text = self.growth.tasks[number].text.casefold()
        return any(text == above.casefold() for above in self.growth.above(number))


async def decompose(
    goal: str, planners: Sequence[Planner], bounds: Bounds | None = None
) -> GoalTree:
    """Take a goal apart.

    Args:
        goal: what is to be reached.
        planners: each goal goes to the first one that knows it.
        bounds: how far to go.

    Raises:
        InvalidError: the goal is empty or too long.
        GoalTooLargeError: rules make more tasks than there may be.
        SeedbedError: what a planner raises.
    """
    bounds = bounds or Bounds()
    text = " ".join(goal.split())
    if not 1 <= len(text) <= LONGEST_GOAL:
        raise InvalidError("goal", f"must have 1 to {LONGEST_GOAL} characters")
    growing = _Growing(planners, bounds, Growth.begin(text, most_tasks=bounds.max_tasks))
    await growing.grow()
    named = ", then ".join(map(str, planners))
    return growing.growth.tree(planner=named, calls=growing.calls, cut=growing.cut)
