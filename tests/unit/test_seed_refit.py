"""A checkpoint under a specification that has changed: what fits stays, what is new sleeps, fossils stay."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from seedbed.runtime.seeds.attach import AttachSpec, attach
from seedbed.runtime.seeds.blueprints import AnyGrowth, Growth
from seedbed.runtime.seeds.custom import Custom
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.layer import Routing
from seedbed.runtime.seeds.model import SeededModel
from seedbed.runtime.seeds.policy import Decision
from seedbed.runtime.seeds.refit import UnfitError
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Core
from seedbed.runtime.seeds.training import Batch, Data

THIN, NET, NORM = Growth("thin", rank=2), Growth("net", "mlp", 5), Growth("norm", "norm")
LEARNING = (Stage.GERMINATED, Stage.TRAINING)
FOSSIL = (*LEARNING, Stage.GRAFTING, Stage.STABILISATION, Stage.EVALUATING, Stage.FINE_TUNING,
          Stage.FOSSILISED)  # fmt: skip


def seeded(
    layers: tuple[str, ...] = ("0", "2"),
    seeds: int = 4,
    blueprints: tuple[AnyGrowth, ...] = (THIN, NET),
    routing: Routing = "chunk",
    width: int = 12,
) -> SeededModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        host = nn.Sequential(
            nn.Linear(6, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh(), nn.Linear(width, 3)
        )
    return attach(host, AttachSpec(layers, seeds, routing, "output", blueprints), Features.all_on())


def lead(model: SeededModel, layer: str, slot: int, way: tuple[Stage, ...], name: str) -> None:
    span = next(each for each in model.spans if each.name == layer)
    seed = span.first + slot
    for target in way:
        source = Stage(int(model.state.stage[seed]))
        move = Decision(0, seed, layer, slot, source, target, "t", "t", {}, name, "linear")
        assert model.apply([move])


def samples(routing: Routing = "chunk") -> Batch:
    dice = torch.Generator().manual_seed(5)
    x = torch.randn(30, 6, generator=dice)
    route = torch.arange(30) % 3 if routing == "token" else None
    return Batch((x,), x[:, :3].argmax(dim=1), route)


def lived(tmp_path: Path, routing: Routing = "chunk") -> tuple[Path, SeededModel]:
    """A checkpoint with a thin fossil in layer 0, and a net that learns in layer 2."""
    model = seeded(routing=routing)
    lead(model, "0", 1, LEARNING, "thin")
    lead(model, "2", 2, LEARNING, "net")
    batch = samples(routing)
    model.train_epoch(Data(lambda _: (batch,) * 3, (batch,), rate=0.05))
    lead(model, "0", 1, FOSSIL[2:], "thin")
    path = tmp_path / "before.safetensors"
    model.save(path)
    return path, model


def stages(model: SeededModel) -> dict[tuple[str, int], str]:
    return {
        (span.name, slot): Stage(int(model.state.stage[span.first + slot])).label
        for span in model.spans
        for slot in range(span.count)
        if model.state.stage[span.first + slot] != Stage.DORMANT
    }


BEFORE = {("0", 1): "Fossilised", ("2", 2): "Training"}


@pytest.mark.parametrize(
    "blueprints", [(NORM, NET, THIN), (THIN, NET, NORM, Growth("wide", rank=9))]
)
def test_blueprints_may_come_and_change_places(
    blueprints: tuple[Growth, ...], tmp_path: Path
) -> None:
    path, before = lived(tmp_path)
    now = seeded(blueprints=blueprints)
    now.load(path)
    assert stages(now) == BEFORE
    batch = samples()
    assert torch.equal(now.forward(*batch.inputs), before.forward(*batch.inputs))
    grown = int(now.state.core[now.spans[1].first + 2, Core.BLUEPRINT])
    assert blueprints[grown - 1].name == "net"
    data = Data(lambda _: (batch,), (batch,))
    assert now.train_epoch(data).loss == pytest.approx(before.train_epoch(data).loss, rel=1e-6)
    for one, other in zip(now.layers, before.layers, strict=True):
        rows = min(one.up.shape[1], other.up.shape[1])
        torch.testing.assert_close(one.up[:, :rows], other.up[:, :rows])
    now.save(tmp_path / "after.safetensors")
    seeded(blueprints=blueprints).load(tmp_path / "after.safetensors")


def test_a_seed_on_its_way_sleeps_again_where_its_blueprint_is_gone(tmp_path: Path) -> None:
    path, _ = lived(tmp_path)
    now = seeded(blueprints=(THIN,))
    now.load(path)
    assert stages(now) == {("0", 1): "Fossilised"}
    assert not bool(now.layers[1].up.any())
    assert not now.optimiser.stepping


def test_layers_may_come_and_go(tmp_path: Path) -> None:
    path, _ = lived(tmp_path)
    now = seeded(layers=("4", "0"))
    now.load(path)
    assert stages(now) == {("0", 1): "Fossilised"}
    assert [span.name for span in now.spans] == ["0", "4"]


def test_by_token_seeds_may_be_added_and_the_unused_taken_away(tmp_path: Path) -> None:
    path, before = lived(tmp_path, "token")
    for count in (3, 40):
        now = seeded(seeds=count, routing="token")
        now.load(path)
        assert stages(now) == BEFORE
        batch = samples("token")
        same = [each.forward(*batch.inputs, route=batch.route) for each in (now, before)]
        torch.testing.assert_close(*same)


class Scaled(nn.Module):
    """As wide as it is told to be."""

    def __init__(self, given: int, made: int, hidden: int = 1) -> None:
        super().__init__()
        self.into = nn.Parameter(torch.randn(given, hidden))
        self.out = nn.Parameter(torch.zeros(hidden, made))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.into @ self.out


def test_a_blueprint_of_ones_own_whose_parameters_changed_is_another_one(tmp_path: Path) -> None:
    entry = "tests.unit.test_seed_refit:Scaled"
    model = seeded(blueprints=(THIN, Custom("own", entry)))
    lead(model, "0", 0, FOSSIL, "own")
    model.save(tmp_path / "own.safetensors")
    seeded(blueprints=(Custom("own", entry), NET)).load(tmp_path / "own.safetensors")
    with pytest.raises(UnfitError, match="its blueprint own is gone"):
        seeded(blueprints=(Custom("own", entry, {"hidden": 2}),)).load(tmp_path / "own.safetensors")


@pytest.mark.parametrize(
    ("now", "words"),
    [
        ({"blueprints": (NET,)}, "seed 1 of 0 (its blueprint thin is gone)"),
        ({"layers": ("2",)}, "seed 1 of 0 (its layer is not chosen any more)"),
        ({"seeds": 6}, "seed 1 of 0 (the layer had 4 seeds and has 6 now)"),
        ({"width": 13}, "it is of another model"),
    ],
)
def test_what_would_lose_a_fossil_is_refused_and_changes_nothing(
    now: dict[str, object], words: str, tmp_path: Path
) -> None:
    path, _ = lived(tmp_path)
    other = seeded(**now)  # type: ignore[arg-type]  # each case changes one argument
    with pytest.raises(UnfitError) as caught:
        other.load(path)
    assert words in caught.value.expected
    assert stages(other) == {}
    assert other.epoch == 0
