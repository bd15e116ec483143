"""What the chart renders for whoever watches seeds: a dashboard and alerts over figures that pods have."""

from __future__ import annotations

import json
import re
from typing import Any

from seedbed.runtime.seeds.figures import SeedMetrics
from tests.unit.controllers.test_seed_layer import pods_of
from tests.unit.test_chart import render


def measured() -> set[str]:
    """Names under which Prometheus finds a pod's figures."""
    found: set[str] = set()
    for one in SeedMetrics().registry.collect():
        ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
        found |= {one.name + end for end in ends.get(one.type, ("",))}
    return found


def of_kind(kind: str, *values: str) -> dict[str, dict[str, Any]]:
    sets = [word for value in values for word in ("--set", value)]
    return {obj["metadata"]["name"]: obj for obj in render(*sets) if obj["kind"] == kind}


def asked(text: str) -> set[str]:
    return set(re.findall(r"seedbed_seed\w*", text))


def test_the_dashboard_asks_for_what_pods_measure() -> None:
    assert "seedbed-dashboard-seeds" not in of_kind("ConfigMap")
    found = of_kind("ConfigMap", "dashboards.enabled=true")["seedbed-dashboard-seeds"]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    panels = json.loads(found["data"]["seedbed-seeds.json"])["panels"]
    words = [target["expr"] for panel in panels for target in panel["targets"]]
    assert all(asked(word) for word in words)
    assert asked(" ".join(words)) <= measured()


def test_the_alerts_have_the_stated_thresholds_over_what_pods_measure() -> None:
    (group,) = of_kind("PrometheusRule", "alerts.enabled=true")["seedbed-seeds"]["spec"]["groups"]
    rules = {rule["alert"].removeprefix("SeedbedSeed"): rule for rule in group["rules"]}
    for rule in rules.values():
        assert asked(rule["expr"])
        assert asked(rule["expr"]) <= measured()
        assert rule["annotations"]["summary"]
    limits = {name: (rule["expr"].split()[-2:], rule["for"]) for name, rule in rules.items()}
    assert limits == {
        "ForwardSlow": ([">", "0.1"], "5m"),
        "GpuIdle": (["<", "0.5"], "10m"),
        "GpuMemory": ([">", "0.9"], "5m"),
        "AdaptationFails": (["<", "0.9"], "10m"),
        "Errors": ([">", "0.01"], "5m"),
        "MemoryGrows": (["*", "1024"], "30m"),
        "Stuck": ([">", "3600"], "10m"),
    }
    assert "> 100 * 1024 * 1024" in rules["MemoryGrows"]["expr"]


def test_a_monitor_chooses_the_pods_of_the_release_and_those_that_it_makes() -> None:
    assert not of_kind("PodMonitor")
    values = ("monitors.enabled=true", "monitors.labels.release=monitoring")
    (monitor,) = of_kind("PodMonitor", *values).values()
    assert monitor["metadata"]["labels"]["release"] == "monitoring"
    (chosen,) = monitor["spec"]["selector"]["matchExpressions"]
    templates = [role["spec"]["template"] for role in of_kind("Deployment").values()]
    for template in (*templates, pods_of()["template"]):
        assert template["metadata"]["labels"][chosen["key"]] in chosen["values"]
        ports = [port["name"] for one in template["spec"]["containers"] for port in one["ports"]]
        assert [end["port"] for end in monitor["spec"]["podMetricsEndpoints"]] == ["health"]
        assert all(end["honorLabels"] for end in monitor["spec"]["podMetricsEndpoints"])
        assert "health" in ports
