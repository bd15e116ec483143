"""A plan that is being rewritten: what each step needs, which steps may be touched, what was done."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from seedbed.crds.graph import Graph, Node
from seedbed.crds.step import Step
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.planning.plan import Plan
from seedbed.runtime.workflow.planning.renaming import in_expression, in_template

TOLD = 20
"""Changes of each sort that are told one by one; all are counted."""

Sort = Literal["widened", "merged", "reduced", "reordered"]


@dataclass(frozen=True, slots=True)
class Change:
    """One thing that was done, in words."""

    sort: Sort
    step: str
    message: str


class Draft:
    """A plan that is being rewritten.

    Attributes:
        order: every step after those it needs, otherwise as in the plan.
        needs: positions of the steps that each step waits for.
        data: those of them whose outputs it reads.
        orderly: whether a step may be touched.
        pinned: names that something beside the steps and the result speaks of.
        merged: for a step that was left out, the one that stands for it.
        result: the expression of the run's result; None where it is the outputs of the last steps.
    """

    def __init__(self, graph: Graph, spec: WorkflowSpec) -> None:
        self.graph = graph
        self.spec = spec
        self.plan = Plan.of(graph, exits_last=False)
        levels = self.plan.levels()
        self.order = sorted(range(len(levels)), key=lambda place: (levels[place], place))
        at = {name: place for place, name in enumerate(graph.nodes)}
        self.nodes = list(graph.nodes.values())
        self.needs = [set(needs) for needs in self.plan.needs]
        self.data = [{at[name] for name in _read_by(node)} for node in self.nodes]
        self.pinned = _pinned(graph, spec)
        self.orderly = self._orderly()
        self.merged: dict[int, int] = {}
        self.result = spec.result
        self.changes: list[Change] = []
        self.counts: Counter[Sort] = Counter()
        self.left_out: list[str] = []

    def note(self, sort: Sort, step: str, message: str, count: int = 1) -> None:
        """Remember a change; the first ones in words."""
        if self.counts[sort] < TOLD:
            self.changes.append(Change(sort, step, message))
        self.counts[sort] += count

    def names(self, steps: set[int]) -> str:
        """Some of the steps by name."""
        shown = [f"`{self.nodes[step].name}`" for step in sorted(steps)[:3]]
        return ", ".join(shown) + (f" and {len(steps) - 3:,} more" if len(steps) > 3 else "")  # noqa: PLR2004  # a line

    def renamed(self) -> dict[str, str]:
        """For each step that is left out, the one that stands for it, by name."""
        return {self.nodes[old].name: self.nodes[new].name for old, new in self.merged.items()}

    def kept(self) -> list[int]:
        """The steps that stay, in the order of the plan."""
        return [place for place in range(len(self.nodes)) if place not in self.merged]

    def written(self, order: Sequence[int] | None = None) -> WorkflowSpec:
        """The rewritten plan, with its steps in this order."""
        names = self.renamed()
        steps = [self._step(place, names) for place in (self.kept() if order is None else order)]
        result = self.result
        if result is not None and names:
            result = in_expression(result, names)
        return self.spec.model_copy(update={"steps": tuple(steps), "result": result})

    def _step(self, place: int, names: dict[str, str]) -> Step:
        step = self.nodes[place].step
        if not self.orderly[place]:
            return step
        update: dict[str, Any] = {}
        if self.needs[place] != {*self.plan.needs[place]}:
            order = self.needs[place] - self.data[place]
            update["needs"] = tuple(self.nodes[need].name for need in sorted(order))
        if names and not names.keys().isdisjoint(self.graph.nodes[step.name].needs):
            update.update(renamed_fields(step, names))
        return step.model_copy(update=update) if update else step

    def _orderly(self) -> list[bool]:
        found = [False] * len(self.nodes)
        if self.spec.on_error is not None:
            return found
        exits = frozenset(self.graph.exits)
        for place in self.order:
            node = self.nodes[place]
            before = all(found[need] for need in self.plan.needs[place])
            found[place] = before and node.name not in exits and _plain(node)
        return found


_PLAIN_FIELDS = frozenset(
    {
        *("name", "agent", "call", "container", "needs", "when", "for_each", "pool", "retry"),
        *("timeout", "allow_failure", "estimate", "pure"),
    }
)
"""Fields whose meaning this module knows; a step that sets another one is left as it is."""


def _plain(node: Node) -> bool:
    if node.gate is not None or node.at_least is not None:
        return False
    if node.step.agent is None and node.step.call is None and node.step.container is None:
        return False
    return all(
        name in _PLAIN_FIELDS or getattr(node.step, name) == default
        for name, default in _DEFAULTS.items()
    )


_DEFAULTS = {
    name: field.get_default(call_default_factory=True)
    for name, field in Step.model_fields.items()
    if not field.is_required()
}


_WORD = re.compile(r"[a-z0-9][-a-z0-9]*")


def _pinned(graph: Graph, spec: WorkflowSpec) -> set[str]:
    """Steps that onExit steps read, and whatever else in the plan may speak of by name."""
    rest = spec.model_dump_json(by_alias=True, exclude={"steps", "result"})
    found = {name for name in _WORD.findall(rest) if name in graph.nodes}
    return found.union(*(_read_by(graph.nodes[name]) for name in graph.exits))


def _read_by(node: Node) -> set[str]:
    """Steps whose outputs a step reads."""
    found = set(node.body.steps)
    for expression in (node.when, node.for_each):
        found |= expression.steps if expression else set()
    return found


def renamed_fields(step: Step, names: Mapping[str, str]) -> dict[str, Any]:
    """The fields of a step in which others are read, with their new names."""
    found: dict[str, Any] = {
        name: in_expression(text, names)
        for name in ("when", "for_each")
        if (text := getattr(step, name)) is not None
    }
    inner: Sequence[tuple[str, Sequence[str]]] = (
        ("agent", ("inputs",)),
        ("call", ("args",)),
        ("container", ("command", "args")),
    )
    for body, fields in inner:
        held = getattr(step, body)
        if held is not None:
            update = {name: in_template(getattr(held, name), names) for name in fields}
            found[body] = held.model_copy(update=update)
    return found
