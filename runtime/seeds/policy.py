"""What a policy is: it reads an epoch's telemetry, and says which seeds move, where to, and why.

A policy is a pure function. The same telemetry and the same state give the same decisions, and each
decision carries its rule and the figures that the rule read. The default one is in `rules`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import SeedState
from seedbed.runtime.seeds.telemetry import Telemetry


@dataclass(frozen=True, slots=True)
class Limits:
    """What the policy holds to.

    Attributes:
        patience: epochs without progress that make a plateau.
        delta: progress of accuracy that counts; also the least gain for which a seed is kept.
        accuracy_target: accuracy from which on nothing germinates.
        variance_weight: share of a chunk's low variance in its need.
        dead_weight: share of its dead units.
        correlation_weight: share of the correlation between its units.
        max_active: tries under way at once, over all layers.
        max_drop: loss of accuracy by a seed that takes it back.
        max_drift: drift of an acting seed that takes it back.
        max_failures: failed tries after which a slot is left alone.
        germination: epochs before a germinated seed learns.
        training: fewest epochs of training.
        longest_training: epochs of training after which a seed is culled that brings nothing, or whose
            drift did not settle.
        longest_grafting: epochs after which a graft that did not come to its end is taken back.
        stabilisation: epochs a fully blended seed stands still.
        evaluation: epochs over which it is judged.
        fine_tuning: epochs of learning before it becomes a fossil.
        embargo: epochs that a slot rests after a failed try.
        blueprints: names of what may be grown, in the order in which a slot tries them.
        strategy: how seeds are blended in, see `grafting.Strategy`.
    """

    patience: int = 5
    delta: float = 0.001
    accuracy_target: float = 0.95
    variance_weight: float = 0.6
    dead_weight: float = 0.3
    correlation_weight: float = 0.1
    max_active: int = 1
    max_drop: float = 0.05
    max_drift: float = 0.15
    max_failures: int = 3
    germination: int = 1
    training: int = 3
    longest_training: int = 10
    longest_grafting: int = 20
    stabilisation: int = 1
    evaluation: int = 1
    fine_tuning: int = 2
    embargo: int = 3
    blueprints: tuple[str, ...] = ("low-rank",)
    strategy: str = "linear"


@dataclass(frozen=True, slots=True)
class Decision:
    """One seed is to move.

    Attributes:
        epoch: the boundary at which this was decided.
        seed: its number over all layers.
        layer: its layer's name.
        slot: its number in the layer.
        source: the stage it is in.
        target: the stage it is to enter.
        rule: name of the rule, stable.
        reason: the rule in a sentence, with the figures.
        facts: the figures.
        blueprint: what to grow, at germination.
        strategy: how to blend it in, at germination.
    """

    epoch: int
    seed: int
    layer: str
    slot: int
    source: Stage
    target: Stage
    rule: str
    reason: str
    facts: Mapping[str, float] = field(default_factory=lambda: MappingProxyType({}))
    blueprint: str = ""
    strategy: str = ""

    def packed(self) -> dict[str, Any]:
        """As plain values, for another process."""
        return {name: getattr(self, name) for name in self.__slots__} | {"facts": dict(self.facts)}

    @classmethod
    def unpacked(cls, values: Mapping[str, Any]) -> Decision:
        """What `packed` gave."""
        moves = {name: Stage(values[name]) for name in ("source", "target")}
        return cls(**{**values, **moves})

    def record(self) -> dict[str, object]:
        """As plain values, for the decision log and the bus."""
        return {
            "epoch": self.epoch,
            "seed": self.seed,
            "layer": self.layer,
            "slot": self.slot,
            "from": self.source.label,
            "to": self.target.label,
            "rule": self.rule,
            "reason": self.reason,
            "facts": dict(self.facts),
            "blueprint": self.blueprint,
            "strategy": self.strategy,
        }


class Policy(Protocol):
    """Whoever decides about seeds."""

    def decide(self, telemetry: Telemetry, state: SeedState) -> list[Decision]:
        """What is to be done at this boundary of epochs; changes nothing."""
        ...
