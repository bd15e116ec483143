"""The default policy, by rules: masks over all seeds; only what is decided is looked at one by one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from types import MappingProxyType

import torch
from torch import Tensor

from seedbed.runtime.seeds.policy import Decision, Limits
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import SCORE_UNIT, Core, Metric, SeedState
from seedbed.runtime.seeds.telemetry import Telemetry, place


@dataclass(frozen=True, slots=True)
class _Rule:
    """A move of some seeds. Rules are asked in order; the first that holds for a seed decides."""

    name: str
    seeds: Tensor
    target: Stage
    sentence: str


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the rules read, for all seeds at once.

    Attributes:
        epochs: since the seed entered its stage.
        gain: of accuracy, by the seed.
        brings: whether that is enough to keep it.
        drift: how far what it gives has moved.
    """

    limits: Limits
    state: SeedState
    epochs: Tensor
    gain: Tensor
    brings: Tensor
    drift: Tensor

    @classmethod
    def of(cls, telemetry: Telemetry, state: SeedState, limits: Limits) -> _Seen:
        gain = state.core[:, Core.SCORE] * SCORE_UNIT
        # Scores are whole millionths: half of one is the rounding.
        brings = gain >= limits.delta - SCORE_UNIT / 2
        drift = telemetry.metrics[:, Metric.DRIFT]
        return cls(limits, state, state.core[:, Core.EPOCHS], gain, brings, drift)


@dataclass(frozen=True, slots=True)
class Rules:
    """The default policy."""

    limits: Limits = field(default_factory=Limits)

    def decide(self, telemetry: Telemetry, state: SeedState) -> list[Decision]:
        """Move what is under way, then germinate where the need is greatest."""
        here = state if state.core.device.type == "cpu" else state.to("cpu")
        moved = torch.zeros(len(here), dtype=torch.bool)
        decisions: list[Decision] = []
        for rule in _moves(_Seen.of(telemetry, here, self.limits)):
            seeds = rule.seeds & ~moved
            moved |= seeds
            decisions += self._told(rule, seeds, telemetry, here)
        return decisions + self._germinations(telemetry, here, decisions)

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


def _moves(seen: _Seen) -> Iterator[_Rule]:
    """The rules for what is not asleep, most urgent first."""
    yield from _taken_back(seen)
    yield from _grown(seen)
    yield from _blended(seen)
    yield from _judged(seen)
    yield from _rested(seen)


def _taken_back(seen: _Seen) -> Iterator[_Rule]:
    """Seeds that do harm, whatever they are about to do."""
    limits, state = seen.limits, seen.state
    broken = ~torch.isfinite(state.graft).all(dim=1)
    trial = state.members("acting") & ~state.at(Stage.FOSSILISED)
    infinite = "its gradient is not finite"
    yield _Rule("broken", state.at(Stage.TRAINING) & broken, Stage.CULLED, infinite)
    yield _Rule("broken", trial & broken, Stage.ROLLED_BACK, infinite)
    yield _Rule(
        "drop",
        trial & (seen.gain < -limits.max_drop),
        Stage.ROLLED_BACK,
        "accuracy fell by {loss:.4f}, more than {max_drop}",
    )
    yield _Rule(
        "drift",
        trial & (seen.drift > limits.max_drift),
        Stage.ROLLED_BACK,
        "drift {drift:.3f} is above {max_drift}",
    )


def _grown(seen: _Seen) -> Iterator[_Rule]:
    """Seeds that have sprouted, and those that learn."""
    limits, state, epochs = seen.limits, seen.state, seen.epochs
    training = state.at(Stage.TRAINING)
    yield _Rule(
        "sprouted",
        state.at(Stage.GERMINATED) & (epochs >= limits.germination),
        Stage.TRAINING,
        "germinated {epochs:.0f} epochs ago",
    )
    yield _Rule(
        "promising",
        training & (epochs >= limits.training) & seen.brings & (seen.drift <= limits.max_drift),
        Stage.GRAFTING,
        "trained for {epochs:.0f} epochs, would bring {gain:.4f}, drift {drift:.3f}",
    )
    yield _Rule(
        "barren",
        training & (epochs >= limits.longest_training),
        Stage.CULLED,
        "trained for {epochs:.0f} epochs, would bring {gain:.4f}, drift {drift:.3f}",
    )


def _blended(seen: _Seen) -> Iterator[_Rule]:
    """Seeds on their way into the model, which is the last one where there are no further stages."""
    state = seen.state
    grafting = state.at(Stage.GRAFTING)
    blended = grafting & (state.alpha >= 1.0)
    yield _Rule(
        "stuck",
        grafting & ~blended & (seen.epochs >= seen.limits.longest_grafting),
        Stage.ROLLED_BACK,
        "alpha is only {alpha:.2f} after {epochs:.0f} epochs",
    )
    if Stage.STABILISATION in state.table[Stage.GRAFTING]:
        yield _Rule("blended", blended, Stage.STABILISATION, "fully blended in")
        return
    kept = blended & seen.brings
    yield _Rule("kept", kept, Stage.FOSSILISED, "blended in, brings {gain:.4f}")
    yield _Rule("useless", blended, Stage.ROLLED_BACK, "blended in, brings only {gain:.4f}")


def _judged(seen: _Seen) -> Iterator[_Rule]:
    """Seeds that act in full, until they stay or go."""
    limits, state, epochs, brings = seen.limits, seen.state, seen.epochs, seen.brings
    judged = state.at(Stage.EVALUATING) & (epochs >= limits.evaluation)
    tuned = state.at(Stage.FINE_TUNING) & (epochs >= limits.fine_tuning)
    yield _Rule(
        "stable",
        state.at(Stage.STABILISATION) & (epochs >= limits.stabilisation),
        Stage.EVALUATING,
        "stood still for {epochs:.0f} epochs, drift {drift:.3f}",
    )
    yield _Rule("useful", judged & brings, Stage.FINE_TUNING, "brings {gain:.4f}")
    yield _Rule("useless", judged, Stage.CULLED, "brings only {gain:.4f}")
    yield _Rule("kept", tuned & brings, Stage.FOSSILISED, "fine-tuned, brings {gain:.4f}")
    yield _Rule("useless", tuned, Stage.CULLED, "fine-tuned, brings only {gain:.4f}")


def _rested(seen: _Seen) -> Iterator[_Rule]:
    """Slots that may be tried again."""
    limits, state = seen.limits, seen.state
    may = (seen.epochs >= limits.embargo) & (state.core[:, Core.FAILURES] < limits.max_failures)
    yield _Rule("free", state.at(Stage.CANCELLED), Stage.DORMANT, "its try was cancelled")
    yield _Rule(
        "rested",
        state.at(Stage.CULLED, Stage.ROLLED_BACK) & may,
        Stage.DORMANT,
        "rested for {epochs:.0f} epochs after failure {failures:.0f}",
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
