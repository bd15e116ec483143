"""The commands about plans and goals, on files and on a run in one process."""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest
import yaml
from typer.testing import CliRunner

from seedbed.cli.main import app

ROOT = Path(__file__).resolve().parents[2]
OPERATING_SYSTEM = ROOT / "examples" / "goals" / "operating-system.yaml"
PLAN = """
apiVersion: seedbed.dev/v1alpha1
kind: Workflow
metadata: {name: release}
spec:
  optimise: Apply
  steps:
    - {name: announce, call: {entry: "builtins:dict"}, estimate: 9s}
    - {name: fetch, call: {entry: "builtins:dict", args: {x: 1}}, estimate: 1s}
    - name: digest
      pure: true
      needs: [announce]
      call: {entry: "builtins:dict", args: {of: "${steps.fetch.output}"}}
      estimate: 6s
    - {name: publish, call: {entry: "builtins:dict", args: {it: "${steps.digest.output}"}}}
---
apiVersion: seedbed.dev/v1alpha1
kind: Pool
metadata: {name: general}
"""


def seedbed(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*words: object) -> str:
    done = CliRunner().invoke(app, [str(word) for word in words])
    assert done.exit_code == 1, done.output
    return done.stderr


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    file = tmp_path / "plan.yaml"
    file.write_text(PLAN)
    return file


def test_a_plan_in_a_file_is_drawn_and_made_shorter(plan: Path, tmp_path: Path) -> None:
    picture, shorter = tmp_path / "plan.svg", tmp_path / "shorter.yaml"
    assert str(picture) in seedbed("graph", plan, "--form", "layers", "-o", picture)
    assert ET.parse(picture).getroot().get("role") == "img"
    told = seedbed("optimise", plan, "--write", shorter)
    assert "Could be" in told
    assert "digest" in told
    steps = {step["name"]: step for step in yaml.safe_load(shorter.read_text())["spec"]["steps"]}
    assert "needs" not in steps["digest"]
    assert steps["publish"]["needs"] == ["announce"]
    assert "no file" in refused("graph", plan, "-o", tmp_path / "no file" / "x.svg")
    empty = tmp_path / "pool.yaml"
    empty.write_text(PLAN.partition("---\n")[2])
    assert "expected one Workflow, found 0" in refused("graph", empty)


@pytest.mark.req("COG-4.2.3")
def test_a_run_in_one_process_is_shortened_and_analysed(plan: Path, tmp_path: Path) -> None:
    state = tmp_path / "state"
    seedbed("run", plan, "--keep", state)
    status = json.loads(seedbed("get", "workflow", "release", "-o", "json", "--local", state))[
        "status"
    ]
    assert status["optimisation"]["applied"] is True
    assert status["optimisation"]["percent"] > 0
    assert status["result"] == {"it": {"of": {"x": 1}}}
    told = json.loads(seedbed("critical-path", "release", "-o", "json", "--local", state))
    assert {step["state"] for step in told["steps"]} == {"Succeeded"}
    assert told["path"][-1]["name"] == "publish"
    assert "Bottlenecks" in seedbed("critical-path", "release", "--all", "--local", state)
    assert "By stage" in seedbed("profile", "release", "--local", state)
    assert "Workflow default/release" in seedbed("graph", "release", "--local", state)
    assert "Nothing makes it shorter" in seedbed("optimise", "release", "--local", state)


@pytest.mark.req("COG-4.1.2")
def test_a_goal_is_taken_apart_here_and_its_tree_is_shown(tmp_path: Path) -> None:
    document, page = tmp_path / "tree.json", tmp_path / "tree.html"
    goal = ("decompose", "Build operating system", "--template", OPERATING_SYSTEM, "--here")
    assert "13,749 tasks on 110 levels" in seedbed(*goal, "-o", document)
    assert "Build the boot subsystem" in seedbed("tree", document)
    seedbed("tree", document, "-o", page)
    assert page.read_text().startswith("<!doctype html>")
    assert "more than 100 tasks" in refused(*goal, "--max-tasks", 100)
    assert "by a template" in refused("decompose", "x", "--here")
    document.write_text("[]")
    assert "expected the document of a goal tree" in refused("tree", document)
