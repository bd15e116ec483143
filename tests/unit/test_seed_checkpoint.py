"""A saved model with seeds comes back bit for bit, in every stage, and a wrong file changes nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seedbed.crds.errors import InvalidError, NotFoundError
from seedbed.runtime.seeds.attach import AttachSpec, attach
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.model import SeededModel
from seedbed.runtime.seeds.policy import Limits
from seedbed.runtime.seeds.rules import Rules
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.state import Core, Graft
from tests.unit.test_seed_model import BLUEPRINTS, data, host, move, randomise, samples, seeded


def everything(model: SeededModel) -> dict[str, Tensor]:
    """All tensors in which a model's life stands."""
    weights = {
        f"{layer.name}.{name}": getattr(layer, name).detach()
        for layer in model.layers
        for name in ("down", "up", "rank", "blueprint", "alphas")
    }
    found = {**model.state.tensors(), **model.optimiser.tensors(), **weights}
    return {name: tensor.clone() for name, tensor in found.items()}


def identical(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert tensor.dtype == other[name].dtype
        same = torch.equal(
            tensor.contiguous().view(torch.uint8), other[name].contiguous().view(torch.uint8)
        )
        assert same, name  # bytes, so that NaN is the same as NaN


PATHS = {
    Stage.DORMANT: (),
    Stage.GERMINATED: (Stage.GERMINATED,),
    Stage.TRAINING: (Stage.GERMINATED, Stage.TRAINING),
    Stage.GRAFTING: (Stage.GERMINATED, Stage.TRAINING, Stage.GRAFTING),
    Stage.STABILISATION: (Stage.GERMINATED, Stage.TRAINING, Stage.GRAFTING, Stage.STABILISATION),
}
PATHS[Stage.EVALUATING] = (*PATHS[Stage.STABILISATION], Stage.EVALUATING)
PATHS[Stage.FINE_TUNING] = (*PATHS[Stage.EVALUATING], Stage.FINE_TUNING)
PATHS[Stage.FOSSILISED] = (*PATHS[Stage.FINE_TUNING], Stage.FOSSILISED)
PATHS[Stage.CULLED] = (*PATHS[Stage.TRAINING], Stage.CULLED)
PATHS[Stage.CANCELLED] = (*PATHS[Stage.GERMINATED], Stage.CANCELLED)
PATHS[Stage.ROLLED_BACK] = (*PATHS[Stage.GRAFTING], Stage.ROLLED_BACK)


@pytest.mark.req("ESP-11")
@pytest.mark.parametrize("stage", list(Stage))
def test_a_model_comes_back_in_each_stage_and_goes_on_as_if_nothing_were(
    stage: Stage, tmp_path: Path
) -> None:
    model, after = seeded(), seeded()
    move(model, 3, *PATHS[stage])
    model.train_epoch(data())
    model.save(tmp_path / "seeds.safetensors", {"position": "7"})
    saved = everything(model)
    assert after.load(tmp_path / "seeds.safetensors") == {"position": "7"}
    identical(everything(after), saved)
    assert (after.epoch, after.accuracies) == (model.epoch, model.accuracies)
    told, again = model.train_epoch(data()), after.train_epoch(data())
    assert told.accuracies == again.accuracies
    identical(everything(after), everything(model))
    x, _ = samples()
    assert torch.equal(model.forward(x), after.forward(x))


@given(st.lists(st.sampled_from(list(Stage)), min_size=8, max_size=8), st.integers(0, 2**31))
@settings(max_examples=25)
def test_any_mixture_of_stages_comes_back(stages: list[Stage], chance: int) -> None:
    model, after = seeded(), seeded()
    torch.manual_seed(chance)
    for seed, stage in enumerate(stages):
        move(model, seed, *PATHS[stage], blueprint=BLUEPRINTS[chance % 3].name)
        if stage in (Stage.TRAINING, Stage.FOSSILISED):
            randomise(model, seed)
    model.state.metrics.normal_()
    model.state.metrics[chance % 8] = torch.nan
    for held in model.optimiser.tensors().values():
        if held.is_floating_point():
            held.normal_()
    grafting = model.state.stage == Stage.GRAFTING
    model.state.graft[grafting, Graft.ALPHA] = torch.rand(int(grafting.sum()))
    model.refresh()
    path = Path("/tmp") / f"seedbed-{chance}.safetensors"
    try:
        model.save(path)
        after.load(path)
    finally:
        path.unlink(missing_ok=True)
    identical(everything(after), everything(model))


def test_a_life_that_was_cut_off_is_the_life_that_was_not(tmp_path: Path) -> None:
    """Saving, losing the process and loading at any epoch changes nothing of what follows."""
    policy = Rules(Limits(blueprints=("net", "thin"), patience=2, max_active=2))

    def live(model: SeededModel, epochs: int) -> None:
        for _ in range(epochs):
            model.apply(policy.decide(model.train_epoch(data()), model.state))

    whole, first = seeded(), seeded()
    live(whole, 20)
    live(first, 11)
    first.save(tmp_path / "cut")
    second = seeded()
    second.load(tmp_path / "cut")
    live(second, 9)
    whole.state.core[:, Core.CHECKPOINT] = second.state.core[:, Core.CHECKPOINT]
    identical(everything(second), everything(whole))


def test_what_a_seed_on_trial_saw_is_no_part_of_its_fine_tuning(tmp_path: Path) -> None:
    """Its layer gets gradients while only another layer learns: they must not wait for its first step."""
    model, again = seeded(), seeded()
    move(model, 0, *PATHS[Stage.TRAINING])
    move(model, 5, *PATHS[Stage.EVALUATING])
    randomise(model, 5)
    model.train_epoch(data())
    model.save(tmp_path / "seeds.safetensors")
    again.load(tmp_path / "seeds.safetensors")
    for one in (model, again):
        move(one, 5, Stage.FINE_TUNING)
        one.train_epoch(data())
    identical(everything(model), everything(again))


def test_the_file_holds_only_seeds_that_have_weights(tmp_path: Path) -> None:
    spec = AttachSpec(("0",), seeds_per_layer=1000, routing="token", blueprints=BLUEPRINTS)
    model = attach(nn.Sequential(nn.Linear(4, 64)), spec, Features.all_on())
    model.save(tmp_path / "none")
    move(model, 500, Stage.GERMINATED)
    model.save(tmp_path / "one")
    slab = 2 * 4 * 64 * 4
    more = (tmp_path / "one").stat().st_size - (tmp_path / "none").stat().st_size
    assert slab <= more < slab + 200
    assert load_file(tmp_path / "one")["layer.0.seeds"].tolist() == [500]


def test_what_is_not_a_checkpoint_of_this_model_changes_nothing(tmp_path: Path) -> None:
    model = seeded()
    move(model, 0, *PATHS[Stage.TRAINING])
    model.save(tmp_path / "good")
    before = everything(model)
    torn = (tmp_path / "good").read_bytes()
    (tmp_path / "torn").write_bytes(torn[: len(torn) // 2])
    save_file({"x": torch.zeros(1)}, tmp_path / "other")
    (tmp_path / "pickle").write_bytes(b"\x80\x04\x95")
    wide = attach(
        nn.Sequential(nn.Linear(6, 22), nn.ReLU(), nn.Linear(22, 21)),
        AttachSpec(("0", "2"), seeds_per_layer=4, blueprints=BLUEPRINTS),
        Features.all_on(),
    )
    wide.save(tmp_path / "wide")
    for name in ("torn", "other", "pickle", "wide"):
        with pytest.raises(InvalidError, match="checkpoint"):
            model.load(tmp_path / name)
    with pytest.raises(NotFoundError):
        model.load(tmp_path / "nothing")
    identical(everything(model), before)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "good", "other", "pickle", "torn", "wide",
    ]  # fmt: skip
    assert host()  # the host itself is in no file
