"""Pictures of plans: well-formed, described, complete for small plans, bounded for large ones."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings

from seedbed.crds.errors import InvalidError
from seedbed.crds.graph_builder import build_graph
from seedbed.crds.messages import StepError, StepKey
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.planning.insight import Analysis, of_plan, spoken
from seedbed.runtime.workflow.planning.picture import PICTURES, picture_named
from seedbed.runtime.workflow.planning.picture.gantt import ROWS
from seedbed.runtime.workflow.planning.picture.groups import groups
from seedbed.runtime.workflow.planning.plan import Plan
from seedbed.runtime.workflow.planning.timings import observe, works
from seedbed.runtime.workflow.records import (
    Record,
    StepFailed,
    StepScheduled,
    StepSkipped,
    StepSucceeded,
)
from tests.plans import plans
from tests.runs import call

SVG = "{http://www.w3.org/2000/svg}"


def spec_of(plan: Plan, **fields: object) -> WorkflowSpec:
    steps = [
        call(name, needs=[plan.names[need] for need in plan.needs[at]], estimate=f"{at + 1}s")
        for at, name in enumerate(plan.names)
    ]
    return WorkflowSpec.model_validate({"steps": steps, **fields})


def tooltips(svg: str) -> list[str]:
    root = ET.fromstring(svg)
    rows = [group for group in root.iter(f"{SVG}g") if group.get("class") == "row"]
    return [str(title.text) for row in rows if (title := row.find(f"{SVG}title")) is not None]


@pytest.mark.parametrize("form", PICTURES)
@given(plan=plans())
@settings(max_examples=25, deadline=None)
def test_each_step_of_a_small_plan_is_shown_with_its_times(form: str, plan: Plan) -> None:
    found = of_plan(spec_of(plan))
    told = tooltips(PICTURES[form](found, "a <plan> & more"))
    assert sorted(each.partition(":")[0] for each in told) == sorted(plan.names)
    marked = {each.partition(":")[0] for each in told if "on the critical path" in each}
    assert marked == {plan.names[step] for step in found.critical.path}
    for each in told:
        assert f"takes {spoken(int(each.partition(':')[0][1:]) + 1)}" in each


@pytest.mark.parametrize("form", PICTURES)
def test_whoever_does_not_see_the_picture_is_told_what_it_shows(form: str) -> None:
    found = of_plan(WorkflowSpec.model_validate({"steps": [call("a"), call("b", needs=["a"])]}))
    root = ET.fromstring(PICTURES[form](found, "Workflow <x>"))
    assert (root.get("role"), root.get("aria-labelledby")) == ("img", "title description")
    assert root.findtext(f"{SVG}title") == "Workflow <x>"
    described = str(root.findtext(f"{SVG}desc"))
    assert "2 steps, 1 needs" in described
    assert "2 waiting" in described
    assert "Critical path: a, then b." in described


def large() -> WorkflowSpec:
    """10,000 steps in eight stages between barriers, and a chain of 200 beside them."""
    steps, before = [], ["begin"]
    steps.append(call("begin"))
    for stage in range(8):
        names = [f"stage-{stage}-{at}" for at in range(1224)]
        steps += [
            {"name": name, "call": {"entry": f"steps:stage{stage}"}, "needs": before}
            for name in names
        ]
        steps.append(call(f"barrier-{stage}", needs=names[:1000]))
        before = [f"barrier-{stage}"]
    steps += [
        call(f"link-{at}", needs=[f"link-{at - 1}"] if at else ["begin"]) for at in range(199)
    ]
    return WorkflowSpec.model_validate({"steps": steps})


@pytest.mark.parametrize("form", PICTURES)
def test_ten_thousand_steps_are_shown_in_few_rows_and_none_is_lost(form: str) -> None:
    found = of_plan(large())
    assert len(found.works) == 10_000
    svg = PICTURES[form](found, "large")
    shown = tooltips(svg)
    assert 10 <= len(shown) <= ROWS
    counts = [
        int(n.replace(",", "")) for each in shown for n in re.findall(r"([\d,]+) waiting", each)
    ]
    assert sum(counts) == 10_000
    assert len(svg) < 400_000
    height = float(str(ET.fromstring(svg).get("height")))
    width = float(str(ET.fromstring(svg).get("width")))
    assert max(width, height) <= 9_100


@given(plan=plans())
@settings(max_examples=50, deadline=None)
def test_groups_hold_each_step_once_and_keep_the_critical_path_apart(plan: Plan) -> None:
    found = of_plan(spec_of(plan))
    made = groups(found, 4)
    assert sorted(step for group in made for step in group.steps) == list(range(len(plan.names)))
    on_path = set(found.critical.path)
    for group in made:
        assert group.critical == bool(on_path & {*group.steps})
        assert not group.critical or on_path >= {*group.steps}


def went_wrong() -> Analysis:
    spec = WorkflowSpec.model_validate(
        {
            "steps": [
                call("good"),
                call("bad"),
                call("off", when="false"),
                call("never", needs=["bad"]),
            ]
        }
    )

    graph = build_graph(spec)

    def scheduled(name: str) -> StepScheduled:
        return StepScheduled(StepKey(name), 1, 1000.0, "call", "general", 60.0, {}, {})

    error = StepError("broken", "it broke")
    records: list[Record] = [
        scheduled("good"),
        StepSucceeded(StepKey("good"), 1, 1004.0, "w", 1000.0, 1004.0, None),
        StepSkipped(StepKey("off"), 1000.0),
        scheduled("bad"),
        StepFailed(StepKey("bad"), 1, 1002.0, "w", 1000.0, 1002.0, error, None),
    ]
    times = works(graph, observe(records))
    return Analysis(spec, graph, times, 1004.0, (), "r", "Failed", 1000.0, 1004.0)


def test_states_are_told_by_sign_and_pattern_and_not_by_colour_alone() -> None:
    svg = PICTURES["gantt"](went_wrong(), "went wrong")
    rows = {
        str(row.findtext(f"{SVG}title")).partition(":")[0]: ET.tostring(row, "unicode")
        for row in ET.fromstring(svg).iter(f"{SVG}g")
        if row.get("class") == "row"
    }
    for name, sign, state in (
        ("good", "✓", "Succeeded"),
        ("bad", "✗", "Failed"),
        ("off", "↷", "Skipped"),
    ):
        assert sign in rows[name]
        assert f"url(#fill-{state})" in rows[name]
    assert "not started" in rows["never"]
    assert "Failed after 4s" in svg
    assert "now" not in svg


def test_a_name_cannot_write_into_the_picture() -> None:
    step = {"name": "a", "container": {"image": "<script>alert(1)</script>\x01"}}
    found = of_plan(WorkflowSpec.model_validate({"steps": [step]}))
    svg = PICTURES["gantt"](found, "<script>alert(1)</script>\x00\"'&")
    assert "<script" not in svg
    ET.fromstring(svg)


def test_an_unknown_picture_is_refused() -> None:
    with pytest.raises(InvalidError, match="gantt, layers"):
        picture_named("pie")
