"""The guide to seed layers that grow: its manifest is valid, its table is read, its blueprint grows."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from seedbed.crds.seed_checks import check_seed_layer
from seedbed.crds.seed_layer import DataSource, SeedLayerSpec
from seedbed.crds.seed_policy import Training
from seedbed.runtime.seeds.data import load_data
from seedbed.runtime.seeds.policy import Decision
from seedbed.runtime.seeds.stages import Stage

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"


def block(guide: str, language: str, word: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", (GUIDES / guide).read_text(), re.DOTALL)
    (one,) = (text for text in found if word in text)
    return str(one)


def test_the_manifest_of_a_group_is_valid() -> None:
    manifest = yaml.safe_load(block("seed-groups.md", "yaml", "distribution"))
    spec = SeedLayerSpec.model_validate(manifest["spec"])
    assert check_seed_layer(spec) == []
    assert spec.distribution is not None
    assert spec.distribution.seeds == "sharded"


def test_the_table_is_read(tmp_path: Path) -> None:
    (tmp_path / "flowers.csv").write_text(block("seed-groups.md", "csv", "length"))
    source = DataSource(url=str(tmp_path / "flowers.csv"))
    found = load_data(source, Training(), torch.device("cpu"))
    assert sorted(next(iter(found.train(0))).target.tolist()) == [0, 1]
    assert found.held_out[0].target.tolist() == [0]


def test_the_blueprint_of_ones_own_grows_and_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    team = ModuleType("team.blueprints")
    exec(compile(block("seed-layers.md", "python", "class Gated"), "guide", "exec"), vars(team))
    monkeypatch.setitem(sys.modules, "team.blueprints", team)
    names: dict[str, Any] = {}
    exec(compile(block("seed-layers.md", "python", "def grown"), "guide", "exec"), names)
    model = names["grown"](nn.Sequential(nn.Linear(8, 40), nn.Linear(40, 2)))
    before = Stage.DORMANT
    for number in range(1, 8):
        after = Stage(number)
        move = Decision(0, 5, "0", 5, before, after, "test", "test", {}, "gated", "linear")
        assert model.apply([move])
        before = after
    (file,) = names["exported"](model, tmp_path)
    assert file.name == "0.5.safetensors"
