"""Every invalid manifest is refused without a cluster too; valid ones pass."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from seedbed.crds.admission import validate
from seedbed.crds.base import API_VERSION
from tests.invalid import Invalid, invalid

ROOT = Path(__file__).parents[2]
EXAMPLES = [
    *(ROOT / "docs/reference/examples").glob("*.yaml"),
    # Those under goals/ are rules for goals, not objects; test_goals reads them.
    *(path for path in (ROOT / "examples").rglob("*.yaml") if path.parent.name != "goals"),
]


@pytest.mark.req("DSX-05")
@pytest.mark.parametrize("case", invalid())
def test_an_invalid_manifest_is_refused_with_its_field(case: Invalid) -> None:
    if case.only_server:
        pytest.skip("only the API server knows this form")
    errors = validate(case.object)
    assert errors
    if case.by == "webhook":
        assert [(error.field, case.says in error.expected) for error in errors] == [
            (case.field, True)
        ]
    else:
        assert any(error.field.startswith(case.field) for error in errors), [*map(str, errors)]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_the_examples_pass(path: Path) -> None:
    for manifest in yaml.safe_load_all(path.read_text()):
        assert validate(manifest) == []


def pool(**spec: Any) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": "Pool", "metadata": {"name": "p"}, "spec": spec}


def test_the_class_of_a_pool_stays() -> None:
    assert validate(pool(replicas=2), pool(replicas=1)) == []
    assert validate(pool(), pool(**{"class": "general"})) == [], "general is the default"
    (error,) = validate(pool(**{"class": "neural"}), pool())
    assert error.field == "spec.class"


def test_what_is_stored_already_may_be_labelled_and_deleted() -> None:
    stored = pool(drain="never")
    assert validate(stored)
    labelled = copy.deepcopy(stored)
    labelled["metadata"]["labels"] = {"a": "b"}
    assert validate(labelled, stored) == []
    deleted = pool(drain="also wrong")
    deleted["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert validate(deleted, stored) == []


@pytest.mark.parametrize(
    ("manifest", "field"),
    [
        ({}, "kind"),
        ({"kind": "Wrkflow"}, "kind"),
        ({"kind": "Pool", "apiVersion": "v1"}, "apiVersion"),
        ({"kind": "Pool", "apiVersion": API_VERSION}, "metadata"),
        ({"kind": "Pool", "apiVersion": API_VERSION, "metadata": {}}, "metadata.name"),
        (
            {"kind": "Pool", "apiVersion": API_VERSION, "metadata": {"name": "p"}, "spec": []},
            "spec",
        ),
    ],
)
def test_what_is_no_object_of_ours(manifest: dict[str, Any], field: str) -> None:
    assert [error.field for error in validate(manifest)] == [field]


def test_a_demo_may_show_the_reasoning() -> None:
    manifest = {
        "apiVersion": API_VERSION,
        "kind": "Agent",
        "metadata": {"name": "a"},
        "spec": {
            "pool": {"name": "general"},
            "signature": "a -> b",
            "strategy": "ChainOfThought",
            "demos": [{"a": "x", "b": "y", "reasoning": "because"}, {"a": "x", "b": "y"}],
        },
    }
    assert validate(manifest) == []
    manifest["spec"]["strategy"] = "Predict"  # type: ignore[index]  # a literal's value is object
    assert [error.field for error in validate(manifest)] == ["spec.demos[0].reasoning"]
