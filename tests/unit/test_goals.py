"""Goals taken apart: the tree's integrity, templates, planners with bounds, and the view."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.crds.errors import InvalidError, RetryableError, UnavailableError
from seedbed.crds.goal import GoalTemplate
from seedbed.runtime.workflow.planning.goals import model as models
from seedbed.runtime.workflow.planning.goals.model import ModelPlanner, PlannerAnswerError
from seedbed.runtime.workflow.planning.goals.planner import (
    Asked,
    Bounds,
    GoalTooLargeError,
    Part,
    decompose,
)
from seedbed.runtime.workflow.planning.goals.template import TemplatePlanner, read_template
from seedbed.runtime.workflow.planning.goals.tree import GoalTree, Growth, hierarchy, read_tree
from tests.conftest import run_async
from tests.planning_model import PlanningModel, serving

ROOT = Path(__file__).resolve().parents[2]
OPERATING_SYSTEM = ROOT / "examples" / "goals" / "operating-system.yaml"


def template(*rules: dict) -> TemplatePlanner:
    return TemplatePlanner(GoalTemplate.model_validate({"rules": list(rules)}))


def assert_whole(tree: GoalTree) -> None:
    """Every task but the goal has exactly one parent, which exists and stands one level above."""
    assert tree.tasks[0].parent == -1
    seen = [0]
    for number in seen:
        for part in tree.children[number]:
            assert tree.tasks[part].parent == number
            assert tree.tasks[part].level == tree.tasks[number].level + 1
            seen.append(part)
    assert sorted(seen) == list(range(len(tree.tasks)))


@pytest.mark.req("COG-4.1.1")
def test_an_operating_system_is_more_than_ten_thousand_tasks_on_more_than_a_hundred_levels() -> (
    None
):
    planner = TemplatePlanner(read_template(OPERATING_SYSTEM))
    tree = run_async(decompose("Build operating system", [planner], Bounds(max_tasks=20_000)))
    assert len(tree.tasks) > 10_000
    assert tree.depth >= 100
    assert (tree.cut, tree.calls) == ("", 0)
    assert_whole(tree)
    again = run_async(decompose("Build  operating system ", [planner], Bounds(max_tasks=20_000)))
    assert again.digest == tree.digest
    assert read_tree(tree.document()).digest == tree.digest


@st.composite
def trees(draw: st.DrawFn) -> GoalTree:
    growth = Growth.begin("goal", most_tasks=50)
    for number in range(1, draw(st.integers(1, 40))):
        growth.put(draw(st.integers(0, number - 1)), draw(st.text(max_size=5)) + "x")
    return growth.tree(planner="p", calls=3, cut="c")


@pytest.mark.req("COG-4.1.1")
@given(trees())
@settings(max_examples=100, deadline=None)
def test_a_tree_survives_its_document_and_its_hierarchy_holds_every_task_once(
    tree: GoalTree,
) -> None:
    assert_whole(tree)
    assert read_tree(tree.document()) == tree
    nested = json.loads(hierarchy(tree))
    found: list[int] = []

    def walk(task: dict, level: int) -> int:
        found.append(task["id"])
        assert (task["text"], task["level"]) == (tree.tasks[task["id"]].text, level)
        below = sum(walk(part, level + 1) + 1 for part in task.get("children", []))
        assert task["tasks"] == below
        return below

    walk(nested, 0)
    assert sorted(found) == list(range(len(tree.tasks)))


@pytest.mark.req("COG-4.1.1")
@pytest.mark.parametrize(
    ("tasks", "field"),
    [
        ([], "tree.tasks"),
        ([[0, "own parent", False]], r"tasks\[0\]"),
        ([[-1, "goal", False], [1, "own parent", False]], r"tasks\[1\]"),
        ([[-1, "goal", False], [2, "later", False], [0, "x", False]], r"tasks\[1\]"),
        ([[-1, "goal", False], [-1, "second goal", False]], r"tasks\[1\]"),
        ([["?", "goal", False]], "document"),
    ],
)
def test_a_tree_with_orphans_or_cycles_is_refused(tasks: list, field: str) -> None:
    document = {"version": 1, "planner": "", "calls": 0, "cut": "", "tasks": tasks}
    with pytest.raises(InvalidError, match=field):
        read_tree(orjson.dumps(document))


def test_a_part_of_a_tree_is_shown_as_deep_as_is_asked() -> None:
    growth = Growth.begin("goal", most_tasks=10)
    one = growth.put(0, "one")
    growth.put(one, "two")
    tree = growth.tree()
    assert json.loads(hierarchy(tree, levels=1))["children"] == [
        {"id": 1, "text": "one", "level": 1, "tasks": 1}
    ]
    assert json.loads(hierarchy(tree, under=1))["children"][0]["text"] == "two"
    with pytest.raises(InvalidError, match="no task 3"):
        hierarchy(tree, under=3)


def test_rules_fill_in_what_they_found() -> None:
    planner = template(
        {
            "goal": "Ship {what} to {where}",
            "into": [{"text": "Pack {what} {n}/{each}", "each": ["a", "b"], "count": 2}],
        },
        {"goal": "Pack {what}", "maxLevel": 1, "into": [{"text": "never at level {level}"}]},
    )
    tree = run_async(decompose("Ship tea to Oslo", [planner]))
    assert [task.text for task in tree.tasks[1:]] == [
        "Pack tea 1/a",
        "Pack tea 2/a",
        "Pack tea 1/b",
        "Pack tea 2/b",
    ]


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"goal": "a {x}", "into": [{"text": "{y}"}]}, r"rules\[0\].into\[0\].text.*`\{y\}`"),
        ({"goal": "{a} {b} {c}", "into": [{"text": "x"}]}, "at most 2 names"),
        ({"goal": "{a} {a}", "into": [{"text": "x"}]}, "each of them once"),
        ({"goal": "{level}", "into": [{"text": "x"}]}, "has a meaning already"),
    ],
)
def test_rules_that_cannot_work_are_refused(rule: dict, message: str) -> None:
    with pytest.raises(InvalidError, match=message):
        template(rule)


def test_a_template_file_that_is_wrong_is_named(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_text("rules: [{goal: x, into: [{txt: y}]}]")
    with pytest.raises(InvalidError, match=r"rules.yaml: .*rules.0.into.0"):
        read_template(file)
    with pytest.raises(InvalidError, match="absent"):
        read_template(tmp_path / "absent.yaml")


def test_rules_without_an_end_are_stopped_by_depth_or_refused_by_size() -> None:
    chain = template({"goal": "Go on {x}", "into": [{"text": "Go on {level}"}]})
    tree = run_async(decompose("Go on 0", [chain], Bounds(max_depth=7)))
    assert (tree.depth, len(tree.tasks)) == (7, 8)
    bush = template({"goal": "Go on {x}", "into": [{"text": "Go on {n}", "count": 10}]})
    with pytest.raises(GoalTooLargeError, match="more than 500 tasks"):
        run_async(decompose("Go on 0", [bush], Bounds(max_tasks=500)))
    huge = template({"goal": "x", "into": [{"text": "y", "count": 100_000}]})
    with pytest.raises(GoalTooLargeError):
        run_async(decompose("x", [huge], Bounds(max_tasks=500)))


@pytest.mark.parametrize(
    ("name", "value"), [("max_tasks", 0), ("max_depth", 999), ("max_calls", 0)]
)
def test_bounds_that_make_no_sense_are_refused(name: str, value: int) -> None:
    with pytest.raises(InvalidError, match=name):
        Bounds(**{name: value})


def test_a_goal_says_something() -> None:
    for goal in ("", "  ", "x" * 501):
        with pytest.raises(InvalidError, match="1 to 500"):
            run_async(decompose(goal, []))


@pytest.mark.req("COG-4.1.1")
def test_a_model_reaches_a_hundred_levels_without_a_hundred_calls_one_after_the_other() -> None:
    model = PlanningModel(width=3, levels=10, bushy=0)

    async def body() -> GoalTree:
        async with serving(model) as session:
            planner = ModelPlanner(session, "m", levels=10)
            return await decompose("reach it", [planner], Bounds(max_depth=100, max_tasks=5000))

    tree = run_async(body())
    assert_whole(tree)
    assert tree.depth == 100
    assert tree.calls == len(model.requests)
    assert tree.calls < 50
    form = model.requests[0]["response_format"]["json_schema"]["schema"]
    assert form["properties"]["tasks"]["items"]["required"] == ["id", "parent", "text", "whole"]
    # Its answers depend on the goals alone, so the tree does not depend on who answered first.
    assert run_async(body()).document() == tree.document()


@pytest.mark.req("COG-4.1.1")
def test_the_goals_of_a_level_are_asked_about_side_by_side_in_batches() -> None:
    model = PlanningModel(width=40, levels=1, bushy=1, latency=0.05)

    async def body() -> GoalTree:
        async with serving(model) as session:
            bounds = Bounds(max_depth=2, batch=5, concurrency=4)
            return await decompose("reach it", [ModelPlanner(session, levels=1)], bounds)

    tree = run_async(body())
    assert len(tree.tasks) == 1 + 40 + 1600
    assert tree.calls == len(model.requests) == 1 + 8
    assert model.most_at_once == 4
    assert_whole(tree)


def test_the_budget_of_calls_and_the_number_of_tasks_cut_a_models_tree_and_it_says_so() -> None:
    async def body(bounds: Bounds) -> GoalTree:
        async with serving(PlanningModel(width=10, levels=1, bushy=9)) as session:
            return await decompose("reach it", [ModelPlanner(session, levels=1)], bounds)

    few = run_async(body(Bounds(max_calls=3, batch=2)))
    assert (few.calls, few.cut) == (3, "the budget of 3 calls is spent")
    assert_whole(few)
    small = run_async(body(Bounds(max_tasks=64)))
    assert len(small.tasks) == 64
    assert "64 tasks already" in small.cut
    assert_whole(small)


def test_an_answer_that_is_no_plan_is_asked_for_again_and_refused_in_the_end() -> None:
    async def body(wrong: int) -> GoalTree:
        async with serving(PlanningModel(levels=1, wrong=wrong)) as session:
            return await decompose("reach it", [ModelPlanner(session)], Bounds(max_depth=1))

    assert len(run_async(body(2)).tasks) == 4
    with pytest.raises(PlannerAnswerError, match="no row belongs to a goal"):
        run_async(body(9))


def test_a_service_that_refuses_for_now_is_asked_again_and_no_other_call_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(models, "_WAIT", 0.001)

    async def body(refused: int) -> tuple[GoalTree, int]:
        service = PlanningModel(width=6, levels=1, bushy=1, refused=refused)
        async with serving(service) as session:
            planner = ModelPlanner(session, levels=1)
            return await decompose("reach it", [planner], Bounds(max_depth=2, batch=2)), len(
                service.requests
            )

    tree, requests = run_async(body(2))
    assert (len(tree.tasks), tree.calls, requests) == (1 + 6 + 36, 4, 4 + 2)
    with pytest.raises(UnavailableError, match="HTTP 503"):
        run_async(body(99))


class Telling:
    """A planner that makes two parts of everything, and never an end.

    Attributes:
        asked: of which goals.
    """

    costs_calls = True

    def __init__(self, *texts: str) -> None:
        self.asked: list[str] = []
        self.texts = texts

    def knows(self, asked: Asked) -> bool:
        return bool(asked.text)

    async def apart(self, goals: Sequence[Asked], room: int) -> Sequence[Sequence[Part]]:
        assert room
        self.asked += [goal.text for goal in goals]
        return [[Part(-1, text.format(goal.text)) for text in self.texts] for goal in goals]


def test_parts_that_lead_back_to_what_is_above_them_are_left_whole() -> None:
    planner = Telling("Dig", "dig a HOLE")
    tree = run_async(decompose("Dig a hole", [planner], Bounds(max_depth=250)))
    assert planner.asked == ["Dig a hole", "Dig"]
    assert [task.text for task in tree.tasks][3:] == ["Dig", "dig a HOLE"]
    assert_whole(tree)


def test_a_full_tree_costs_no_further_call() -> None:
    planner = Telling("{} a", "{} b")
    tree = run_async(decompose("do", [planner], Bounds(max_tasks=7, batch=1)))
    assert (len(tree.tasks), tree.calls) == (7, 3)
    assert "7 tasks already" in tree.cut


def test_what_the_rules_know_costs_no_call() -> None:
    known = template({"goal": "part {x}", "into": [{"text": "check {x}"}]})

    async def body() -> GoalTree:
        async with serving(PlanningModel(width=4, levels=1, bushy=9)) as session:
            return await decompose(
                "reach it", [known, ModelPlanner(session)], Bounds(max_depth=2, batch=1)
            )

    tree = run_async(body())
    # The goal and its last part, the only one that no rule knows.
    assert tree.calls == 2
    assert sum(task.text.startswith("check") for task in tree.tasks) == 3


class Silent:
    """A planner that waits for ever."""

    costs_calls = True

    def knows(self, asked: Asked) -> bool:
        return bool(asked)

    async def apart(self, goals: Sequence[Asked], room: int) -> Sequence[Sequence[Part]]:
        await asyncio.Event().wait()
        return []


def test_a_planner_that_does_not_answer_is_given_up() -> None:
    with pytest.raises(RetryableError, match="did not answer within"):
        run_async(decompose("reach it", [Silent()], Bounds(call_seconds=0.01)))
