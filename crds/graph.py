"""The graph of a Workflow: its steps, what each needs, and its expressions, compiled.

It is made by `graph_builder`: the admission webhook has it made to refuse what cannot run, the engine to
run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from seedbed.crds.expressions import Expression
from seedbed.crds.graph_checks import FALLBACK, Gate
from seedbed.crds.ordering import generations
from seedbed.crds.step import Step
from seedbed.crds.templates import Template


@dataclass(frozen=True, slots=True)
class Node:
    """One step in the graph.

    Attributes:
        position: its place in `spec.steps`, from 0.
        needs: steps that end first: those the user names, then those its expressions read.
        body: template of what the step is given: the Agent's inputs, the call's arguments, or
            `{"command": [...], "args": [...]}` of the container.
        at_least: how many of the needs have to succeed before it starts; None where all have to end.
        gate: what has to let the step through, beside its needs; its step is one of the needs.
        choice: the condition of a branch.
        until: the time that a wait ends, or the condition that a loop ends on.
        undo: what compensates the step, where it can be undone; no step of the graph.
        early: whether it may start before its gate has decided.
        by_engine: whether the engine carries the step out itself, without a worker.
        turns: whether it may have to run again after it has gone well.
        follows: the step whose items its own start with as they come; empty where it waits for all.
    """

    step: Step
    position: int
    needs: tuple[str, ...]
    when: Expression | None
    for_each: Expression | None
    body: Template
    at_least: int | None = None
    gate: Gate | None = None
    choice: Expression | None = None
    until: Expression | None = None
    undo: Node | None = None
    by_engine: bool = False
    early: bool = False
    turns: bool = False
    follows: str = ""

    @property
    def name(self) -> str:
        """The step's name."""
        return self.step.name

    @property
    def undoes_each(self) -> bool:
        """Whether each of its iterations can be undone."""
        return self.undo is not None and self.step.repeat is not None

    @property
    def reads(self) -> frozenset[str]:
        """Names of the variables that what it is given is made from."""
        return frozenset().union(*(part.variables for part in self.body.expressions))

    @property
    def flags(self) -> frozenset[str]:
        """Names of the flags its expressions ask for."""
        found = set(self.body.flags)
        for expression in (self.when, self.for_each, self.choice, self.until):
            found |= expression.flags if expression else set()
        return frozenset(found | self.undo.flags) if self.undo else frozenset(found)


@dataclass(frozen=True)
class Graph:
    """A Workflow's steps by name, in the order of the spec, without cycles.

    Attributes:
        dependents: for each step the steps that need it, in the order of the spec.
        result: the expression of the run's result, where the Workflow has one.
        exits: the steps that run once the outcome is known; no other needs one of them.
    """

    nodes: Mapping[str, Node]
    dependents: Mapping[str, tuple[str, ...]]
    result: Expression | None
    exits: tuple[str, ...] = ()

    @cached_property
    def levels(self) -> tuple[tuple[str, ...], ...]:
        """Generations: every step stands in the first level after all that it needs."""
        needs = {name: node.needs for name, node in self.nodes.items()}
        return tuple(generations(needs, self.dependents))

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """Steps that need nothing, but those of onExit."""
        last = frozenset(self.exits)
        return tuple(
            name for name, node in self.nodes.items() if not node.needs and name not in last
        )

    @cached_property
    def early(self) -> tuple[str, ...]:
        """Steps that may start before their gate has decided."""
        return tuple(name for name, node in self.nodes.items() if node.early)

    @cached_property
    def raced(self) -> frozenset[str]:
        """Steps whose stragglers are started a second time."""
        return frozenset(
            name for name, node in self.nodes.items() if node.step.stragglers is not None
        )

    @cached_property
    def followed(self) -> Mapping[str, tuple[str, ...]]:
        """Steps whose items others start with as they come, and those others."""
        found: dict[str, tuple[str, ...]] = {}
        for name, node in self.nodes.items():
            if node.follows:
                found[node.follows] = (*found.get(node.follows, ()), name)
        return found

    @cached_property
    def least_priority(self) -> int:
        """The lowest priority that a step has."""
        return min(node.step.priority for node in self.nodes.values())

    @cached_property
    def exit_roots(self) -> tuple[str, ...]:
        """Steps of onExit that need no other."""
        return tuple(name for name in self.exits if not self.nodes[name].needs)

    @cached_property
    def leaves(self) -> tuple[str, ...]:
        """Steps that no other step needs; a fallback stands for the step that it replaces."""
        return tuple(name for name in self.nodes if self._is_last(name))

    def _is_last(self, name: str) -> bool:
        if name in self.exits or self._fallback_of(name):
            return False
        return all(self._fallback_of(behind) == name for behind in self.dependents[name])

    def _fallback_of(self, name: str) -> str:
        gate = self.nodes[name].gate
        return gate.step if gate is not None and gate.arm == FALLBACK else ""

    @cached_property
    def flags(self) -> frozenset[str]:
        """Names of all flags that the Workflow's expressions ask for."""
        found = frozenset().union(*(node.flags for node in self.nodes.values()))
        return found | (self.result.flags if self.result else frozenset())
