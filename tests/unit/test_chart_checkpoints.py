"""What the chart renders for checkpoints: a key ring, where their bytes go, a dashboard."""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from seedbed.runtime.workflow.checkpoint import metrics
from seedbed.runtime.workflow.checkpoint.keys import parse
from tests.unit.test_chart import helm, pods, render

CHART = Path(__file__).resolve().parents[2] / "charts" / "seedbed"


def named(objects: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any] | None:
    found = [o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name]
    return found[0] if found else None


def environment(objects: list[dict[str, Any]]) -> dict[str, Any]:
    (engine,) = pods(objects)["seedbed-engine"]["containers"]
    return {one["name"]: one.get("value") for one in engine["env"]}


@pytest.mark.req("COG-3.1.3")
def test_the_chart_makes_a_key_ring_that_engines_can_read() -> None:
    objects = render()
    secret = named(objects, "Secret", "seedbed-checkpoint-keys")
    assert secret is not None
    assert len(parse(base64.b64decode(secret["data"]["keys"]).decode(), "chart")) == 1
    assert "annotations" not in secret["metadata"]
    engine = pods(objects)["seedbed-engine"]
    (mount,) = [
        m for m in engine["containers"][0]["volumeMounts"] if m["name"] == "checkpoint-keys"
    ]
    path = f"{mount['mountPath']}/keys"
    assert environment(objects)["SEEDBED_CHECKPOINT_KEYS"] == path
    (volume,) = [v for v in engine["volumes"] if v["name"] == "checkpoint-keys"]
    assert volume["secret"]["secretName"] == "seedbed-checkpoint-keys"
    # Nobody else has the keys.
    others = [pod for name, pod in pods(objects).items() if name != "seedbed-engine"]
    assert not [p for p in others if "checkpoint-keys" in json.dumps(p)]


def test_an_own_key_ring_replaces_the_charts() -> None:
    objects = render("--set", "engine.checkpoints.keySecret=mine")
    assert named(objects, "Secret", "seedbed-checkpoint-keys") is None
    volumes = pods(objects)["seedbed-engine"]["volumes"]
    assert "mine" in {v.get("secret", {}).get("secretName") for v in volumes}


def test_an_archive_on_a_volume_keeps_its_key() -> None:
    objects = render("--set", "engine.checkpoints.volume.persistentVolumeClaim.claimName=kept")
    assert environment(objects)["SEEDBED_CHECKPOINT_URL"] == "file:///checkpoints"
    engine = pods(objects)["seedbed-engine"]
    (volume,) = [v for v in engine["volumes"] if v["name"] == "checkpoints"]
    assert volume["persistentVolumeClaim"] == {"claimName": "kept"}
    secret = named(objects, "Secret", "seedbed-checkpoint-keys")
    assert secret is not None
    assert secret["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"


def test_an_archive_in_an_object_store() -> None:
    objects = render(
        *("--set", "engine.checkpoints.url=s3://bucket/runs"),
        *("--set", "engine.checkpoints.port=9000"),
        *("--set", "engine.checkpoints.credentials[0].env=AWS_SECRET_ACCESS_KEY"),
        *("--set", "engine.checkpoints.credentials[0].secret=archive"),
        *("--set", "engine.checkpoints.credentials[0].key=secret-key"),
    )
    assert environment(objects)["SEEDBED_CHECKPOINT_URL"] == "s3://bucket/runs"
    assert "AWS_SECRET_ACCESS_KEY" in environment(objects)
    policy = named(objects, "NetworkPolicy", "seedbed-engine-to-archive")
    assert policy is not None
    assert policy["spec"]["egress"] == [{"ports": [{"port": 9000}]}]
    refused = helm("template", "x", str(CHART), "--set", "engine.checkpoints.url=bucket")
    assert "/engine/checkpoints/url" in refused.stderr


@pytest.mark.req("COG-3.1.4")
def test_the_dashboard_asks_for_what_engines_measure() -> None:
    name = "seedbed-dashboard-checkpoints"
    assert named(render(), "ConfigMap", name) is None
    found = named(render("--set", "dashboards.enabled=true"), "ConfigMap", name)
    assert found is not None
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    dashboard = json.loads(found["data"]["seedbed-checkpoints.json"])
    asked = {
        word
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for word in re.findall(r"seedbed_\w+", target["expr"])
    }
    assert metrics.TAKEN is not None
    known = {sample.name for one in REGISTRY.collect() for sample in one.samples}
    labelled = {f"{one.name}_total" for one in REGISTRY.collect() if one.type == "counter"}
    assert asked
    assert asked <= known | labelled
