"""The CRDs on a real API server: what it takes, refuses, shows and fences."""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from hack.cluster import ClusterError, ControlPlane
from seedbed.crds.base import API_VERSION
from seedbed.crds.kinds import KINDS, Kind
from tests.clusters import apply, read, refusal
from tests.invalid import Invalid, invalid

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "docs/reference/examples"
QUICKSTART = sorted((ROOT / "examples/quickstart").glob("*.yaml"))


@pytest.fixture
def namespace(control_plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower())[:40].strip("-")
    name = f"{name}-{secrets.token_hex(3)}"
    control_plane.kubectl("create", "namespace", name)
    yield name
    control_plane.kubectl("delete", "seedbed", "--all", "-n", name, "--wait=false")


def example(kind: Kind) -> Path:
    return EXAMPLES / f"{kind.name.lower()}.yaml"


def test_every_crd_is_structural_and_established(control_plane: ControlPlane) -> None:
    control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all", "--timeout=30s")
    for crd in read(control_plane, "crd")["items"]:
        conditions = {each["type"]: each["status"] for each in crd["status"]["conditions"]}
        assert conditions == {"NamesAccepted": "True", "Established": "True"}, crd["metadata"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_the_example_of_the_reference_is_taken_and_shown(
    control_plane: ControlPlane, namespace: str, kind: Kind
) -> None:
    control_plane.kubectl("apply", "-n", namespace, "-f", str(example(kind)))
    table = control_plane.kubectl("get", kind.short, "-n", namespace, "-o", "wide").splitlines()
    assert table[0].split() == ["NAME", *(column.name.upper() for column in kind.columns)]
    (stored,) = read(control_plane, kind.plural, "-n", namespace)["items"]
    written = yaml.safe_load(example(kind).read_text())
    kind.resource.model_validate(stored)
    lost = missing(written["spec"], stored["spec"])
    assert lost == [], "the schema drops what the example says"
    assert control_plane.kubectl("diff", "-n", namespace, "-f", str(example(kind))) == ""


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_server_side_apply_does_not_drift(
    control_plane: ControlPlane, namespace: str, kind: Kind
) -> None:
    where = ("--server-side", "-n", namespace, "-f", str(example(kind)))
    control_plane.kubectl("apply", *where)
    assert control_plane.kubectl("diff", *where) == ""


def missing(written: Any, stored: Any, path: str = "spec") -> list[str]:
    """Paths of what was written and is not stored as it was."""
    if isinstance(written, dict) and isinstance(stored, dict):
        return [
            lost
            for key, value in written.items()
            for lost in missing(value, stored.get(key), f"{path}.{key}")
        ]
    if isinstance(written, list) and isinstance(stored, list) and len(written) == len(stored):
        pairs = enumerate(zip(written, stored, strict=True))
        return [lost for at, (a, b) in pairs for lost in missing(a, b, f"{path}[{at}]")]
    return [] if written == stored else [path]


def test_the_quickstart_is_taken_and_does_not_drift(
    control_plane: ControlPlane, namespace: str
) -> None:
    for path in QUICKSTART:
        control_plane.kubectl("apply", "-n", namespace, "-f", str(path))
    for path in QUICKSTART:
        assert control_plane.kubectl("diff", "-n", namespace, "-f", str(path)) == ""


def test_the_category_shows_every_kind(control_plane: ControlPlane, namespace: str) -> None:
    for kind in KINDS:
        control_plane.kubectl("apply", "-n", namespace, "-f", str(example(kind)))
    names = control_plane.kubectl("get", "seedbed", "-n", namespace, "-o", "name").split()
    assert sorted(name.split(".")[0] for name in names) == sorted(
        kind.name.lower() for kind in KINDS
    )


def test_a_pool_is_scaled_through_its_subresource(
    control_plane: ControlPlane, namespace: str
) -> None:
    apply(control_plane, pool("small"), "-n", namespace)
    assert read(control_plane, "pool/small", "-n", namespace)["spec"]["replicas"] == 1
    control_plane.kubectl("scale", "pool/small", "--replicas=5", "-n", namespace)
    assert read(control_plane, "pool/small", "-n", namespace)["spec"]["replicas"] == 5
    with pytest.raises(ClusterError, match=r"spec\.replicas"):
        control_plane.kubectl("scale", "pool/small", "--replicas=5000", "-n", namespace)


def test_the_class_of_a_pool_is_immutable(control_plane: ControlPlane, namespace: str) -> None:
    apply(control_plane, pool("fixed"), "-n", namespace)
    said = refusal(control_plane, pool("fixed", **{"class": "neural"}), "-n", namespace)
    assert "spec.class: Invalid value" in said
    assert "spec.class is immutable: make another Pool" in said


SEED_SPEC: dict[str, Any] = {"model": {"entry": "team.models:load"}, "layers": ["fc*"]}


def seed_layer(name: str, **spec: Any) -> dict[str, Any]:
    metadata = {"name": name}
    kind = {"apiVersion": API_VERSION, "kind": "SeedLayer"}
    return {**kind, "metadata": metadata, "spec": {**SEED_SPEC, **spec}}


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("model", {"model": {"entry": "team.models:other"}}),
        ("routing", {"routing": "token"}),
        ("reads", {"reads": "input", "routing": "token"}),
        ("checkpoint.volume", {"checkpoint": {"volume": {"size": "2Gi"}}}),
    ],
)
def test_what_gives_seeds_their_shape_is_immutable(
    control_plane: ControlPlane, namespace: str, field: str, change: dict[str, Any]
) -> None:
    apply(control_plane, seed_layer("fixed"), "-n", namespace)
    said = refusal(control_plane, seed_layer("fixed", **change), "-n", namespace)
    assert f"spec.{field} is immutable: make another SeedLayer" in said
    grouped = {"distribution": {}, "data": {"entry": "team.data:load"}}
    said = refusal(control_plane, seed_layer("fixed", **grouped), "-n", namespace)
    assert "spec.distribution cannot be given or taken away later" in said
    own = {"blueprints": [{"type": "custom"}]}
    said = refusal(control_plane, seed_layer("fixed", **own), "-n", namespace)
    assert "an entry belongs to the type custom" in said
    shape = {"layers": ["head"], "seedsPerLayer": 7, "blueprints": [{"type": "norm"}]}
    free = {"lifecycle": {"patience": 2}, "training": {"epochs": 5}, "replicas": 0, **shape}
    apply(control_plane, seed_layer("fixed", **free), "-n", namespace)


def test_a_seed_layer_tells_its_story_in_one_line(
    control_plane: ControlPlane, namespace: str
) -> None:
    apply(control_plane, seed_layer("digits"), "-n", namespace)
    status = {
        "stages": "3 training/1021 dormant",
        "accuracy": "0.9121",
        "forward": {"p99": "2.4ms"},
    }
    patch_status(control_plane, namespace, "seedlayer/digits", status)
    head, row = control_plane.kubectl("get", "sbseed", "-n", namespace).splitlines()
    assert head.split()[:4] == ["NAME", "STAGES", "ACCURACY", "P99"]
    assert row.split()[:6] == ["digits", "3", "training/1021", "dormant", "0.9121", "2.4ms"]


def test_status_is_written_only_through_its_subresource(
    control_plane: ControlPlane, namespace: str
) -> None:
    apply(control_plane, {**pool("p"), "status": {"replicas": 7}}, "-n", namespace)
    assert "status" not in read(control_plane, "pool/p", "-n", namespace)
    patch_status(control_plane, namespace, "pool/p", {"replicas": 7})
    stored = read(control_plane, "pool/p", "-n", namespace)
    assert stored["status"]["replicas"] == 7
    assert stored["metadata"]["generation"] == 1, "a status makes no new generation"


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_a_stale_writer_of_a_status_is_fenced_off(
    control_plane: ControlPlane, namespace: str, kind: Kind
) -> None:
    control_plane.kubectl("apply", "-n", namespace, "-f", str(example(kind)))
    name = f"{kind.plural}/{yaml.safe_load(example(kind).read_text())['metadata']['name']}"
    patch_status(control_plane, namespace, name, {"fencingToken": 41})
    patch_status(control_plane, namespace, name, {"fencingToken": 41, "observedGeneration": 1})
    for stale in ({"fencingToken": 40}, {"fencingToken": None}):
        with pytest.raises(ClusterError, match="a newer operator leads") as refused:
            patch_status(control_plane, namespace, name, {**stale, "observedGeneration": 9})
        assert "status.fencingToken" in str(refused.value)
    with pytest.raises(ClusterError, match="a newer operator leads"):
        control_plane.kubectl(
            "patch", name, "-n", namespace, "--subresource=status", "--type=json",
            "-p", '[{"op": "remove", "path": "/status"}]',
        )  # fmt: skip
    patch_status(control_plane, namespace, name, {"fencingToken": 42})
    assert read(control_plane, name, "-n", namespace)["status"] == {
        "fencingToken": 42,
        "observedGeneration": 1,
    }


def test_the_user_may_edit_a_fenced_object(control_plane: ControlPlane, namespace: str) -> None:
    apply(control_plane, pool("p"), "-n", namespace)
    patch_status(control_plane, namespace, "pool/p", {"fencingToken": 3})
    apply(control_plane, pool("p", replicas=4), "-n", namespace)
    stored = read(control_plane, "pool/p", "-n", namespace)
    assert (stored["spec"]["replicas"], stored["status"]["fencingToken"]) == (4, 3)


def test_kubectl_explains_every_field(control_plane: ControlPlane) -> None:
    for kind in KINDS:
        explained = control_plane.kubectl("explain", f"{kind.plural}.spec", "--recursive")
        for field in kind.spec.model_fields.values():
            assert re.search(rf"^\s+{field.alias}\t<", explained, re.MULTILINE), field.alias
    said = control_plane.kubectl("explain", "workflows.spec.steps.forEach")
    assert "CEL list" in said
    assert "<string>" in said


@pytest.mark.req("DSX-05")
@pytest.mark.parametrize("case", invalid("schema"))
def test_the_schema_refuses(control_plane: ControlPlane, case: Invalid) -> None:
    said = refusal(control_plane, case.object, "--validate=strict", "--dry-run=server")
    assert case.field in said
    assert case.says in said


@pytest.mark.parametrize("case", invalid("webhook"))
def test_the_schema_alone_takes_what_the_webhook_is_for(
    control_plane: ControlPlane, case: Invalid
) -> None:
    assert refusal(control_plane, case.object, "--validate=strict", "--dry-run=server") == ""


def pool(name: str, **spec: Any) -> dict[str, Any]:
    return {"apiVersion": API_VERSION, "kind": "Pool", "metadata": {"name": name}, "spec": spec}


def patch_status(cluster: ControlPlane, namespace: str, name: str, status: dict[str, Any]) -> None:
    cluster.kubectl(
        "patch", name, "-n", namespace, "--subresource=status", "--type=merge",
        "-p", json.dumps({"status": status}),
    )  # fmt: skip
