"""The learnt policy: it decides only where it beat the rules in replay, and only where to germinate."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from seedbed.crds.errors import InvalidError
from seedbed.runtime.seeds import learnt
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.learnt import Exploring, Germination, Learnt, Recorder, Replay
from seedbed.runtime.seeds.policy import Limits
from seedbed.runtime.seeds.rules import Rules
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Core, Graft, Metric, SeedState
from seedbed.runtime.seeds.telemetry import LayerSpan, Telemetry
from tests.unit.test_seed_model import data, seeded

LAYERS = 5
LIMITS = Limits(patience=2, blueprints=("net",))


def layers(chance: torch.Generator) -> Tensor:
    found = torch.rand(LAYERS, learnt.FEATURES, generator=chance)
    found[:, 4] = 1.0
    found[:, 7] = torch.linspace(0, 1, LAYERS)
    return found


def records(count: int, helpful: int | None, noise: float = 0.005) -> list[Germination]:
    """Germinations in drawn layers; only the one at `helpful` brings something, whatever its need."""
    chance = torch.Generator().manual_seed(3)
    found = []
    for _ in range(count):
        known = layers(chance)
        layer = int(torch.randint(0, LAYERS, (1,), generator=chance))
        gain = 0.05 if layer == helpful else 0.0
        gain += noise * float(torch.randn(1, generator=chance))
        found.append(Germination(known, layer, 1 / LAYERS, gain))
    return found


@pytest.fixture(scope="module")
def fitted() -> tuple[learnt.LayerNetwork, Replay]:
    return learnt.fit(records(240, helpful=4))


def test_a_network_that_learnt_something_true_beats_the_rules(
    fitted: tuple[learnt.LayerNetwork, Replay],
) -> None:
    network, found = fitted
    assert found.better
    assert found.learnt == pytest.approx(0.05, abs=0.01)
    assert found.rules < 0.03
    assert found.records == 80
    policy = learnt.chosen(LIMITS, Features.all_on(), network, found)
    assert isinstance(policy, Learnt)


def test_where_nothing_is_to_be_learnt_the_rules_decide() -> None:
    network, found = learnt.fit(records(240, helpful=None))
    assert not found.better
    assert type(learnt.chosen(LIMITS, Features.all_on(), network, found)) is Rules


def test_few_records_no_network_or_the_flag_off_mean_the_rules(
    fitted: tuple[learnt.LayerNetwork, Replay],
) -> None:
    network, found = fitted
    few = Replay(0.5, 0.0, 0.4, learnt.LEAST_RECORDS - 1)
    assert not few.better
    for features, mine, replayed in (
        (Features(), network, found),
        (Features.all_on(), None, found),
        (Features.all_on(), network, None),
        (Features.all_on(), network, few),
    ):
        assert type(learnt.chosen(LIMITS, features, mine, replayed)) is Rules
    with pytest.raises(InvalidError):
        learnt.fit([])


def told(state: SeedState) -> Telemetry:
    """A plateau; the first layer is the neediest."""
    spans = tuple(LayerSpan(f"l{at}", at * 3, 3) for at in range(LAYERS))
    metrics = torch.zeros(len(state), len(Metric))
    metrics[:, Metric.VARIANCE] = torch.arange(len(state)).float() + 1
    return Telemetry(9, 0.1, (0.5,) * 6, metrics, spans)


def last_layer_first() -> learnt.LayerNetwork:
    """A network that expects more the nearer a layer is to the output."""
    network = learnt.LayerNetwork()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
        network.enter.weight[0, 7] = 1.0
        network.leave.weight[0, 0] = 0.1
        network.leave.bias.fill_(-0.05)
    return network


def test_the_network_says_where_and_the_rules_say_everything_else() -> None:
    network = last_layer_first()
    state = SeedState.dormant(3 * LAYERS)
    (by_rules,) = Rules(LIMITS).decide(told(state), state)
    (by_network,) = Learnt(LIMITS, network).decide(told(state), state)
    assert by_rules.layer == "l0"
    assert by_network.layer == "l4"
    assert by_network.slot == 0  # the neediest of that layer
    assert "expects a gain of 0.05" in by_network.reason
    state.core[:, Core.STAGE] = Stage.GRAFTING
    state.graft[:, Graft.ALPHA] = 0.5
    state.score(torch.ones(len(state), dtype=torch.bool), -0.2)
    assert Learnt(LIMITS, network).decide(told(state), state) == Rules(LIMITS).decide(
        told(state), state
    )


def test_a_network_that_expects_no_gain_lets_nothing_germinate() -> None:
    network = learnt.LayerNetwork()
    with torch.no_grad():
        network.leave.weight.zero_()
        network.leave.bias.fill_(-0.1)
    state = SeedState.dormant(3 * LAYERS)
    assert Learnt(LIMITS, network).decide(told(state), state) == []


def test_exploration_follows_its_own_propensity() -> None:
    state = SeedState.dormant(3 * LAYERS)
    drawn = [0] * LAYERS
    for chance in range(200):
        policy = Exploring(LIMITS, share=0.5, chance=chance)
        (decision,) = policy.decide(told(state), state)
        drawn[int(decision.layer[1])] += 1
    policy = Exploring(LIMITS, share=0.5)
    expected = [policy.propensity(told(state), state, layer) for layer in range(LAYERS)]
    assert sum(expected) == pytest.approx(1.0)
    for count, share in zip(drawn, expected, strict=True):
        assert count / 200 == pytest.approx(share, abs=0.1)


def test_what_came_of_a_germination_is_recorded() -> None:
    model, policy = seeded(), Exploring(Limits(patience=1, blueprints=("net",), max_active=2))
    recorder = Recorder(policy)
    for _ in range(25):
        found = model.train_epoch(data())
        before = model.state.to("cpu")
        model.apply(policy.decide(found, model.state))
        recorder.watch(found, before, model.state)
    assert recorder.records
    for one in recorder.records:
        assert one.layers.shape == (2, learnt.FEATURES)
        assert 0 < one.propensity <= 1
        assert one.gain >= 0
    _, found_replay = learnt.fit(recorder.records)
    assert not found_replay.better  # far too few to tell


def test_a_network_is_kept_with_its_replay(
    fitted: tuple[learnt.LayerNetwork, Replay], tmp_path: Path
) -> None:
    network, found = fitted
    learnt.save(network, found, tmp_path / "policy.safetensors")
    again, replayed = learnt.load(tmp_path / "policy.safetensors")
    known = layers(torch.Generator().manual_seed(1))
    assert torch.equal(again(known), network(known))
    assert replayed == found
    (tmp_path / "bad").write_bytes(b"\x80\x04")
    with pytest.raises(InvalidError):
        learnt.load(tmp_path / "bad")
