"""LoRA adapters of the package peft as seeds, and back: the answers are those of peft itself."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from seedbed.crds.errors import InvalidError, NotFoundError
from seedbed.runtime.seeds import peft as adapters
from seedbed.runtime.seeds.attach import AttachSpec, attach
from seedbed.runtime.seeds.blueprints import Growth
from seedbed.runtime.seeds.features import Features
from seedbed.runtime.seeds.model import SeededModel
from seedbed.runtime.seeds.policy import Decision
from seedbed.runtime.seeds.stages import Stage
from seedbed.runtime.seeds.training import Batch, Data

GIVEN, HIDDEN, MADE = 6, 10, 4


class Small(nn.Module):
    """A model with named layers, as those that adapters are made for."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(GIVEN, HIDDEN)
        self.second = nn.Linear(HIDDEN, MADE)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.second(torch.relu(self.first(x)))
        return found


def small() -> Small:
    torch.manual_seed(7)
    return Small().eval()


def seeded(seeds: int = 3, rank: int = 8) -> SeededModel:
    spec = AttachSpec(
        ("first", "second"), seeds_per_layer=seeds, routing="token", reads="input",
        blueprints=(Growth("norm", kind="norm"), Growth("lora", rank=rank)),
    )  # fmt: skip
    return attach(small(), spec, Features.all_on())


def written(folder: Path, scale: float = 2.0, rank: int = 3, **more: Any) -> dict[str, Tensor]:
    """An adapter of both layers, in peft's form."""
    torch.manual_seed(8)
    tensors = {
        "base_model.model.first.lora_A.weight": torch.randn(rank, GIVEN),
        "base_model.model.first.lora_B.weight": torch.randn(HIDDEN, rank),
        "base_model.model.second.lora_A.weight": torch.randn(rank, HIDDEN),
        "base_model.model.second.lora_B.weight": torch.randn(MADE, rank),
    }
    folder.mkdir()
    save_file(tensors, folder / adapters.WEIGHTS)
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": scale * rank, "bias": "none", **more}
    (folder / adapters.CONFIG).write_text(json.dumps(config))
    return tensors


def by_hand(x: Tensor, tensors: dict[str, Tensor], scale: float) -> Tensor:
    host = small()

    def lora(name: str, x: Tensor) -> Tensor:
        a, b = (tensors[f"base_model.model.{name}.lora_{half}.weight"] for half in "AB")
        found: Tensor = getattr(host, name)(x) + scale * (x @ a.T) @ b.T
        return found

    return lora("second", torch.relu(lora("first", x)))


def test_each_tenant_gets_the_adapter_in_its_slot(tmp_path: Path) -> None:
    tensors = written(tmp_path / "adapter")
    model, x = seeded(), torch.randn(5, GIVEN)
    assert adapters.load(model, tmp_path / "adapter", slot=1) == ("first", "second")
    routes = torch.tensor([1, 0, 1, -1, 2])
    found, mine = model.forward(x, route=routes), routes == 1
    assert torch.allclose(found[mine], by_hand(x, tensors, 2.0)[mine].detach(), atol=1e-4)
    assert torch.allclose(found[~mine], small()(x)[~mine].detach(), atol=1e-6)
    assert model.state.counts()[Stage.FOSSILISED] == 2
    assert model.state.history(1)[0][2] is Stage.FOSSILISED


def test_a_fossil_survives_the_way_out_and_back(tmp_path: Path) -> None:
    written(tmp_path / "adapter", scale=0.5)
    model, again, x = seeded(), seeded(), torch.randn(5, GIVEN)
    adapters.load(model, tmp_path / "adapter", slot=2)
    assert adapters.save(model, tmp_path / "out", slot=2, base="small") == ("first", "second")
    adapters.load(again, tmp_path / "out", slot=0)
    expected = model.forward(x, route=torch.full((5,), 2))
    assert torch.allclose(again.forward(x, route=torch.zeros(5).long()), expected, atol=1e-6)


def test_the_package_peft_reads_and_writes_the_same(tmp_path: Path) -> None:
    peft = pytest.importorskip("peft")
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["first", "second"], rank_pattern={"second": 2},
        alpha_pattern={"second": 8}, use_rslora=True, init_lora_weights=False,
    )  # fmt: skip
    theirs = peft.get_peft_model(small(), config).eval()
    theirs.save_pretrained(tmp_path / "theirs")
    model, x = seeded(), torch.randn(5, GIVEN)
    adapters.load(model, tmp_path / "theirs", slot=1)
    mine = model.forward(x, route=torch.ones(5).long())
    assert torch.allclose(mine, theirs(x).detach(), atol=1e-5)
    adapters.save(model, tmp_path / "mine", slot=1)
    back = peft.PeftModel.from_pretrained(small(), tmp_path / "mine").eval()
    assert torch.allclose(back(x).detach(), mine, atol=1e-5)


class Nested(nn.Module):
    """Names of which one is the end of the other: peft's patterns match the ends of names."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(GIVEN, HIDDEN)
        self.body = nn.ModuleDict({"head": nn.Linear(HIDDEN, MADE)})

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body["head"](torch.relu(self.head(x)))
        return found


def nested() -> Nested:
    torch.manual_seed(9)
    return Nested().eval()


def test_an_adapter_whose_layers_have_like_names_and_other_ranks_is_read_by_peft(
    tmp_path: Path,
) -> None:
    peft = pytest.importorskip("peft")
    spec = AttachSpec(
        ("head", "body.head"), seeds_per_layer=2, routing="token", reads="input",
        blueprints=(Growth("thin", rank=2), Growth("lora", rank=4)),
    )  # fmt: skip
    model, x = attach(nested(), spec, Features.all_on()), torch.randn(5, GIVEN)
    for layer, blueprint in (("head", "thin"), ("body.head", "lora")):
        seed = next(s.first for s in model.spans if s.name == layer)
        for target in (Stage.GERMINATED, Stage.TRAINING, Stage.GRAFTING, *adapters._END):
            source = Stage(int(model.state.stage[seed]))
            move = Decision(0, seed, layer, 0, source, target, "test", "", {}, blueprint, "linear")
            assert model.apply([move])
    with torch.no_grad():
        for each in model.layers:
            each.up[0, :, -each.columns[1] :] = torch.randn(each.up.shape[1], each.columns[1])
    # Rows beyond a seed's rank are not its own.
    model.layers[0].up.data[0, 2:] = 0
    mine = model.forward(x, route=torch.zeros(5).long())
    adapters.save(model, tmp_path / "mine", slot=0)
    back = peft.PeftModel.from_pretrained(nested(), tmp_path / "mine").eval()
    assert torch.allclose(back(x).detach(), mine, atol=1e-5)
    assert not torch.allclose(nested()(x).detach(), mine, atol=1e-2)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"init_lora_weights": "pissa"}, "adapter.init_lora_weights"),
        ({"init_lora_weights": "olora"}, "adapter.init_lora_weights"),
        ({"alora_invocation_tokens": [1, 2]}, "adapter.alora_invocation_tokens"),
        ({"use_qalora": True}, "adapter.use_qalora"),
        ({"lora_alpha": "much"}, "adapter.lora_alpha"),
        ({"lora_alpha": float("inf")}, "adapter.lora_alpha"),
        ({"alpha_pattern": ["first"]}, "adapter.lora_alpha"),
        ({"alpha_pattern": {"(": 2}}, "adapter.lora_alpha"),
    ],
)
def test_an_adapter_that_would_answer_otherwise_here_than_in_peft_is_refused(
    more: dict[str, Any], field: str, tmp_path: Path
) -> None:
    written(tmp_path / "adapter")
    path = tmp_path / "adapter" / adapters.CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | more))
    model = seeded()
    with pytest.raises(InvalidError) as caught:
        adapters.load(model, tmp_path / "adapter", slot=1)
    assert caught.value.field == field
    assert model.state.counts()[Stage.FOSSILISED] == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a * float("nan"),
        lambda a: a[:0],
        lambda a: a[0],
        lambda a: a[0, 0],
    ],
)
def test_an_adapter_with_halves_that_are_none_is_refused(change: Any, tmp_path: Path) -> None:
    tensors = written(tmp_path / "adapter")
    key = "base_model.model.first.lora_A.weight"
    save_file(
        tensors | {key: change(tensors[key]).contiguous()}, tmp_path / "adapter" / adapters.WEIGHTS
    )
    model = seeded()
    with pytest.raises(InvalidError, match="'first'"):
        adapters.load(model, tmp_path / "adapter", slot=1)
    assert model.state.counts()[Stage.FOSSILISED] == 0


def test_a_seed_that_was_trained_here_becomes_an_adapter(tmp_path: Path) -> None:
    """It learnt to read the input only, so nothing of it is lost."""
    model = seeded(seeds=2, rank=4)
    x = torch.randn(64, GIVEN, generator=torch.Generator().manual_seed(1))
    target = (x[:, 0] > 0).long()
    route = torch.ones(64).long()
    batches = [Batch((x,), target, route)]
    data = Data(lambda _: batches, batches)
    way = [Stage.GERMINATED, Stage.TRAINING]
    rest = [
        Stage.GRAFTING, Stage.STABILISATION, Stage.EVALUATING, Stage.FINE_TUNING, Stage.FOSSILISED,
    ]  # fmt: skip

    def lead(*stages: Stage) -> None:
        for stage in stages:
            model.apply([
                Decision(
                    model.epoch, seed, name, 1, Stage(int(model.state.stage[seed])), stage, "test",
                    "asked for", blueprint="lora", strategy="linear",
                )
                for name, seed in (("first", 1), ("second", 3))
            ])  # fmt: skip

    lead(*way)
    for _ in range(5):
        model.train_epoch(data)
    lead(*rest)
    expected = model.forward(x, route=route)
    assert not torch.allclose(expected, small()(x))
    adapters.save(model, tmp_path / "out", slot=1)
    tensors = load_file(tmp_path / "out" / adapters.WEIGHTS)
    assert torch.allclose(by_hand(x, tensors, 1.0).detach(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"modules_to_save": ["head"]}, "modules_to_save"),
        ({"peft_type": "IA3"}, "no LoRA"),
        ({"rank": 9}, "rank 9"),
    ],
)
def test_what_cannot_be_expressed_is_refused(
    more: dict[str, Any], field: str, tmp_path: Path
) -> None:
    written(tmp_path / "adapter", **more)
    model = seeded()
    before = copy.deepcopy(model.state.core)
    with pytest.raises(InvalidError, match=field):
        adapters.load(model, tmp_path / "adapter", slot=1)
    assert torch.equal(model.state.core, before)
    assert not model.layers[0].down.any()


def test_wrong_places_are_refused(tmp_path: Path) -> None:
    written(tmp_path / "adapter")
    model = seeded()
    with pytest.raises(NotFoundError):
        adapters.load(model, tmp_path / "nothing", slot=0)
    with pytest.raises(InvalidError, match="slot"):
        adapters.load(model, tmp_path / "adapter", slot=3)
    adapters.load(model, tmp_path / "adapter", slot=0)
    with pytest.raises(InvalidError, match="taken"):
        adapters.load(model, tmp_path / "adapter", slot=0)
    with pytest.raises(InvalidError, match="holds no"):
        adapters.save(model, tmp_path / "out", slot=1)
    chunked = attach(small(), AttachSpec(("first", "second"), seeds_per_layer=2), Features.all_on())
    with pytest.raises(InvalidError, match="read its input"):
        adapters.load(chunked, tmp_path / "adapter", slot=0)
