"""What is documented of the seed layer before this one, in plain Python: the measure of compatibility.

Five states, four slots, one float at a time. It stands beside the present package and shares no code with
it but torch. A kernel is a matrix here; the original's were compiled artefacts with a confidence.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import torch
from torch import Tensor, nn

ERRORS_ALLOWED = 3
HEALTH_FACTOR = 0.1


class LegacyState(IntEnum):
    DORMANT = 0
    LOADING = 1
    ACTIVE = 2
    ERROR_RECOVERY = 3
    FOSSILIZED = 4


@dataclass
class LegacySeed:
    state: LegacyState = LegacyState.DORMANT
    kernel: Tensor | None = None
    alpha: float = 0.0
    errors: int = 0
    health: float = 1.0


@dataclass
class LegacyLayer:
    """One layer: output = (1 - a) default + a kernel, a the sum of active alphas, at most 1."""

    default: nn.Module
    count: int = 4
    seeds: list[LegacySeed] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.seeds = [LegacySeed() for _ in range(self.count)]

    def load_kernel(self, slot: int, kernel: Tensor, confidence: float) -> None:
        seed = self.seeds[slot]
        seed.state = LegacyState.LOADING
        seed.kernel, seed.alpha = kernel, min(0.6 * confidence, 0.5)
        seed.state = LegacyState.ACTIVE

    def unload_kernel(self, slot: int) -> None:
        self.seeds[slot] = LegacySeed()

    def set_seed_alpha(self, slot: int, alpha: float) -> None:
        self.seeds[slot].alpha = alpha

    def fossilize(self, slot: int) -> None:
        self.seeds[slot].state = LegacyState.FOSSILIZED

    def fail(self, slot: int) -> None:
        seed = self.seeds[slot]
        seed.errors += 1
        seed.health = (1 - HEALTH_FACTOR) * seed.health
        if seed.errors >= ERRORS_ALLOWED:
            seed.state = LegacyState.ERROR_RECOVERY

    def forward(self, x: Tensor) -> Tensor:
        plain: Tensor = self.default(x)
        acting = [
            seed
            for seed in self.seeds
            if seed.state in (LegacyState.ACTIVE, LegacyState.FOSSILIZED) and seed.alpha > 0
        ]
        if not acting:
            return plain
        weights = sum(seed.alpha for seed in acting)
        mixed = torch.zeros_like(plain)
        for seed in acting:
            assert seed.kernel is not None
            mixed += seed.alpha / weights * (x @ seed.kernel.T)
        share = min(weights, 1.0)
        return (1 - share) * plain + share * mixed


@dataclass(frozen=True)
class LegacySignal:
    """A seed's health at the end of an epoch."""

    layer: str
    slot: int
    asleep: bool
    variance: float
    dead: float
    correlation: float


def legacy_germinations(
    signals: list[LegacySignal], accuracies: list[float], active: int
) -> list[tuple[str, int]]:
    """Where the old controller germinated: on a plateau below the target, in the neediest slot."""
    patience, delta, target, most = 5, 0.001, 0.95, 1
    if active >= most or len(accuracies) <= patience or accuracies[-1] >= target:
        return []
    best = 0.0
    for value in accuracies[:-patience]:
        best = max(best, value)
    for value in accuracies[-patience:]:
        if value >= best + delta:
            return []
    greatest = max(signal.variance for signal in signals)
    neediest, score = None, float("-inf")
    for signal in signals:
        need = (
            0.6 * (1 - signal.variance / greatest)
            + 0.3 * signal.dead
            + 0.1 * abs(signal.correlation)
        )
        if signal.asleep and need > score + 1e-6:
            neediest, score = signal, need
    return [] if neediest is None else [(neediest.layer, neediest.slot)]


def legacy_rolls_back(before: float, now: float) -> bool:
    """Whether the old controller took a seed back: a drop of more than 5 points."""
    return before - now > 0.05
