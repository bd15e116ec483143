"""Whether a way leads to a step: joins over its needs, and gates that let it through. Pure.

A step to which no way leads is Skipped for good, it is "dead": a branch chose another arm, or all that
it needs is dead. A step that needs one step of each arm runs with what it gets.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from seedbed.crds.graph import Node
from seedbed.crds.graph_checks import FALLBACK

UNSETTLED: Mapping[str, Any] = {"output": None, "error": None, "state": "Pending"}
"""What expressions see of a step that has not ended; only a join lets them look so early."""


class AsLeft(Mapping[str, Mapping[str, Any]]):
    """What expressions see of steps of which some have not ended.

    Args:
        told: of those that have.
        names: of all.
    """

    def __init__(self, told: Mapping[str, Mapping[str, Any]], names: Collection[str]) -> None:
        self._told = told
        self._names = names

    def __getitem__(self, name: str) -> Mapping[str, Any]:
        if name not in self._names:
            raise KeyError(name)
        return self._told.get(name, UNSETTLED)

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@dataclass(slots=True)
class Join:
    """Counts the needs of a step that does not wait for all of them.

    Attributes:
        wanted: how many have to succeed yet.
        left: how many have not ended.
        gate: a need that does not count here, or empty.
    """

    wanted: int
    left: int
    gate: str
    decided: bool = False

    @classmethod
    def of(cls, node: Node) -> Join | None:
        """The join of a step before anything has ended; None where it waits for all."""
        if node.at_least is None:
            return None
        gate = node.gate.step if node.gate else ""
        return cls(node.at_least, len(node.needs) - (1 if gate else 0), gate)

    @property
    def impossible(self) -> bool:
        """Whether too few needs are left."""
        return self.left < self.wanted

    def take(self, need: str, state: str) -> bool:
        """A need has ended in this state; whether the step has one thing less to wait for."""
        if need == self.gate:
            return True
        self.left -= 1
        self.wanted -= state == "Succeeded"
        if self.decided or (self.wanted > 0 and not self.impossible):
            return False
        self.decided = True
        return True


def things_to_await(node: Node) -> int:
    """For how many things a step waits before it starts."""
    if node.at_least is None:
        return len(node.needs)
    return 2 if node.gate else 1


def barred(node: Node, told: Mapping[str, Mapping[str, Any]], dead: Mapping[str, str]) -> str:
    """Why no way leads to a step whose turn has come; empty where one does."""
    gate = node.gate
    if gate is not None and gate.arm == FALLBACK:
        # A step that has failed is not told of before its fallback has ended.
        return f"{gate.step} did not fail" if gate.step in told else ""
    if gate is not None and told[gate.step]["output"] != gate.arm:
        chosen = told[gate.step]["output"]
        return f"{gate.step} chose {chosen}" if chosen else f"{gate.step} chose nothing"
    if dead and node.needs and all(need in dead for need in node.needs):
        return "all that it needs was skipped"
    return ""
