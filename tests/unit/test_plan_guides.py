"""The guides about plans: what they show gives what they say."""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import pytest
import yaml

from seedbed.crds.graph_builder import build_graph
from seedbed.crds.messages import RunRequest
from seedbed.crds.workflow import WorkflowSpec
from tests.runs import a_world
from tests.unit.test_chart import CHART, helm
from tests.unit.test_nesting import run_whole, set_template

GUIDES = Path(__file__).resolve().parents[2] / "docs" / "guides"


def blocks(guide: str, language: str) -> list[str]:
    text = (GUIDES / guide).read_text()
    return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def workflows(guide: str) -> dict[str, dict[str, Any]]:
    found = (each for block in blocks(guide, "yaml") for each in yaml.safe_load_all(block))
    return {each["metadata"]["name"]: each["spec"] for each in found if "kind" in each}


@pytest.mark.req("DSX-19")
def test_the_plan_in_python_is_the_object_beside_it(tmp_path: Path) -> None:
    (source,) = blocks("python-builder.md", "python")
    file = tmp_path / "plan.py"
    file.write_text(source)
    plan = runpy.run_path(str(file))["plan"]
    (spec,) = workflows("python-builder.md").values()
    assert plan.graph == build_graph(WorkflowSpec.model_validate(spec))
    assert plan.spec == WorkflowSpec.model_validate(spec)


def test_the_nested_workflows_give_what_they_promise() -> None:
    shown = workflows("sub-workflows.md")
    world = a_world()
    set_template(world, "grade", **shown["grade"])
    ends = {
        name: run_whole(RunRequest(f"uid-{name}-0", "team", name, shown[name]), world)
        for name in ("exam", "in-place")
    }
    assert ends["exam"].result == 2, ends["exam"]
    assert ends["in-place"].result == ["red!!", "green!!"], ends["in-place"]
    wrong = {**shown["exam"], "params": {"points": ["many"]}}
    end = run_whole(RunRequest("uid-wrong-0", "team", "exam", wrong), world)
    assert "grade: spec.params.points: must be an integer, not a string" in end.message


def test_the_values_for_large_plans_are_values_of_the_chart(tmp_path: Path) -> None:
    shown = (yaml.safe_load(block) for block in blocks("large-plans.md", "yaml"))
    (values,) = [each for each in shown if "engine" in each]
    file = tmp_path / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    done = helm("template", "seedbed", str(CHART), "--values", str(file))
    assert done.returncode == 0, done.stderr
    made = [each for each in yaml.safe_load_all(done.stdout) if each]
    (engine,) = [
        each
        for each in made
        if (each["kind"], each["metadata"]["name"]) == ("Deployment", "seedbed-engine")
    ]
    pod = engine["spec"]["template"]["spec"]
    told = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}
    assert told["SEEDBED_PLAN_HOSTS"] == "plans.example.com"
    assert told["SEEDBED_PLAN_FOLDER"] == "/plans"
    assert {"name": "plans", "mountPath": "/plans", "readOnly": True} in pod["containers"][0][
        "volumeMounts"
    ]
    assert [each for each in pod["volumes"] if each["name"] == "plans"]
    names = [each["metadata"]["name"] for each in made if each["kind"] == "NetworkPolicy"]
    assert "seedbed-engine-to-plans" in names
