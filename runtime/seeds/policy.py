"""The rule-based policy: reads an epoch's telemetry, and says which seeds move, where to, and why.

A policy is a pure function. The same telemetry and the same state give the same decisions, and each
decision carries its rule and the figures that the rule read. The rules are masks over all seeds; only
what is decided is looked at one by one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import SCORE_UNIT, Core, Metric, SeedState
from seedbed.runtime.seeds.telemetry import Telemetry, place


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


@dataclass(frozen=True, slots=True)
class _Rule:
    """A move of some seeds. Rules are asked in order; the first that holds for a seed decides."""

    name: str
    seeds: Tensor
    target: Stage
    sentence: str


@dataclass(frozen=True, slots=True)
class Rules:
    """The default policy."""

    limits: Limits = Limits()

    def decide(self, telemetry: Telemetry, state: SeedState) -> list[Decision]:
        """Move what is under way, then germinate where the need is greatest."""
        here = state if state.core.device.type == "cpu" else state.to("cpu")
        moved = torch.zeros(len(here), dtype=torch.bool)
        decisions: list[Decision] = []
        for rule in self._moves(telemetry, here):
            seeds = rule.seeds & ~moved
            moved |= seeds
            decisions += self._told(rule, seeds, telemetry, here)
        return decisions + self._germinations(telemetry, here, decisions)

    def _moves(self, telemetry: Telemetry, state: SeedState) -> Iterator[_Rule]:
        """The rules for what is not asleep, most urgent first."""
        limits = self.limits
        epochs, alpha = state.core[:, Core.EPOCHS], state.alpha
        gain = state.core[:, Core.SCORE] * SCORE_UNIT
        # Scores are whole millionths: half of one is the rounding.
        brings = gain >= limits.delta - SCORE_UNIT / 2
        drift = telemetry.metrics[:, Metric.DRIFT]
        broken = ~torch.isfinite(state.graft).all(dim=1)
        short = Stage.STABILISATION not in state.table[Stage.GRAFTING]

        training = state.at(Stage.TRAINING)
        grafting = state.at(Stage.GRAFTING)
        tuned = state.at(Stage.FINE_TUNING) & (epochs >= limits.fine_tuning)
        judged = state.at(Stage.EVALUATING) & (epochs >= limits.evaluation)
        still = state.at(Stage.STABILISATION) & (epochs >= limits.stabilisation)
        trial = state.members("acting") & ~state.at(Stage.FOSSILISED)
        ripe = training & (epochs >= limits.training)
        rested = (epochs >= limits.embargo) & (state.core[:, Core.FAILURES] < limits.max_failures)

        yield _Rule("broken", training & broken, Stage.CULLED, "its gradient is not finite")
        yield _Rule("broken", trial & broken, Stage.ROLLED_BACK, "its gradient is not finite")
        yield _Rule(
            "drop",
            trial & (gain < -limits.max_drop),
            Stage.ROLLED_BACK,
            "accuracy fell by {loss:.4f}, more than {max_drop}",
        )
        yield _Rule(
            "drift",
            trial & (drift > limits.max_drift),
            Stage.ROLLED_BACK,
            "drift {drift:.3f} is above {max_drift}",
        )
        yield _Rule(
            "sprouted",
            state.at(Stage.GERMINATED) & (epochs >= limits.germination),
            Stage.TRAINING,
            "germinated {epochs:.0f} epochs ago",
        )
        yield _Rule(
            "promising",
            ripe & brings & (drift <= limits.max_drift),
            Stage.GRAFTING,
            "trained for {epochs:.0f} epochs, would bring {gain:.4f}, drift {drift:.3f}",
        )
        yield _Rule(
            "barren",
            training & (epochs >= limits.longest_training),
            Stage.CULLED,
            "trained for {epochs:.0f} epochs, would bring {gain:.4f}, drift {drift:.3f}",
        )
        blended = grafting & (alpha >= 1.0)
        yield _Rule(
            "stuck",
            grafting & ~blended & (epochs >= limits.longest_grafting),
            Stage.ROLLED_BACK,
            "alpha is only {alpha:.2f} after {epochs:.0f} epochs",
        )
        if short:
            yield _Rule("kept", blended & brings, Stage.FOSSILISED, "blended in, brings {gain:.4f}")
            yield _Rule("useless", blended, Stage.ROLLED_BACK, "blended in, brings only {gain:.4f}")
        else:
            yield _Rule("blended", blended, Stage.STABILISATION, "fully blended in")
        yield _Rule(
            "stable",
            still,
            Stage.EVALUATING,
            "stood still for {epochs:.0f} epochs, drift {drift:.3f}",
        )
        yield _Rule("useful", judged & brings, Stage.FINE_TUNING, "brings {gain:.4f}")
        yield _Rule("useless", judged, Stage.CULLED, "brings only {gain:.4f}")
        yield _Rule("kept", tuned & brings, Stage.FOSSILISED, "fine-tuned, brings {gain:.4f}")
        yield _Rule("useless", tuned, Stage.CULLED, "fine-tuned, brings only {gain:.4f}")
        yield _Rule("free", state.at(Stage.CANCELLED), Stage.DORMANT, "its try was cancelled")
        yield _Rule(
            "rested",
            state.at(Stage.CULLED, Stage.ROLLED_BACK) & rested,
            Stage.DORMANT,
            "rested for {epochs:.0f} epochs after failure {failures:.0f}",
        )

    def _told(
        self, rule: _Rule, seeds: Tensor, telemetry: Telemetry, state: SeedState
    ) -> Iterator[Decision]:
        for seed in seeds.nonzero().flatten().tolist():
            facts = self._facts(seed, telemetry, state)
            layer, slot = place(telemetry.layers, seed)
            yield Decision(
                epoch=telemetry.epoch,
                seed=seed,
                layer=layer,
                slot=slot,
                source=Stage(int(state.stage[seed])),
                target=rule.target,
                rule=rule.name,
                reason=rule.sentence.format(**facts),
                facts=MappingProxyType(facts),
            )

    def _facts(self, seed: int, telemetry: Telemetry, state: SeedState) -> dict[str, float]:
        core = state.core[seed].tolist()
        gain = core[Core.SCORE] * SCORE_UNIT
        return {
            "epochs": float(core[Core.EPOCHS]),
            "failures": float(core[Core.FAILURES]),
            "gain": round(gain, 6),
            "loss": round(-gain, 6),
            "drift": float(telemetry.metrics[seed, Metric.DRIFT]),
            "alpha": float(state.alpha[seed]),
            "accuracy": telemetry.accuracy,
            "max_drop": self.limits.max_drop,
            "max_drift": self.limits.max_drift,
        }

    def _germinations(
        self, telemetry: Telemetry, state: SeedState, moves: list[Decision]
    ) -> list[Decision]:
        """New tries in the neediest sleeping slots, as many as are free, while progress stands still."""
        limits = self.limits
        why = plateau(telemetry, limits)
        left = {
            move.seed
            for move in moves
            if move.target in (Stage.FOSSILISED, Stage.CULLED, Stage.ROLLED_BACK)
        }
        active = int(state.members("active").sum()) - sum(
            1 for seed in left if bool(state.members("active")[seed])
        )
        free = limits.max_active - active
        if not why or free <= 0:
            return []
        wanted, sentence = self.wanted(telemetry, state)
        wanted = torch.where(state.at(Stage.DORMANT), wanted, -torch.inf)
        count = min(free, int(torch.isfinite(wanted).sum()))
        # A stable sort: of equals the first slot is chosen, on every machine.
        chosen = torch.sort(wanted, descending=True, stable=True).indices[:count].tolist()
        return [
            self._germination(seed, float(wanted[seed]), f"{why}; {sentence}", telemetry, state)
            for seed in chosen
        ]

    def wanted(self, telemetry: Telemetry, state: SeedState) -> tuple[Tensor, str]:
        """How much a seed is wanted in each slot, -inf for not at all; and what that figure is.

        A policy that chooses otherwise is a subclass with another answer here: it shares all rules by which
        seeds advance and are taken back.
        """
        del state
        return need(telemetry.metrics, self.limits), "need {score:.3f} is the greatest asleep"

    def _germination(
        self, seed: int, score: float, why: str, telemetry: Telemetry, state: SeedState
    ) -> Decision:
        limits = self.limits
        failures = int(state.core[seed, Core.FAILURES])
        layer, slot = place(telemetry.layers, seed)
        metrics = telemetry.metrics[seed].tolist()
        facts = {
            "need": score,
            "variance": metrics[Metric.VARIANCE],
            "dead": metrics[Metric.DEAD],
            "correlation": metrics[Metric.CORRELATION],
            "accuracy": telemetry.accuracy,
            "failures": float(failures),
        }
        return Decision(
            epoch=telemetry.epoch,
            seed=seed,
            layer=layer,
            slot=slot,
            source=Stage.DORMANT,
            target=Stage.GERMINATED,
            rule="germinate",
            reason=why.format(score=score),
            facts=MappingProxyType(facts),
            blueprint=limits.blueprints[failures % len(limits.blueprints)],
            strategy=limits.strategy,
        )


def plateau(telemetry: Telemetry, limits: Limits) -> str:
    """Why something should grow now, or nothing: progress stands still below the target."""
    found = telemetry.accuracies
    if telemetry.accuracy >= limits.accuracy_target or len(found) <= limits.patience:
        return ""
    before, lately = max(found[: -limits.patience]), max(found[-limits.patience :])
    if lately - before >= limits.delta:
        return ""
    return (
        f"accuracy {telemetry.accuracy:.4f} is below {limits.accuracy_target} and grew by less than "
        f"{limits.delta} in {limits.patience} epochs"
    )


def need(metrics: Tensor, limits: Limits) -> Tensor:
    """How much each slot needs a seed, 0 to 1: low variance, dead units and redundant ones call for it.

    Args:
        metrics: float32 (seeds x 4), see `state.Metric`. Variance counts relative to the greatest one; a
            slot that saw nothing (NaN) needs nothing.
        limits: the three weights.
    """
    clean = torch.nan_to_num(metrics, nan=0.0, posinf=0.0, neginf=0.0)
    variance = clean[:, Metric.VARIANCE]
    greatest = variance.max().clamp(min=1e-12) if variance.numel() else 1.0
    return (
        limits.variance_weight * (1.0 - variance / greatest)
        + limits.dead_weight * clean[:, Metric.DEAD]
        + limits.correlation_weight * clean[:, Metric.CORRELATION].abs()
    ).masked_fill(torch.isnan(metrics[:, Metric.VARIANCE]), 0.0)
