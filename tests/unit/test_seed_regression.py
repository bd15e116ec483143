"""The present layer, controller and lifecycle against the documented ones of before."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import fields

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from seedbed.runtime import seeds
from seedbed.runtime.seeds.attach import AttachSpec, attach
from seedbed.runtime.seeds.blueprints import Growth
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.model import SeededModel
from seedbed.runtime.seeds.policy import Limits
from seedbed.runtime.seeds.rules import Rules
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Core, Graft, Metric, SeedState
from seedbed.runtime.seeds.telemetry import LayerSpan, Telemetry
from tests.legacy_seeds import (
    LegacyLayer,
    LegacySignal,
    LegacyState,
    legacy_germinations,
    legacy_rolls_back,
)

GIVEN, MADE = 6, 5
STATES = {
    LegacyState.DORMANT: {Stage.DORMANT, Stage.CANCELLED},
    LegacyState.LOADING: {Stage.GERMINATED, Stage.TRAINING},
    LegacyState.ACTIVE: {
        Stage.GRAFTING, Stage.STABILISATION, Stage.EVALUATING, Stage.FINE_TUNING,
    },
    LegacyState.ERROR_RECOVERY: {Stage.CULLED, Stage.ROLLED_BACK},
    LegacyState.FOSSILIZED: {Stage.FOSSILISED},
}  # fmt: skip
"""Which stages an old state stands for."""


def legacy_state(state: SeedState, seed: int) -> LegacyState:
    stage = Stage(int(state.stage[seed]))
    return next(old for old, new in STATES.items() if stage in new)


def pair() -> tuple[LegacyLayer, SeededModel]:
    """The old layer and the new one over the same host."""
    torch.manual_seed(5)
    host = nn.Linear(GIVEN, MADE)
    model = attach(
        nn.Sequential(host),
        AttachSpec(
            layers=("0",),
            seeds_per_layer=4,
            routing="token",
            reads="input",
            blueprints=(Growth("kernel", rank=MADE),),
        ),
        Features.all_on(),
    )
    return LegacyLayer(host), model


def load(model: SeededModel, slot: int, kernel: Tensor, alpha: float) -> None:
    """The same kernel as a seed: alpha (kernel x - y) added to y is the old mixture.

    A seed that reads the input has input and output side by side, so it can take the output away.
    """
    state, layer = model.state, model.layers[0]
    for target in (Stage.GERMINATED, Stage.TRAINING, Stage.GRAFTING):
        targets = torch.full((4,), -1)
        targets[slot] = target
        assert bool(state.move(targets, 1)[slot])
    state.core[slot, Core.BLUEPRINT] = 1
    state.graft[slot, Graft.ALPHA] = alpha
    with torch.no_grad():
        layer.down[slot] = torch.cat((kernel, -torch.eye(MADE)), dim=1)
        layer.up[slot] = functional.pad(torch.eye(MADE), (GIVEN, 0))
    model.refresh()


def same(old: Tensor, new: Tensor) -> None:
    assert new.shape == old.shape
    assert float(functional.cosine_similarity(old.flatten(), new.flatten(), dim=0)) > 0.99
    assert torch.allclose(old, new, atol=1e-5)


@pytest.mark.req("ESP-01", "ESP-03")
def test_the_package_tells_its_version_and_its_features() -> None:
    assert re.fullmatch(r"\d+\.\d+", seeds.VERSION)
    assert [field.name for field in fields(seeds.Features)] == [
        "chunked_architecture", "triton_kernels", "extended_lifecycle", "message_bus",
        "neural_controller", "grafting_strategies",
    ]  # fmt: skip
    assert not any(getattr(seeds.Features(), field.name) for field in fields(seeds.Features))


@pytest.mark.req("ESP-01", "ESP-09")
@pytest.mark.parametrize("confidence", [0.0, 0.2, 0.5, 0.83, 1.0])
def test_the_layer_answers_as_the_old_one_and_is_in_the_same_state(confidence: float) -> None:
    old, new = pair()
    x, kernel = torch.randn(32, GIVEN), torch.randn(MADE, GIVEN)
    routes = torch.full((32,), 2)
    same(old.forward(x).detach(), new.forward(x, route=routes))
    old.load_kernel(2, kernel, confidence)
    load(new, 2, kernel, min(0.6 * confidence, 0.5))
    same(old.forward(x).detach(), new.forward(x, route=routes))
    assert [seed.state for seed in old.seeds] == [legacy_state(new.state, s) for s in range(4)]


Act = Callable[[LegacyLayer, SeededModel], None]


def _advance(model: SeededModel, *stages: Stage) -> None:
    for stage in stages:
        targets = torch.full((4,), -1)
        targets[1] = stage
        assert bool(model.state.move(targets, 2)[1])
    model.refresh()


def _fossil(old: LegacyLayer, new: SeededModel) -> None:
    old.set_seed_alpha(1, 1.0)
    old.fossilize(1)
    _advance(new, Stage.STABILISATION, Stage.EVALUATING, Stage.FINE_TUNING, Stage.FOSSILISED)


def _errors(old: LegacyLayer, new: SeededModel) -> None:
    for _ in range(3):
        old.fail(1)
    _advance(new, Stage.ROLLED_BACK)


def _unload(old: LegacyLayer, new: SeededModel) -> None:
    old.unload_kernel(1)
    _advance(new, Stage.ROLLED_BACK, Stage.DORMANT)


@pytest.mark.req("ESP-09", "ESP-11")
@pytest.mark.parametrize("act", [_fossil, _errors, _unload])
def test_events_lead_to_the_same_state_and_answer(act: Act) -> None:
    old, new = pair()
    x, kernel = torch.randn(32, GIVEN), torch.randn(MADE, GIVEN)
    old.load_kernel(1, kernel, 1.0)
    load(new, 1, kernel, 0.5)
    act(old, new)
    same(old.forward(x).detach(), new.forward(x, route=torch.full((32,), 1)))
    assert [seed.state for seed in old.seeds] == [legacy_state(new.state, s) for s in range(4)]


SIGNALS = st.lists(
    st.tuples(
        st.booleans(),
        st.floats(0.0625, 4.0, width=32),
        st.floats(0.0, 1.0, width=32),
        st.floats(-1.0, 1.0, width=32),
    ),
    min_size=2,
    max_size=24,
)
ACCURACIES = st.lists(st.sampled_from([0.5, 0.5004, 0.501, 0.7, 0.9, 0.96]), max_size=12)


@pytest.mark.req("ESP-10")
@given(SIGNALS, ACCURACIES, st.booleans())
@settings(max_examples=150)
def test_the_same_signals_give_the_same_germinations(
    signals: list[tuple[bool, float, float, float]], accuracies: list[float], busy: bool
) -> None:
    half = len(signals) // 2
    layers = (LayerSpan("low", 0, half), LayerSpan("high", half, len(signals) - half))
    old = [
        LegacySignal(
            "low" if seed < half else "high", seed if seed < half else seed - half, *signal
        )
        for seed, signal in enumerate(signals)
    ]
    state = SeedState.dormant(len(signals))
    metrics = torch.zeros(len(signals), len(Metric))
    for seed, (asleep, variance, dead, correlation) in enumerate(signals):
        metrics[seed, :3] = torch.tensor([variance, dead, correlation])
        state.core[seed, Core.STAGE] = Stage.DORMANT if asleep else Stage.FOSSILISED
    if busy:
        state.core[0, Core.STAGE] = Stage.GERMINATED
        old[0] = LegacySignal("low", 0, False, *signals[0][1:])
    told = Telemetry(9, 0.0, tuple(accuracies), metrics, layers)
    found = Rules().decide(told, state)
    germinated = [(d.layer, d.slot) for d in found if d.target is Stage.GERMINATED]
    expected = legacy_germinations(old, accuracies, active=int(busy))
    assert len(germinated) == len(expected)
    if germinated != expected:  # two slots may need a seed equally, but for rounding
        names = {(one.layer, one.slot): at for at, one in enumerate(old)}
        needs = [
            0.6 * (1 - one.variance / max(each.variance for each in old))
            + 0.3 * one.dead
            + 0.1 * abs(one.correlation)
            for one in old
        ]
        assert needs[names[germinated[0]]] == pytest.approx(needs[names[expected[0]]], abs=2e-6)
    assert found == Rules().decide(told, state)


@pytest.mark.req("ESP-10")
@pytest.mark.parametrize("drop", [0.0, 0.03, 0.0499, 0.0501, 0.2])
@pytest.mark.parametrize("stage", [Stage.GRAFTING, Stage.STABILISATION, Stage.EVALUATING])
def test_the_same_drop_is_rolled_back(drop: float, stage: Stage) -> None:
    state = SeedState.dormant(1)
    state.core[0, Core.STAGE] = stage
    state.score(torch.tensor([True]), -drop)
    told = Telemetry(3, 0.0, (0.8 - drop,), torch.zeros(1, 4), (LayerSpan("only", 0, 1),))
    found = Rules(Limits(evaluation=2)).decide(told, state)
    rolled_back = [d for d in found if d.target is Stage.ROLLED_BACK]
    assert bool(rolled_back) == legacy_rolls_back(0.8, 0.8 - drop)
