"""What is measured, what the page of metrics says, and what alerts and dashboards ask for are one thing."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import REGISTRY, CollectorRegistry

from seedbed.operator.metrics import Metrics
from seedbed.runtime.api import streams
from seedbed.runtime.bus import event_metrics, outbox
from seedbed.runtime.llm.batch.offline.counting import OfflineMetrics
from seedbed.runtime.llm.cache.counting import Counting
from seedbed.runtime.llm.metrics import ModelMetrics
from seedbed.runtime.seeds.figures import SeedMetrics
from seedbed.runtime.workflow import metrics as engine_metrics
from seedbed.runtime.workflow.checkpoint import metrics as checkpoint_metrics

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "reference" / "metrics.md"
FILES = ROOT / "charts" / "seedbed" / "files"
ALERTS = sorted((FILES / "alerts").glob("*.yaml"))
DASHBOARDS = sorted((FILES / "dashboards").glob("*.json"))
# Their metrics stand in the registry of the process once they are imported.
GLOBAL = (streams, event_metrics, outbox, engine_metrics, checkpoint_metrics)
MAKES_METRICS = re.compile(r"\b(?:Counter|Gauge|Histogram)\(\s*f?\"")


def registries() -> list[CollectorRegistry]:
    operator, gateway = CollectorRegistry(), ModelMetrics()
    Metrics(operator)
    Counting(gateway.registry)
    OfflineMetrics(gateway.registry)
    assert all(GLOBAL)
    return [REGISTRY, operator, gateway.registry, SeedMetrics().registry]


def measured(*, series: bool) -> set[str]:
    """Names of metrics, or, with `series`, the names under which Prometheus finds their figures."""
    ends = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return {
        one.name + end
        for registry in registries()
        for one in registry.collect()
        if one.name.startswith("seedbed_")
        for end in (ends.get(one.type, ("",)) if series or one.type == "counter" else ("",))
    }


def rules() -> Iterator[dict[str, Any]]:
    for file in ALERTS:
        for group in yaml.safe_load(file.read_text())["groups"]:
            yield from group["rules"]


def test_every_module_that_makes_metrics_is_known_here() -> None:
    made = {
        str(path.relative_to(ROOT))
        for folder in ("operator", "controllers", "crds", "runtime", "cli", "kernels")
        for path in (ROOT / folder).rglob("*.py")
        if "prometheus_client" in path.read_text() and MAKES_METRICS.search(path.read_text())
    }
    own = {"operator/metrics.py", "runtime/seeds/figures.py", "runtime/llm/metrics.py"}
    counting = {"runtime/llm/cache/counting.py", "runtime/llm/batch/offline/counting.py"}
    paths = {
        f"{module.__name__.removeprefix('seedbed.').replace('.', '/')}.py" for module in GLOBAL
    }
    assert made <= own | counting | paths


def test_the_page_lists_what_is_measured() -> None:
    named = set(re.findall(r"`(seedbed_[a-z_0-9]+)`", PAGE.read_text()))
    assert named == measured(series=False)


def test_other_pages_name_only_what_is_measured() -> None:
    known = measured(series=True) | measured(series=False)
    for document in (ROOT / "docs").rglob("*.md"):
        named = set(re.findall(r"`(seedbed_[a-z_0-9]+)[`{]", document.read_text()))
        assert named <= known, document


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_dashboards_ask_for_what_is_measured(dashboard: Path) -> None:
    told = json.loads(dashboard.read_text())
    asked = [target["expr"] for panel in told["panels"] for target in panel["targets"]]
    named = {name for expr in asked for name in re.findall(r"seedbed_\w+", expr)}
    assert asked
    assert named <= measured(series=True)
    assert told["uid"] == f"seedbed-{dashboard.stem}"


def test_alerts_ask_for_what_is_measured_and_lead_to_a_page() -> None:
    told = PAGE.read_text()
    found = list(rules())
    for rule in found:
        named = set(re.findall(r"seedbed_\w+", rule["expr"]))
        assert named, rule["alert"]
        assert named <= measured(series=True), rule["alert"]
        assert f"`{rule['alert']}`" in told, rule["alert"]
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
        for runbook in re.findall(r"docs/\S+\.md", rule["annotations"]["description"]):
            assert (ROOT / runbook).is_file(), runbook
    listed = set(re.findall(r"`(Seedbed[A-Z]\w+)`", told))
    assert listed == {rule["alert"] for rule in found}


def test_steps_that_ended_are_counted_by_result_and_stand_at_zero_before_the_first() -> None:
    def counted(result: str) -> float | None:
        return REGISTRY.get_sample_value("seedbed_engine_steps_total", {"result": result})

    before = counted("succeeded")
    assert before is not None
    engine_metrics.STEPS.add("succeeded", 3)
    engine_metrics.STEPS.add("retried")
    engine_metrics.STEPS.add("retried")
    assert counted("succeeded") == before + 3
    assert (counted("retried") or 0.0) >= 2.0
