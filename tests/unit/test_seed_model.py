"""A model with seeds: the host is called, nothing acts before its time, decisions are obeyed."""

from __future__ import annotations

import copy
import threading

import pytest
import torch
from torch import Tensor, nn

from seedbed.crds.errors import InvalidError
from seedbed.runtime.seeds.attach import AttachSpec, attach, matching
from seedbed.runtime.seeds.blueprints import Growth
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.layer import SeededLayer, View
from seedbed.runtime.seeds.model import SeededModel
from seedbed.runtime.seeds.policy import Decision, Limits
from seedbed.runtime.seeds.rules import Rules
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Core, Graft, Metric
from seedbed.runtime.seeds.training import Batch, Data, shuffled, whole

BLUEPRINTS = (
    Growth("thin", rank=2),
    Growth("net", kind="mlp", rank=4),
    Growth("norm", kind="norm"),
)


def host() -> nn.Sequential:
    torch.manual_seed(11)
    return nn.Sequential(
        nn.Linear(6, 21), nn.ReLU(), nn.Linear(21, 21), nn.ReLU(), nn.Linear(21, 3)
    )


def seeded(features: Features | None = None, seeds: int = 4) -> SeededModel:
    spec = AttachSpec(("0", "2"), seeds_per_layer=seeds, blueprints=BLUEPRINTS)
    return attach(host(), spec, features or Features.all_on())


def samples(count: int = 240) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    inputs = torch.randn(count, 6, generator=generator)
    return inputs, inputs[:, :3].argmax(dim=1)


def data() -> Data:
    inputs, target = samples()
    return Data(shuffled(inputs[:160], target[:160], 16), whole(inputs[160:], target[160:]))


def move(model: SeededModel, seed: int, *targets: Stage, blueprint: str = "net") -> None:
    """Lead a seed through these stages."""
    for target in targets:
        layer = next(s for s in model.spans if s.first <= seed < s.first + s.count)
        decision = Decision(
            model.epoch, seed, layer.name, seed - layer.first, Stage(int(model.state.stage[seed])),
            target, "test", "asked for", blueprint=blueprint, strategy="linear",
        )  # fmt: skip
        assert model.apply([decision]) == [decision]


def randomise(model: SeededModel, seed: int) -> None:
    """Weights that do something."""
    layer = model.layers[seed // model.spans[0].count]
    with torch.no_grad():
        layer.up[seed % layer.seeds].normal_(generator=torch.Generator().manual_seed(seed))


@pytest.mark.req("ESP-03")
def test_everything_off_is_the_plain_model() -> None:
    plain, model = host(), seeded(Features())
    x, _ = samples()
    assert not [each for each in model.module.modules() if isinstance(each, SeededLayer)]
    assert torch.equal(model.forward(x), plain(x))
    told = model.train_epoch(data())
    assert Rules().decide(told, model.state) == []
    assert Features() == Features(*[False] * 6)


def test_patterns_choose_layers_and_the_outermost_of_nested_ones() -> None:
    nested = nn.Sequential(host(), host())
    assert matching(nested, ("*.0", "1.2")) == ["0.0", "1.0", "1.2"]
    assert matching(nested, ("0", "0.2")) == ["0"]
    with pytest.raises(InvalidError) as error:
        attach(host(), AttachSpec(("0", "encoder.*")), Features.all_on())
    assert error.value.field == "layers[1]"


def test_the_host_is_frozen_and_always_called() -> None:
    model = seeded()
    calls: list[int] = []
    model.layers[0].host.register_forward_hook(lambda *_: calls.append(1))
    x, _ = samples()
    frozen = copy.deepcopy(model.layers[0].host.state_dict())
    move(model, 0, Stage.GERMINATED, Stage.TRAINING)
    randomise(model, 0)
    model.forward(x)
    assert calls == [1]
    move(model, 0, Stage.GRAFTING, Stage.STABILISATION)
    model.forward(x)
    assert calls == [1, 1]
    model.train_epoch(data())
    for name, before in frozen.items():
        assert torch.equal(model.layers[0].host.state_dict()[name], before)
    trainable = {name for name, p in model.module.named_parameters() if p.requires_grad}
    assert trainable == {"0.down", "0.up", "2.down", "2.up"}


def test_users_see_nothing_of_a_seed_in_training() -> None:
    model = seeded()
    x, _ = samples()
    before = model.forward(x)
    move(model, 5, Stage.GERMINATED, Stage.TRAINING)
    model.train_epoch(data())
    assert model.layers[1].up[1].any()
    assert torch.equal(model.forward(x), before)
    assert float(model.alphas[View.TRAINING, 5]) == 1.0


def test_a_fossil_keeps_acting_and_no_longer_learns() -> None:
    model = seeded()
    move(
        model, 2, Stage.GERMINATED, Stage.TRAINING, Stage.GRAFTING, Stage.STABILISATION,
        Stage.EVALUATING, Stage.FINE_TUNING, Stage.FOSSILISED,
    )  # fmt: skip
    randomise(model, 2)
    x, _ = samples()
    acted, weights = model.forward(x), model.layers[0].up.detach().clone()
    assert not torch.equal(acted, host()(x))
    move(model, 3, Stage.GERMINATED, Stage.TRAINING)
    model.train_epoch(data())
    assert torch.equal(model.layers[0].up[2], weights[2])
    assert torch.equal(model.forward(x), acted)


@pytest.mark.parametrize("end", [Stage.CULLED, Stage.CANCELLED, Stage.ROLLED_BACK])
def test_a_seed_that_ends_badly_leaves_no_trace(end: Stage) -> None:
    model = seeded()
    x, _ = samples()
    before = model.forward(x)
    paths = {
        Stage.CULLED: (Stage.TRAINING,),
        Stage.CANCELLED: (),
        Stage.ROLLED_BACK: (Stage.TRAINING, Stage.GRAFTING),
    }
    move(model, 1, Stage.GERMINATED, *paths[end])
    randomise(model, 1)
    if end is Stage.ROLLED_BACK:
        model.state.graft[1, Graft.ALPHA] = 0.5
        model.refresh()
        assert not torch.equal(model.forward(x), before)
    move(model, 1, end)
    assert torch.equal(model.forward(x), before)
    assert not any(layer.down.any() or layer.up.any() for layer in model.layers)
    move(model, 1, Stage.DORMANT)
    assert model.parameters()[1] == 0


def test_only_seeds_that_learn_change() -> None:
    model = seeded()
    for seed in (0, 1, 6):
        move(model, seed, Stage.GERMINATED)
    move(model, 0, Stage.TRAINING)
    move(model, 6, Stage.TRAINING, Stage.GRAFTING)
    randomise(model, 6)
    before = [layer.up.detach().clone() for layer in model.layers]
    model.train_epoch(data())
    changed = [
        (at, slot)
        for at, layer in enumerate(model.layers)
        for slot in range(4)
        if not torch.equal(layer.up[slot], before[at][slot])
    ]
    assert changed == [(0, 0)]
    assert float(model.state.alpha[6]) == pytest.approx(10 / 30, abs=1e-4)
    assert float(model.state.graft[6, Graft.GRADIENT]) > 0


def test_a_gradient_that_is_not_finite_changes_no_weights_and_ends_the_try() -> None:
    model = seeded()
    move(model, 0, Stage.GERMINATED, Stage.TRAINING)
    before = model.layers[0].down.detach().clone()
    inputs, target = samples(32)
    inputs[3, 0] = torch.nan
    poisoned = Data(lambda _: [Batch((inputs,), target)], whole(*samples(64)))
    told = model.train_epoch(poisoned)
    assert torch.equal(model.layers[0].down, before)
    (decision,) = Rules(Limits(blueprints=("net",))).decide(told, model.state)
    assert (decision.target, decision.rule) == (Stage.CULLED, "broken")


def test_a_wrong_decision_changes_nothing() -> None:
    model = seeded()
    core = model.state.core.clone()
    bad = Decision(0, 0, "0", 0, Stage.DORMANT, Stage.GERMINATED, "t", "t", blueprint="huge")
    with pytest.raises(InvalidError, match="huge"):
        model.apply([bad])
    skipping = Decision(0, 0, "0", 0, Stage.DORMANT, Stage.FOSSILISED, "t", "t")
    assert model.apply([skipping]) == []
    assert torch.equal(model.state.core, core)


def test_without_the_flag_every_graft_is_linear() -> None:
    asked = Decision(
        0, 0, "0", 0, Stage.DORMANT, Stage.GERMINATED, "t", "t", blueprint="thin", strategy="drift"
    )
    for on in (True, False):
        model = seeded(Features(chunked_architecture=True, grafting_strategies=on))
        model.apply([asked])
        assert int(model.state.core[0, Core.STRATEGY]) == int(on)


def test_each_row_may_name_its_seed() -> None:
    torch.manual_seed(2)
    spec = AttachSpec(("0",), seeds_per_layer=1024, routing="token", blueprints=BLUEPRINTS)
    model = attach(nn.Sequential(nn.Linear(6, 16)), spec, Features.all_on())
    for seed in (7, 900):
        move(model, seed, Stage.GERMINATED, Stage.TRAINING, Stage.GRAFTING, Stage.STABILISATION)
        with torch.no_grad():
            model.layers[0].up[seed].normal_(generator=torch.Generator().manual_seed(seed))
    x = torch.randn(4, 6)
    mixed = model.forward(x, route=torch.tensor([7, -1, 900, 12]))
    plain = model.forward(x)
    assert torch.equal(mixed[[1, 3]], plain[[1, 3]])
    for row, seed in ((0, 7), (2, 900)):
        alone = model.forward(x[row : row + 1], route=torch.tensor([seed]))
        assert torch.allclose(mixed[row], alone[0], atol=1e-6)
        assert not torch.allclose(mixed[row], plain[row])


def test_serving_goes_on_beside_training() -> None:
    """Each thread's passes go by their own alphas."""
    model = seeded()
    x, _ = samples()
    before = model.forward(x)
    move(model, 0, Stage.GERMINATED, Stage.TRAINING)
    ended, wrong = threading.Event(), []

    def serve() -> None:
        while not ended.is_set():
            wrong.extend([1] * (not torch.equal(model.forward(x), before)))

    server = threading.Thread(target=serve)
    server.start()
    try:
        for _ in range(3):
            model.train_epoch(data())
    finally:
        ended.set()
        server.join(timeout=30)
    assert not wrong


def test_telemetry_covers_every_seed_also_where_the_width_does_not_divide() -> None:
    model = seeded(seeds=4)  # 21 columns: 6, 5, 5, 5
    told = model.train_epoch(data())
    x = torch.cat([batch.inputs[0] for batch in data().held_out])
    first = torch.relu(model.layers[0].host(x))
    parts = torch.tensor_split(model.layers[0].host(x), 4, dim=1)
    expected = torch.stack([part.var(correction=0) for part in parts])
    assert torch.allclose(told.metrics[:4, Metric.VARIANCE], expected, rtol=1e-4)
    parts = torch.tensor_split(model.layers[1].host(first), 4, dim=1)
    expected = torch.stack([part.var(correction=0) for part in parts])
    assert torch.allclose(told.metrics[4:, Metric.VARIANCE], expected, rtol=1e-4)
    assert not torch.isnan(told.metrics).any()
    assert model.telemetry() is told


def test_the_same_number_gives_the_same_life() -> None:
    def lived() -> tuple[list[dict[str, object]], Tensor]:
        model, policy = (
            seeded(),
            Rules(Limits(blueprints=("net",), patience=1, max_active=2, training=6)),
        )
        log = []
        for _ in range(18):
            log += [
                d.record()
                for d in model.apply(policy.decide(model.train_epoch(data()), model.state))
            ]
        return log, model.layers[1].up.detach()

    (first, weights), (second, again) = lived(), lived()
    assert first == second
    assert {"Germinated", "Training", "Grafting"} <= {decision["to"] for decision in first}
    assert torch.equal(weights, again)
