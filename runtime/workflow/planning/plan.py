"""The graph of a Workflow as numbers: what analysis, schedule, optimiser and pictures work on.

Steps stand under their position, from 0. Building takes time linear in steps plus edges; the order and
the check for cycles come from rustworkx.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import rustworkx

from seedbed.crds.errors import InvalidError
from seedbed.crds.graph import Graph


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps and what each needs.

    Attributes:
        names: by position.
        needs: positions of the steps that each one waits for, each named once.
        dependents: the other way round.
        order: all positions, every step after those it needs.
    """

    names: tuple[str, ...]
    needs: tuple[tuple[int, ...], ...]
    dependents: tuple[tuple[int, ...], ...]
    order: tuple[int, ...]

    @classmethod
    def of(cls, graph: Graph, *, exits_last: bool = True) -> Plan:
        """The plan of a compiled Workflow.

        Args:
            graph: the Workflow.
            exits_last: whether its onExit steps wait for the last ones of all others, as they do.
        """
        at = {name: place for place, name in enumerate(graph.nodes)}
        needs = [[at[need] for need in node.needs] for node in graph.nodes.values()]
        if exits_last and graph.exits:
            exits = frozenset(graph.exits)
            last = [
                at[name]
                for name, found in graph.dependents.items()
                if not found and name not in exits
            ]
            for name in graph.exit_roots:
                needs[at[name]] = last
        return cls.build(tuple(graph.nodes), needs)

    @classmethod
    def build(cls, names: Sequence[str], needs: Sequence[Sequence[int]]) -> Plan:
        """A plan from plain lists.

        Raises:
            InvalidError: where steps wait for each other.
        """
        dependents: list[list[int]] = [[] for _ in names]
        for step, of_step in enumerate(needs):
            for need in of_step:
                dependents[need].append(step)
        try:
            order = rustworkx.topological_sort(digraph(needs))
        except rustworkx.DAGHasCycle as error:
            raise InvalidError("spec.steps", "steps wait for each other") from error
        return cls(
            tuple(names), tuple(map(tuple, needs)), tuple(map(tuple, dependents)), tuple(order)
        )

    @property
    def edges(self) -> int:
        """How many needs there are in all."""
        return sum(map(len, self.needs))

    def levels(self) -> list[int]:
        """For each step one more than the highest level of those it needs, from 0."""
        found = [0] * len(self.names)
        for step in self.order:
            found[step] = max((found[need] + 1 for need in self.needs[step]), default=0)
        return found


def digraph(needs: Sequence[Sequence[int]]) -> rustworkx.PyDiGraph[int | None, None]:
    """Needs as edges of rustworkx, from the step that is needed to the one that needs it."""
    found: rustworkx.PyDiGraph[int | None, None] = rustworkx.PyDiGraph()
    found.add_nodes_from(range(len(needs)))
    found.extend_from_edge_list(
        [(need, step) for step, of_step in enumerate(needs) for need in of_step]
    )
    return found
