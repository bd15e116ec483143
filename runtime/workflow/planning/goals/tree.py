"""The tree that a goal is taken apart into: its form, its integrity, its document.

Tasks are numbered from 0, the goal itself, and each one's parent has a smaller number than it has itself.
So every task has exactly one parent that exists, and no task can stand above itself. The document is
JSON, `{"version", "goal", "planner", "calls", "cut", "tasks": [[parent, text, whole], ...]}`; a task
before which its earlier siblings have to be done has a fourth member, true.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NotRequired, TypedDict

import orjson

from seedbed.crds.errors import InvalidError
from seedbed.crds.goal import MOST_LEVELS, MOST_TASKS

VERSION = 1
ABOVE_TOLD = 3
"""Goals above a leaf that a step's output tells, the nearest ones."""


@dataclass(frozen=True, slots=True)
class Task:
    """A part of a goal.

    Attributes:
        parent: number of the task that it is a part of; -1 for the goal itself.
        level: 0 for the goal itself.
        whole: whether the planner says that it is one piece of work.
        after: whether it, and its siblings behind it, begin once all siblings before it are done.
    """

    parent: int
    text: str
    level: int
    whole: bool = False
    after: bool = False


@dataclass(frozen=True)
class GoalTree:
    """A goal with everything that it was taken apart into.

    Attributes:
        planner: what took it apart, in words.
        calls: calls of models that it cost.
        cut: why parts were left whole that could have been taken apart; empty where nothing was.
    """

    tasks: Sequence[Task]
    planner: str = ""
    calls: int = 0
    cut: str = ""

    @property
    def goal(self) -> str:
        """The goal itself."""
        return self.tasks[0].text

    @cached_property
    def depth(self) -> int:
        """Levels below the goal."""
        return max(task.level for task in self.tasks)

    @cached_property
    def children(self) -> Sequence[Sequence[int]]:
        """The parts of each task, in order."""
        found: list[list[int]] = [[] for _ in self.tasks]
        for number, task in enumerate(self.tasks):
            if task.parent >= 0:
                found[task.parent].append(number)
        return found

    @cached_property
    def sizes(self) -> Sequence[int]:
        """How many tasks stand below each one."""
        found = [0] * len(self.tasks)
        for number in range(len(self.tasks) - 1, 0, -1):
            found[self.tasks[number].parent] += found[number] + 1
        return found

    @cached_property
    def leaves(self) -> Sequence[int]:
        """Tasks without parts."""
        return [number for number, parts in enumerate(self.children) if not parts]

    def document(self) -> bytes:
        """The tree as JSON; equal trees have equal documents."""
        rows = [
            [task.parent, task.text, task.whole, *([True] if task.after else [])]
            for task in self.tasks
        ]
        head = {"version": VERSION, "goal": self.goal, "planner": self.planner}
        return orjson.dumps({**head, "calls": self.calls, "cut": self.cut, "tasks": rows})

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the document, in hexadecimal digits."""
        return hashlib.sha256(self.document()).hexdigest()


def read_tree(document: bytes) -> GoalTree:
    """A tree from its document, checked.

    Raises:
        InvalidError: where it is no such document, or where a task's parent does not come before it.
    """
    try:
        found = orjson.loads(document)
        rows: list[tuple[int, str, bool, bool]] = [
            (int(parent), str(text), bool(whole), bool(after))
            for parent, text, whole, *after in found["tasks"]
        ]
        version, calls = found["version"], int(found["calls"])
        planner, cut = str(found["planner"]), str(found["cut"])
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidError("tree", f"expected the document of a goal tree: {error}") from error
    if version != VERSION:
        raise InvalidError("tree.version", f"version {version} is not known, expected {VERSION}")
    growth = Growth(MOST_TASKS)
    for number, (parent, text, whole, after) in enumerate(rows):
        if parent not in range(number) and (number, parent) != (0, -1):
            raise InvalidError(f"tree.tasks[{number}]", "its parent must come before it")
        growth.put(parent, text, whole=whole, after=after)
    if not growth.tasks:
        raise InvalidError("tree.tasks", "a tree has at least its goal")
    return growth.tree(planner=planner, calls=calls, cut=cut)


class Growth:
    """A tree while it is made.

    Attributes:
        tasks: those made so far.
        most_tasks: how many there may be.
    """

    def __init__(self, most_tasks: int) -> None:
        self.tasks: list[Task] = []
        self.most_tasks = most_tasks

    @classmethod
    def begin(cls, goal: str, *, most_tasks: int) -> Growth:
        """A tree of the goal alone."""
        growth = cls(most_tasks)
        growth.put(-1, goal)
        return growth

    @property
    def room(self) -> int:
        """How many more tasks there may be."""
        return self.most_tasks - len(self.tasks)

    def put(self, parent: int, text: str, *, whole: bool = False, after: bool = False) -> int:
        """Add a part of a task; returns its number."""
        level = self.tasks[parent].level + 1 if parent >= 0 else 0
        if level > MOST_LEVELS:
            raise InvalidError("tree", f"has more than {MOST_LEVELS} levels")
        self.tasks.append(Task(parent, text, level, whole, after))
        return len(self.tasks) - 1

    def above(self, number: int) -> list[str]:
        """The texts from the goal down to a task, the task left out."""
        found = []
        at = self.tasks[number].parent
        while at >= 0:
            found.append(self.tasks[at].text)
            at = self.tasks[at].parent
        return found[::-1]

    def tree(self, *, planner: str = "", calls: int = 0, cut: str = "") -> GoalTree:
        """The tree as it stands."""
        return GoalTree(tuple(self.tasks), planner, calls, cut)


def told(tree: GoalTree, *, in_sequence: bool = False) -> dict[str, Any]:
    """A tree as the output of a step: every task, and the leaves with what they are part of.

    The leaves stand in the order of the tree, parts below their goal. `after` of a leaf is the span of
    places of the leaves that come before it, where some do.

    Args:
        tree: the tree.
        in_sequence: whether all parts of a goal are done one after the other.
    """
    tasks = [
        {"id": number, "parent": task.parent, "level": task.level, "text": task.text}
        for number, task in enumerate(tree.tasks)
    ]
    above: list[list[str]] = []
    for task in tree.tasks:
        over = [] if task.parent < 0 else [*above[task.parent], tree.tasks[task.parent].text]
        above.append(over)
    leaves = [
        {
            "id": number,
            "text": tree.tasks[number].text,
            "above": above[number][-ABOVE_TOLD:],
            **({"after": [list(span)]} if span is not None else {}),
        }
        for number, span in in_order(tree, in_sequence=in_sequence)
    ]
    head = {"goal": tree.goal, "planner": tree.planner, "calls": tree.calls, "cut": tree.cut}
    return {**head, "depth": tree.depth, "tasks": tasks, "leaves": leaves}


Span = tuple[int, int]
"""Places of leaves, from the first up to, not including, the second."""


def in_order(tree: GoalTree, *, in_sequence: bool = False) -> list[tuple[int, Span | None]]:
    """The leaves as they stand in the tree, each with the leaves that come directly before it.

    The parts of a task are done in stages; `after` begins a new one. A task of a later stage waits for
    all leaves of the stage before, which have waited for all that is earlier; one of the first stage
    waits for what its parent waits for.
    """
    leaves: list[tuple[int, Span | None]] = []
    waits: list[Span | None] = [None] * len(tree.tasks)
    # For each task: where the stage at hand of its parts begins, and the one before.
    stages: list[tuple[int, Span | None]] = [(0, None)] * len(tree.tasks)
    stack = [0]
    while stack:
        number = stack.pop()
        task, place = tree.tasks[number], len(leaves)
        if task.parent >= 0:
            begin, before = stages[task.parent]
            if (task.after or in_sequence) and place > begin:
                begin, before = place, (begin, place)
                stages[task.parent] = begin, before
            waits[number] = before or waits[task.parent]
        stages[number] = place, None
        parts = tree.children[number]
        if not parts:
            leaves.append((number, waits[number]))
        stack.extend(reversed(parts))
    return leaves


class TaskTold(TypedDict):
    """A task with `tasks` below it; `after` where its earlier siblings come first."""

    id: int
    text: str
    level: int
    after: NotRequired[bool]
    tasks: int
    children: NotRequired[list[TaskTold]]


class HierarchyTold(TypedDict):
    """A tree of tasks, or the part of it below one."""

    id: str
    total: int
    depth: int
    root: TaskTold


def hierarchy(tree: GoalTree, under: int = 0, levels: int = MOST_LEVELS) -> bytes:
    """A task with its parts below each other, as nested JSON.

    Each is a `TaskTold`, with its `children` down to `levels` below `under`. Written piece by piece, since
    no JSON library takes trees this deep.

    Raises:
        InvalidError: where there is no such task.
    """
    if not 0 <= under < len(tree.tasks):
        raise InvalidError(
            "under", f"there is no task {under}, the last one is {len(tree.tasks) - 1}"
        )
    return b"".join(_written(tree, under, tree.tasks[under].level + levels))


def _written(tree: GoalTree, under: int, last: int) -> Iterator[bytes]:
    stack: list[int | bytes] = [under]
    while stack:
        item = stack.pop()
        if isinstance(item, bytes):
            yield item
            continue
        task = tree.tasks[item]
        head: dict[str, Any] = {"id": item, "text": task.text, "level": task.level}
        if task.after:
            head["after"] = True
        yield orjson.dumps({**head, "tasks": tree.sizes[item]})[:-1]
        parts = tree.children[item] if task.level < last else []
        if not parts:
            yield b"}"
            continue
        yield b',"children":['
        stack.append(b"]}")
        for place, part in enumerate(reversed(parts)):
            stack.append(part)
            if place < len(parts) - 1:
                stack.append(b",")
