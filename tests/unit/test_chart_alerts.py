"""The alert rules that the chart renders: they name metrics that there are, and the stated thresholds."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest

from seedbed.runtime.llm.batch.offline.counting import OfflineMetrics
from seedbed.runtime.llm.gateway import Gateway
from seedbed.runtime.llm.models import Models
from tests.unit.test_chart import render


def rules() -> dict[str, dict[str, Any]]:
    objects = render("--set", "alerts.enabled=true", "--set", "alerts.labels.release=monitoring")
    found = [obj for obj in objects if obj["kind"] == "PrometheusRule"]
    assert all(obj["metadata"]["labels"]["release"] == "monitoring" for obj in found)
    return {
        rule["alert"]: rule
        for obj in found
        for group in obj["spec"]["groups"]
        for rule in group["rules"]
    }


def test_there_are_none_where_nobody_asks_for_them() -> None:
    assert not [obj for obj in render() if obj["kind"] == "PrometheusRule"]


def measured() -> str:
    """What a gateway tells Prometheus."""

    async def metrics() -> str:
        entry = {"name": "m", "provider": "openai", "apiBase": "http://127.0.0.1:9/v1"}
        gateway = Gateway(Models.model_validate({"models": [entry], "default": "m"}))
        OfflineMetrics(gateway.metrics.registry)
        gateway.metrics.budget_stands("namespaces/team", 0.96, "halted")
        return gateway.metrics.text().decode()

    return asyncio.run(metrics())


def test_the_dashboard_of_models_asks_for_what_gateways_measure() -> None:
    name = "seedbed-dashboard-models"
    objects = render("--set", "dashboards.enabled=true")
    (found,) = [obj for obj in objects if obj["metadata"]["name"] == name]
    assert found["metadata"]["labels"]["grafana_dashboard"] == "1"
    asked = [
        target["expr"]
        for panel in json.loads(found["data"]["seedbed-models.json"])["panels"]
        for target in panel["targets"]
    ]
    told = measured()
    for expr in asked:
        (metric,) = set(re.findall(r"seedbed_model_\w+", expr))
        assert f"# TYPE {re.sub('_(total|bucket)$', '', metric)}" in told, metric
    assert any("budget_used_ratio" in expr for expr in asked)
    assert any("breaker_state" in expr for expr in asked)


@pytest.mark.req("COG-S8.1")
@pytest.mark.req("COG-3.4.2")
def test_breakers_quotas_and_budgets_have_rules_over_metrics_that_there_are() -> None:
    told = measured()
    found = rules()
    for rule in found.values():
        for name in re.findall(r"seedbed_model_\w+", rule["expr"]):
            assert f"# TYPE {name.removesuffix('_total')}" in told, name
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"]["summary"]
    assert found["SeedbedModelBreakerOpen"]["expr"].endswith("== 2")
    assert found["SeedbedModelQuotaNearlyUsed"]["expr"].endswith(">= 0.8")
    assert found["SeedbedBudgetRunningOut"]["expr"].endswith("== 1")
    assert found["SeedbedBudgetHalted"]["expr"].endswith("== 2")
    assert 'seedbed_model_budget_state{account="namespaces/team"} 2.0' in told
