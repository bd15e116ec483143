"""The guide to seed layers: its programs run, its file is valid, and its diagram is the table."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from hack.image import layers
from seedbed.cli.main import app
from seedbed.crds.seed_layer import SeedLayer
from seedbed.runtime.seeds import migration, peft
from seedbed.runtime.seeds.stages import EXTENDED, Stage

GUIDE = (Path(__file__).resolve().parents[2] / "docs" / "guides" / "seed-layers.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL)


def run(program: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(compile(program, "guide", "exec"), names)
    return names


def test_the_first_program_trains_answers_and_saves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    names = run(blocks("python")[0])
    assert names["answer"].shape == (400, 2)
    assert (tmp_path / "seeds.safetensors").stat().st_size > 0
    assert names["model"].epoch == 20


def test_the_second_program_serves_an_adapter_to_each_tenant(tmp_path: Path) -> None:
    folders = []
    for number in range(2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / peft.CONFIG).write_text(
            json.dumps({"peft_type": "LORA", "r": 4, "lora_alpha": 4})
        )
        torch.manual_seed(number)
        pair = {"A": torch.randn(4, 64), "B": torch.randn(64, 4)}
        save_file(
            {f"base_model.model.0.lora_{half}.weight": each for half, each in pair.items()},
            folder / peft.WEIGHTS,
        )
        folders.append(folder)
    torch.manual_seed(5)
    found = run(blocks("python")[1])["tenants"](nn.Sequential(nn.Linear(64, 64)), folders)
    assert found.shape == (3, 64)
    assert not found.isnan().any()


@pytest.mark.req("ESP-11")
def test_the_diagram_is_the_table() -> None:
    (diagram,) = blocks("mermaid")
    names = {stage.label: stage for stage in Stage}
    drawn = {
        (names[source], names[target]) for source, target in re.findall(r"(\w+) --> (\w+)", diagram)
    }
    assert drawn == {(source, target) for source, targets in EXTENDED.items() for target in targets}
    assert re.findall(r"(\w+) --> \[\*\]", diagram) == ["Fossilised"]


@pytest.mark.req("ESP-12")
def test_the_migration_shown_is_valid(tmp_path: Path) -> None:
    text = blocks("yaml")[0]
    (tmp_path / "migration.yaml").write_text(text)
    found = migration.load(tmp_path / "migration.yaml")
    assert found.phases == migration.Migration().phases
    assert found.rollout == migration.Migration().rollout
    assert found.rollback == migration.Migration().rollback


def test_the_seed_layer_shown_is_valid_and_finds_its_packages() -> None:
    layer = SeedLayer.model_validate(yaml.safe_load(blocks("yaml")[1]))
    (path,) = [one["value"] for one in layer.spec.template.env if one["name"] == "PYTHONPATH"]
    assert path.split(":") == [
        *(f"/{place}" for place in (layers.PRODUCT, layers.LIBRARIES, layers.KERNELS)),
        "/volumes/packages",
    ]


def test_every_option_shown_exists() -> None:
    for command in ("baseline", "compare"):
        told = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"}).output
        lines = re.findall(rf"^seedbed {command} (.*)$", GUIDE, re.MULTILINE)
        assert lines
        for option in re.findall(r"--[a-z-]+", " ".join(lines)):
            assert option in told
