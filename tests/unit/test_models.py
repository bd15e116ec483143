"""The models say everything of themselves, and the generated files say what the models say."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, create_model
from pydantic.fields import FieldInfo

from seedbed.crds.base import seconds
from seedbed.crds.kinds import KINDS, Kind
from seedbed.crds.schema import definition, structural

ROOT = Path(__file__).parents[2]


def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for form in (field.annotation, *get_args(field.annotation)):
            if isinstance(form, type) and issubclass(form, BaseModel):
                yield from models(form)


FIELDS = {
    f"{model.__name__}.{name}": (model, field)
    for kind in KINDS
    for top in (kind.spec, kind.status)
    for model in models(top)
    for name, field in model.model_fields.items()
}


@pytest.mark.req("SNK-02")
@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_described_with_a_valid_example(name: str) -> None:
    _, field = FIELDS[name]
    assert field.description
    assert field.description.endswith("."), "a sentence"
    assert field.examples or field.alias == "conditions"
    for example in field.examples or ():
        check(field, example)


def check(field: FieldInfo, example: Any) -> None:
    assert field.annotation is not None
    one = create_model("One", value=(field.annotation, field))
    one.model_validate({field.alias or "value": example})


def limits(schema: dict[str, Any], path: str) -> Iterator[str]:
    """Paths of texts and lists without an upper limit: they could grow until etcd refuses them."""
    if schema.get("type") == "string" and not {"maxLength", "enum", "format"} & schema.keys():
        yield path
    if schema.get("type") == "array" and "maxItems" not in schema:
        yield path
    for name, member in schema.get("properties", {}).items():
        yield from limits(member, f"{path}.{name}")
    if "items" in schema:
        yield from limits(schema["items"], f"{path}[]")
    if "additionalProperties" in schema:
        yield from limits(schema["additionalProperties"], f"{path}[*]")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_everything_has_an_upper_limit(kind: Kind) -> None:
    assert [*limits(structural(kind.spec), "spec")] == []
    assert [*limits(structural(kind.status), "status")] == []


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_columns_and_scale_point_at_fields(kind: Kind) -> None:
    version = definition(kind)["spec"]["versions"][0]
    paths = [column.path for column in kind.columns] + [*(kind.scale or {}).values()]
    for path in paths:
        schema = version["schema"]["openAPIV3Schema"]
        for part in re.sub(r"\[.*?\]", "", path).strip(".").split("."):
            if path.startswith(".metadata"):
                break
            schema = schema.get("items", schema)["properties"][part]


def test_a_schema_has_no_form_that_kubernetes_lacks() -> None:
    class Odd(BaseModel):
        either: int | str

    with pytest.raises(TypeError, match="alternatives"):
        structural(Odd)


@pytest.mark.parametrize(
    ("model", "path", "expected"),
    [
        ("Pool", "replicas", {"type": "integer", "format": "int64", "default": 1}),
        (
            "FeatureFlag",
            "rolloutPercentage",
            {"type": "number", "format": "double", "default": 100},
        ),
        ("Workflow", "deadline", {"type": "string", "maxLength": 32}),
        ("Workflow", "params", {"type": "object", "x-kubernetes-preserve-unknown-fields": True}),
        ("Workflow", "pool", {"type": "object", "default": {"name": "general"}}),
        ("Agent", "model", {"type": "object", "default": {}}),
        ("Agent", "suspend", {"type": "boolean"}),
    ],
)
def test_fields_as_kubernetes_writes_them(model: str, path: str, expected: dict[str, Any]) -> None:
    kind = next(kind for kind in KINDS if kind.name == model)
    schema = structural(kind.spec)["properties"][path]
    assert {key: schema.get(key) for key in expected} == expected
    assert ("default" in schema) == ("default" in expected)
    assert not {"anyOf", "$ref", "examples", "title"} & schema.keys()


def test_generated_files_are_current(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "seedbed.crds.generate", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_drift_is_shown(tmp_path: Path) -> None:
    examples = tmp_path / "docs/reference/examples"
    examples.mkdir(parents=True)
    for path in (ROOT / "docs/reference/examples").glob("*.yaml"):
        (examples / path.name).write_text(path.read_text())
    generate = [sys.executable, "-m", "seedbed.crds.generate"]
    subprocess.run(generate, cwd=tmp_path, check=True)
    crds = sorted((tmp_path / "charts/seedbed/files/crds").glob("*.yaml"))
    assert [yaml.safe_load(path.read_text())["spec"]["names"]["plural"] for path in crds] == sorted(
        kind.plural for kind in KINDS
    )
    crds[0].write_text(crds[0].read_text().replace("maximum: 2.0", "maximum: 3.0"))
    done = subprocess.run(
        [*generate, "--check"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    changed = [line.split() for line in done.stderr.splitlines() if line[0] in "+-"][2:]
    assert changed == [["-", "maximum:", "3.0"], ["+", "maximum:", "2.0"]]


parts = st.tuples(st.integers(0, 10_000), st.sampled_from(["ms", "s", "m", "h", "d"]))
UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}


@given(st.lists(parts, min_size=1, max_size=4))
def test_a_duration_is_the_sum_of_its_parts(found: list[tuple[int, str]]) -> None:
    text = "".join(f"{number}{unit}" for number, unit in found)
    assert seconds(text) == pytest.approx(sum(number * UNITS[unit] for number, unit in found))


@given(st.text(alphabet="0123456789.smhd -", max_size=8))
def test_any_text_is_a_duration_or_refused(text: str) -> None:
    with contextlib.suppress(ValueError):
        assert seconds(text) >= 0
