"""How a seed is blended in: the next alpha of every grafting seed, all strategies at once.

A step is one training step. All strategies aim at a ramp of `ramp_steps` and differ in what slows it:

- linear: nothing.
- drift: waits `pause_steps` whenever the seed's drift passes `drift_pause`.
- momentum: the rate builds up, `velocity += momentum * (1/ramp_steps - velocity)`.
- adaptive: up to twice the rate the more the seed brings, and none while it harms.
- stability: stands while the seed's gradient norm is outside of `gradient_low` to `gradient_high`.

Everything is element-wise over the seeds: no loop, no wait for the device.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import torch
from torch import Tensor

from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import SCORE_UNIT, Core, Graft, Metric, SeedState


class Strategy(IntEnum):
    """Ways of blending in. The numbers are part of the checkpoint's format."""

    LINEAR = 0
    DRIFT = 1
    MOMENTUM = 2
    ADAPTIVE = 3
    STABILITY = 4


@dataclass(frozen=True, slots=True)
class GraftSettings:
    """The parameters of the strategies.

    Attributes:
        ramp_steps: training steps from 0 to 1 where nothing slows the ramp.
        drift_pause: drift above which the drift-controlled ramp waits.
        pause_steps: how many steps it waits then.
        momentum: share of the way to the full rate that the rate makes each step.
        gain_scale: gain of accuracy at which the adaptive rate is doubled.
        gradient_low: least gradient norm that counts as stable.
        gradient_high: greatest one.
    """

    ramp_steps: int = 30
    drift_pause: float = 0.12
    pause_steps: int = 10
    momentum: float = 0.1
    gain_scale: float = 0.05
    gradient_low: float = 0.1
    gradient_high: float = 1.0


DEFAULTS = GraftSettings()


def step(state: SeedState, settings: GraftSettings = DEFAULTS) -> None:
    """Make one step of blending for every seed that is grafting; the others keep their alpha."""
    grafting = state.stage == Stage.GRAFTING
    rate, velocity, paused = _rates(state, settings)
    alpha = (state.alpha + rate).clamp(0.0, 1.0)
    # 30 times 1/30 is a little less than 1 in float32, and a graft must come to its end.
    alpha = torch.where(alpha > 1.0 - 1e-5, 1.0, alpha)
    for column, value in (
        (Graft.ALPHA, alpha),
        (Graft.VELOCITY, velocity),
        (Graft.PAUSED, paused),
    ):
        old = state.graft[:, column]
        state.graft[:, column] = torch.where(grafting, value, old)


def _rates(state: SeedState, settings: GraftSettings) -> tuple[Tensor, Tensor, Tensor]:
    """What each seed's own strategy adds to its alpha, its new velocity and its new pause."""
    strategy = state.core[:, Core.STRATEGY]
    full = 1.0 / settings.ramp_steps
    velocity = state.graft[:, Graft.VELOCITY]
    velocity = velocity + settings.momentum * (full - velocity)

    waiting = state.graft[:, Graft.PAUSED]
    drifting = (state.metrics[:, Metric.DRIFT] > settings.drift_pause) & (waiting <= 0)
    paused = torch.where(drifting, float(settings.pause_steps), waiting)
    by_drift = torch.where(paused > 0, 0.0, full)
    paused = (paused - 1).clamp(min=0.0)

    gain = state.core[:, Core.SCORE] * SCORE_UNIT
    eager = (1.0 + gain / settings.gain_scale).clamp(max=2.0)
    by_gain = full * torch.where(gain < 0, 0.0, eager)

    norm = state.graft[:, Graft.GRADIENT]
    stable = (norm >= settings.gradient_low) & (norm <= settings.gradient_high)
    stable |= state.alpha == 0  # without an alpha there is no gradient yet
    by_norm = torch.where(stable, full, 0.0)

    rate = torch.full_like(velocity, full)
    for kind, own in (
        (Strategy.DRIFT, by_drift),
        (Strategy.MOMENTUM, velocity),
        (Strategy.ADAPTIVE, by_gain),
        (Strategy.STABILITY, by_norm),
    ):
        rate = torch.where(strategy == kind, own, rate)
    return rate, velocity, paused
