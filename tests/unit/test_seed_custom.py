"""Blueprints of users: any module of rows, in both routings, through the whole life of a seed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from seedbed.runtime.seeds import export
from seedbed.runtime.seeds.attach import AttachSpec, attach
from seedbed.runtime.seeds.blueprints import Growth
from seedbed.runtime.seeds.custom import BlueprintError, Custom, Form
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.layer import Pass, Reads, Routing, SeededLayer, View
from seedbed.runtime.seeds.model import SeededModel
from seedbed.runtime.seeds.policy import Decision
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Metric
from seedbed.runtime.seeds.training import Batch, Data

HERE = "tests.unit.test_seed_custom"
SEEDS = 4
WAY = (Stage.GERMINATED, Stage.TRAINING, Stage.GRAFTING, Stage.STABILISATION, Stage.EVALUATING)
OUT = (Stage.FINE_TUNING, Stage.FOSSILISED)


class Gated(nn.Module):
    """What a small network makes, let through by a gate; nothing at birth."""

    def __init__(self, given: int, made: int, hidden: int = 3) -> None:
        super().__init__()
        self.gate = nn.Linear(given, made)
        self.inner = nn.Linear(given, hidden)
        self.outer = nn.Parameter(torch.zeros(hidden, made))

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.gate(x)) * (torch.tanh(self.inner(x)) @ self.outer)


class Normalised(nn.Module):
    """Keeps a buffer."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(given)
        self.made = made


class Mixing(nn.Module):
    """Looks at other rows."""

    def __init__(self, given: int, _: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(given))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale - x.mean(0)


class Narrow(nn.Linear):
    """One column too few."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__(given, made - 1)


class Deciding(nn.Linear):
    """Asks for a number, which vmap cannot give."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) if float(x.sum()) > 0 else x


def none(_: int, __: int) -> int:
    return 3


def failing(given: int, made: int) -> nn.Module:
    raise ValueError(f"no {given} to {made}")


def seeded(routing: Routing = "chunk", own: str = "Gated", seeds: int = SEEDS) -> SeededModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        host = nn.Sequential(nn.Linear(6, 18), nn.Tanh(), nn.Linear(18, 3))
    reads: Reads = "input" if routing == "token" else "output"
    blueprints = (Growth("thin", rank=2), Custom("own", f"{HERE}:{own}"))
    return attach(host, AttachSpec(("0",), seeds, routing, reads, blueprints), Features.all_on())


def lead(model: SeededModel, seed: int, *way: Stage, blueprint: str = "own") -> None:
    for target in way:
        source = Stage(int(model.state.stage[seed]))
        move = Decision(0, seed, "0", seed, source, target, "t", "t", {}, blueprint, "linear")
        assert model.apply([move])


def rows(count: int = 40) -> tuple[Tensor, Tensor]:
    dice = torch.Generator().manual_seed(5)
    return torch.randn(count, 6, generator=dice), torch.randint(-1, SEEDS, (count,), generator=dice)


def mine(model: SeededModel, seed: int) -> Gated:
    """The seed's module, with its parameters."""
    layer = model.layers[0]
    pair = layer.pair(seed)
    growth = model.blueprints[1]
    assert isinstance(growth, Custom)
    form = growth.form(pair)
    slabs = layer.down.detach()[seed : seed + 1], layer.up.detach()[seed : seed + 1]
    module = Gated(*pair)
    module.load_state_dict({name: each[0] for name, each in form.unpacked(*slabs).items()})
    return module


@torch.no_grad()
def louder(model: SeededModel) -> None:
    """Parameters of the users' seeds that do something."""
    layer = model.layers[0]
    dice = torch.Generator().manual_seed(8)
    for slab in (layer.down, layer.up):
        values = torch.randn(slab.shape, generator=dice) / 2
        slab.copy_(torch.where((layer.blueprint == 4)[:, None, None], values, slab))


@pytest.mark.req("ESP-18")
@pytest.mark.parametrize("routing", ["chunk", "token"])
def test_each_seed_adds_what_its_own_module_makes(routing: Routing) -> None:
    """18 columns for 4 seeds: two chunks are wider than the others."""
    model = seeded(routing)
    for seed in (0, 1, 3):
        lead(model, seed, *WAY)
    louder(model)
    model.state.alpha[1] = 0.25
    model.refresh()
    x, route = rows()
    layer = model.layers[0]
    host = layer.host(x).detach()
    with torch.inference_mode(), model.passing(Pass(View.SERVING, route)):
        found = layer(x)
    expected = host.clone()
    cut = torch.tensor_split(torch.arange(18), SEEDS)
    for seed in (0, 1, 3):
        alpha, module = float(model.state.alpha[seed]), mine(model, seed)
        with torch.no_grad():
            if routing == "chunk":
                expected[:, cut[seed]] += alpha * module(host[:, cut[seed]])
            else:
                here = route == seed
                expected[here] += alpha * module(x[here])
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, host, atol=1e-2)


@pytest.mark.parametrize("routing", ["chunk", "token"])
def test_it_learns_is_kept_and_leaves_no_trace(routing: Routing, tmp_path: Path) -> None:
    model = seeded(routing)
    x, route = rows()
    target = x[:, :3].argmax(dim=1)
    plain = model.forward(x, route=route).clone()
    lead(model, 0, *WAY[:2])
    lead(model, 2, *WAY[:2])
    lead(model, 3, *WAY[:2], blueprint="thin")
    batch = Batch((x,), target, route)
    data = Data(lambda _: (batch,) * 5, (batch,), rate=0.05)
    born = mine(model, 0).state_dict()
    losses = [model.train_epoch(data).loss for _ in range(3)]
    assert losses[-1] < losses[0]
    grown = mine(model, 0).state_dict()
    assert not torch.equal(grown["outer"], born["outer"])
    assert not torch.equal(grown["gate.weight"], born["gate.weight"])
    assert float(model.state.metrics[0, Metric.DRIFT]) > 0, "its effect is measured"
    assert torch.equal(model.forward(x, route=route), plain), "users do not see it yet"
    lead(model, 0, *WAY[2:], *OUT)
    served = model.forward(x, route=route)
    model.save(tmp_path / "own.safetensors")
    again = seeded(routing)
    again.load(tmp_path / "own.safetensors")
    assert torch.equal(again.forward(x, route=route), served)
    assert model.train_epoch(data).loss == again.train_epoch(data).loss
    lead(model, 2, Stage.CULLED)
    assert not bool(model.layers[0].up[2].any())
    assert not bool(model.layers[0].down[2].any())
    (file,) = export.fossils(model, tmp_path / "out")
    exported = load_file(file)
    assert exported.keys() == grown.keys()
    assert torch.equal(exported["outer"], mine(model, 0).state_dict()["outer"])


def test_newborns_depend_on_chance_alone_and_count_what_they_learn() -> None:
    one, other = seeded(), seeded()
    for model in (one, other):
        lead(model, 1, Stage.GERMINATED)
    assert torch.equal(one.layers[0].down, other.layers[0].down)
    given = made = 5
    assert one.parameters()[1] == (given * made + made) + (given * 3 + 3) + 3 * made


@pytest.mark.parametrize(
    ("own", "words"),
    [
        ("Normalised", "has the buffer norm.running_mean, which no checkpoint keeps"),
        ("Mixing", "expected that what it makes of a row depends on that row alone"),
        ("Narrow", "for 5 to 5 columns expected (rows, 5), got (3, 4)"),
        ("Deciding", "expected operations that torch.func can vectorise"),
        ("none", "gave a int, expected a torch module"),
        ("failing", "failed for 5 to 5 columns with ValueError: no 5 to 5"),
        ("absent", "has no absent"),
    ],
)
def test_one_that_is_none_is_one_error_at_attach(own: str, words: str) -> None:
    with pytest.raises(BlueprintError) as caught:
        seeded(own=own)
    assert str(caught.value).startswith("blueprint own: ")
    assert words in caught.value.expected


def test_more_seeds_than_columns_leave_some_without_a_module() -> None:
    model = seeded(seeds=20)
    lead(model, 17, *WAY)
    lead(model, 19, *WAY)
    x, _ = rows(3)
    assert model.forward(x).shape == (3, 3)
    assert model.layers[0].pair(19) == (0, 0)
    assert isinstance(model.layers[0], SeededLayer)


class Halfway(nn.Module):
    """Reads its parameter after somebody else may have called it."""

    def __init__(self, given: int, made: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(given, made))
        self.inside, self.other = threading.Event(), threading.Event()
        self.meets = False

    def forward(self, x: Tensor) -> Tensor:
        if self.meets:
            self.meets = False
            self.inside.set()
            self.other.wait(0.3)
        return x @ self.weight


def test_each_of_two_threads_has_its_own_parameters() -> None:
    """A pod answers while it trains."""
    module, x = Halfway(2, 2), torch.ones(1, 2)
    form = Form(module, {"weight": module.weight.shape}, 4)
    found: list[Tensor] = []

    def call(value: float) -> None:
        found.append(form({"weight": torch.full((2, 2), value)}, x))

    module.meets = True
    first = threading.Thread(target=call, args=(1.0,))
    first.start()
    assert module.inside.wait(10)
    call(3.0)
    module.other.set()
    first.join(10)
    assert sorted(each[0, 0].item() for each in found) == [2.0, 6.0]
