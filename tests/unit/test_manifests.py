"""Manifests without a server: judged as one would, each mistake told with file, object and field."""

from __future__ import annotations

from pathlib import Path

import pytest

from seedbed.cli.embedded.manifests import ManifestError, load

POOL = "{apiVersion: seedbed.dev/v1alpha1, kind: Pool, metadata: {name: general}}"
EXAMPLES = Path(__file__).parents[2] / "examples"


def write(folder: Path, text: str, name: str = "m.yaml") -> Path:
    file = folder / name
    file.write_text(text)
    return file


def test_defaults_are_set_as_a_server_does(tmp_path: Path) -> None:
    (pool,) = load([write(tmp_path, POOL)], "team")
    assert pool["metadata"] == {"namespace": "team", "name": "general"}
    assert pool["spec"]["workersPerReplica"] == 4


def test_folders_documents_and_json(tmp_path: Path) -> None:
    write(tmp_path, f"{POOL}\n---\n{POOL.replace('general', 'other')}\n---\n")
    third = '{"apiVersion": "seedbed.dev/v1alpha1", "kind": "Pool", "metadata": {"name": "third"}}'
    write(tmp_path, third, "n.json")
    write(tmp_path, "not a manifest", "readme.txt")
    assert [obj["metadata"]["name"] for obj in load([tmp_path], "x")] == [
        "general",
        "other",
        "third",
    ]


def test_nulls_in_open_values_stay(tmp_path: Path) -> None:
    text = """
apiVersion: seedbed.dev/v1alpha1
kind: Workflow
metadata: {name: w}
spec:
  params: {nothing: null}
  steps: [{name: a, call: {entry: "builtins:dict"}}]
"""
    (workflow,) = load([write(tmp_path, text)], "x")
    assert workflow["spec"]["params"] == {"nothing": None}
    assert "when" not in workflow["spec"]["steps"][0]


def test_the_quickstart_is_valid() -> None:
    kinds = [obj["kind"] for obj in load([EXAMPLES / "quickstart"], "default")]
    assert sorted(kinds) == ["Agent", "Agent", "FeatureFlag", "Pool", "Workflow"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        (POOL.replace("}}", "}, spec: {replicas: -1}}"), ["Pool general", "spec.replicas"]),
        (POOL.replace("}}", "}, spec: {replica: 1}}"), ["Pool general", "spec.replica"]),
        (POOL.replace("Pool", "Pond"), ["kind", "Pond"]),
        (
            POOL.replace("}}", "}, spec: {layers: [x]}}").replace("Pool", "SeedLayer"),
            ["spec.model"],
        ),
        (POOL.replace("v1alpha1", "v9"), ["apiVersion"]),
        (POOL.replace("{name: general}", "5"), ["metadata"]),
        (POOL.replace("general", "Not.Valid"), ["metadata.name"]),
        ("just words", ["expected an object"]),
        ("{a: [", ["m.yaml"]),
        ("", ["no object"]),
        (f"{POOL}\n---\n{POOL}", ["twice"]),
    ],
)
def test_a_mistake_is_one_sentence_with_its_place(
    tmp_path: Path, text: str, parts: list[str]
) -> None:
    with pytest.raises(ManifestError) as caught:
        load([write(tmp_path, text)], "default")
    (problem,) = caught.value.problems
    assert "\n" not in problem
    for part in parts:
        assert part in problem


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    first = write(tmp_path, POOL.replace("}}", "}, spec: {replicas: -1}}"))
    second = write(tmp_path, POOL.replace("Pool", "Pond"), "n.yaml")
    with pytest.raises(ManifestError) as caught:
        load([first, second, tmp_path / "missing.yaml"], "default")
    assert len(caught.value.problems) == 3
