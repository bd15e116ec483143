"""The documents: their links lead somewhere, their manifests are valid, their settings are real."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster import binaries
from seedbed.crds.admission import validate
from seedbed.runtime.llm.models import Models
from tests.unit.test_chart import CHART, helm

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *(ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"),
    *(ROOT / "charts" / "seedbed" / "README.md", ROOT / "examples" / "README.md"),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# Of other operators and of Kubernetes itself: not ours to judge.
OTHERS = ("autoscaling/v2", "keda.sh/v1alpha1")
LINK = re.compile(r"\]\((?!http)([\w./-]+)(?:#[\w-]*)?\)")
YAML = re.compile(r"```yaml\n(.*?)```", re.DOTALL)


def blocks(document: Path) -> list[Any]:
    return [
        part
        for text in YAML.findall(document.read_text())
        for part in yaml.safe_load_all(text)
        if isinstance(part, dict)
    ]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    targets = LINK.findall(document.read_text())
    missing = [target for target in targets if not (document.parent / target).exists()]
    assert not missing


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_manifests_in_documents_are_valid(document: Path) -> None:
    for manifest in blocks(document):
        if "kind" in manifest and manifest.get("apiVersion") not in OTHERS:
            assert validate(manifest) == []


@pytest.mark.parametrize(
    "guide", ["models", "budgets", "routing", "batching", "prompts", "cache", "offline-batches"]
)
def test_the_values_shown_are_values_of_the_chart(guide: str, tmp_path: Path) -> None:
    assert binaries.path("helm")
    shown = [each for each in blocks(ROOT / "docs" / "guides" / f"{guide}.md") if "gateway" in each]
    assert shown
    for values in shown:
        file = tmp_path / "values.yaml"
        file.write_text(yaml.safe_dump(values))
        done = helm("template", "seedbed", str(CHART), "--values", str(file))
        assert done.returncode == 0, done.stderr
        rendered = [each for each in yaml.safe_load_all(done.stdout) if each]
        (served,) = [each for each in rendered if each["metadata"]["name"] == "seedbed-models"]
        Models.model_validate(yaml.safe_load(served["data"]["models.yaml"]))


def test_every_make_target_that_is_named_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for document in DOCUMENTS:
        named = set(re.findall(r"\bmake ([a-z][a-z-]+)", document.read_text()))
        named = {
            n
            for n in named
            if f"`make {n}" in document.read_text() or f"\nmake {n}" in document.read_text()
        }
        assert named <= targets, document


def test_the_page_of_the_benchmarks_names_every_one() -> None:
    folder = ROOT / "hack" / "bench"
    table = (folder / "README.md").read_text().partition("| Subject")[2].partition("\n\n")[0]
    programs = {path.stem for path in folder.glob("*.py") if "__main__" in path.read_text()}
    assert set(re.findall(r"`(\w+)`", table)) == programs
