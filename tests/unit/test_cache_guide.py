"""The cache's guide and dashboard speak of what there is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from typer.testing import CliRunner

from seedbed.cli.main import app
from seedbed.runtime.llm.cache.counting import Counting
from seedbed.runtime.llm.cache.memory import Memory
from tests.unit.test_chart import render
from tests.unit.test_chart_checkpoints import named

ROOT = Path(__file__).resolve().parents[2]
GUIDE = (ROOT / "docs" / "guides" / "cache.md").read_text()


def measured() -> set[str]:
    """Every name that the cache measures under."""
    registry = CollectorRegistry()
    Counting(registry).watch(Memory(1, 1))
    found = set()
    for one in registry.collect():
        found |= {one.name, *(sample.name for sample in one.samples)}
        found |= {f"{one.name}_total"} if one.type == "counter" else set()
        found |= {f"{one.name}_bucket"} if one.type == "histogram" else set()
    return found


def test_the_guide_names_metrics_that_there_are() -> None:
    told = set(re.findall(r"`(seedbed_model_cache_\w+)`", GUIDE))
    assert told
    assert told <= measured()


@pytest.mark.req("COG-5.1.2")
def test_the_dashboard_asks_for_what_the_cache_measures() -> None:
    found = named(
        render("--set", "dashboards.enabled=true"), "ConfigMap", "seedbed-dashboard-cache"
    )
    assert found is not None
    panels = json.loads(found["data"]["seedbed-cache.json"])["panels"]
    asked = {
        word
        for panel in panels
        for target in panel["targets"]
        for word in re.findall(r"seedbed_\w+", target["expr"])
    }
    assert asked
    assert asked <= measured()


def test_the_commands_of_the_guide_are_commands() -> None:
    for line in re.findall(r"^(?:\$ )?seedbed (cache .*)$", GUIDE, re.MULTILINE):
        words = line.split()
        told = CliRunner().invoke(app, [*words[:2], "--help"])
        assert told.exit_code == 0
        assert all(word in told.output for word in words[2:] if word.startswith("--"))
