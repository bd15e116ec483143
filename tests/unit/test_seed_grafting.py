"""Blending: each strategy alone, all of them at once, and that only grafting seeds move."""

from __future__ import annotations

import pytest
import torch

from seedbed.runtime.seeds.grafting import GraftSettings, Strategy, step
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Core, Graft, Metric, SeedState


def grafting(*strategies: Strategy) -> SeedState:
    state = SeedState.dormant(len(strategies))
    state.core[:, Core.STAGE] = Stage.GRAFTING
    state.core[:, Core.STRATEGY] = torch.tensor(strategies, dtype=torch.int32)
    return state


def steps_to_the_end(state: SeedState, most: int = 1000) -> int:
    for done in range(1, most + 1):
        step(state)
        if bool((state.alpha >= 1.0).all()):
            return done
    return most


@pytest.mark.req("ESP-11")
def test_the_linear_ramp_takes_thirty_equal_steps() -> None:
    state = grafting(Strategy.LINEAR)
    for done in range(1, 30):
        step(state)
        assert float(state.alpha[0]) == pytest.approx(done / 30, abs=1e-5)
    step(state)
    assert float(state.alpha[0]) == 1.0


def test_the_drift_controlled_ramp_waits_ten_steps_above_the_threshold() -> None:
    state = grafting(Strategy.DRIFT)
    state.metrics[:, Metric.DRIFT] = 0.1201
    for _ in range(10):
        step(state)
    assert float(state.alpha[0]) == 0.0
    state.metrics[:, Metric.DRIFT] = 0.12
    assert steps_to_the_end(state) == 30


def test_momentum_builds_up() -> None:
    state = grafting(Strategy.MOMENTUM)
    added, last = [], 0.0
    for _ in range(20):
        step(state)
        added.append(float(state.alpha[0]) - last)
        last = float(state.alpha[0])
    assert added[0] == pytest.approx(0.1 / 30, rel=1e-3)
    assert added == sorted(added)
    assert added[-1] < 1 / 30


@pytest.mark.parametrize(("gain", "steps"), [(0.0, 30), (0.025, 20), (0.05, 15), (0.5, 15)])
def test_the_adaptive_ramp_follows_the_gain(gain: float, steps: int) -> None:
    state = grafting(Strategy.ADAPTIVE)
    state.score(torch.tensor([True]), gain)
    assert steps_to_the_end(state) == steps


def test_the_adaptive_ramp_stands_while_the_seed_harms() -> None:
    state = grafting(Strategy.ADAPTIVE)
    state.score(torch.tensor([True]), -0.001)
    assert steps_to_the_end(state, most=50) == 50
    assert float(state.alpha[0]) == 0.0


@pytest.mark.parametrize(("norm", "moves"), [(0.05, False), (0.1, True), (1.0, True), (1.5, False)])
def test_the_stability_ramp_is_gated_by_the_gradient(norm: float, moves: bool) -> None:
    state = grafting(Strategy.STABILITY)
    step(state)  # without an alpha there is no gradient to judge
    assert float(state.alpha[0]) == pytest.approx(1 / 30)
    state.graft[:, Graft.GRADIENT] = norm
    step(state)
    assert float(state.alpha[0]) == pytest.approx(2 / 30 if moves else 1 / 30)


def test_thousands_of_seeds_step_each_by_its_own_strategy() -> None:
    torch.manual_seed(3)
    many = SeedState.dormant(2000)
    many.core[:, Core.STAGE] = torch.randint(0, 11, (2000,), dtype=torch.int32)
    many.core[:, Core.STRATEGY] = torch.randint(0, 5, (2000,), dtype=torch.int32)
    many.core[:, Core.SCORE] = torch.randint(-50_000, 50_000, (2000,), dtype=torch.int32)
    many.metrics[:, Metric.DRIFT] = torch.rand(2000) / 4
    many.graft[:, Graft.GRADIENT] = torch.rand(2000) * 2
    many.graft[:, Graft.ALPHA] = torch.rand(2000)
    ones = []
    for seed in range(0, 2000, 40):
        core, metrics, graft, moves = (
            part[seed : seed + 1].clone() for part in many.tensors().values()
        )
        one = SeedState(core, metrics, graft, moves)
        step(one)
        ones.append(one.graft)
    before = many.graft.clone()
    step(many)
    assert torch.allclose(many.graft[::40], torch.cat(ones))
    others = many.stage != Stage.GRAFTING
    assert torch.equal(many.graft[others], before[others])


def test_the_ramp_may_be_of_another_length() -> None:
    state = grafting(Strategy.LINEAR)
    for _ in range(7):
        step(state, GraftSettings(ramp_steps=7))
    assert float(state.alpha[0]) == 1.0
