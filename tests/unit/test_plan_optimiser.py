"""The optimiser: shorter plans of the same meaning; what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.crds.graph_builder import build_graph
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.planning.optimise import optimise
from seedbed.runtime.workflow.planning.plan import Plan
from seedbed.runtime.workflow.planning.renaming import in_expression, in_template
from tests.meaning import assert_same_meaning
from tests.plans import plans
from tests.runs import call


def workflow(*steps: dict[str, Any], **fields: Any) -> WorkflowSpec:
    return WorkflowSpec.model_validate({"steps": list(steps), **fields})


def needs(spec: WorkflowSpec) -> dict[str, set[str]]:
    return {name: {*node.needs} for name, node in build_graph(spec).nodes.items()}


@st.composite
def workflows(draw: st.DrawFn) -> WorkflowSpec:
    """Plans with data and plain order, pure steps and others, and few bodies so that some are equal."""
    plan: Plan = draw(plans(8))
    steps = []
    for at, name in enumerate(plan.names):
        read = [need for need in plan.needs[at] if draw(st.booleans())]
        args = {
            f"in{place}": f"${{steps['{plan.names[need]}'].output}}"
            for place, need in enumerate(sorted(read))
        }
        step: dict[str, Any] = {
            "name": name,
            "call": {"entry": f"steps:{draw(st.sampled_from('ab'))}", "args": args},
            "needs": [
                plan.names[need]
                for need in plan.needs[at]
                if need not in read or draw(st.booleans())
            ],
            "pure": draw(st.integers(0, 2)) > 0,
            "estimate": f"{draw(st.integers(1, 9))}s",
        }
        if read and draw(st.integers(0, 5)) == 0:
            step["when"] = f"size(steps.{plan.names[read[0]]}.output) > 0"
        if draw(st.integers(0, 9)) == 0:
            step["allowFailure"] = True
        steps.append(step)
    if draw(st.booleans()):
        shown = " + ".join(f"steps.{name}.state" for name in plan.names)
        return workflow(*steps, parallelism=draw(st.integers(1, 4)), result=shown)
    return workflow(*steps, parallelism=draw(st.integers(1, 4)))


@pytest.mark.req("COG-4.2.3")
@given(workflows())
@settings(max_examples=120, deadline=None)
def test_an_optimised_plan_means_the_same_and_is_never_longer(spec: WorkflowSpec) -> None:
    found = optimise(spec)
    assert found.after <= found.before
    assert_same_meaning(spec, found.spec, found.merged)
    again = optimise(found.spec)
    assert again.after <= found.after


def test_a_barrier_before_pure_steps_falls_and_effects_behind_them_still_wait() -> None:
    spec = workflow(
        call("slow", estimate="9s"),
        call("quick", estimate="1s"),
        call("read", needs=["slow"], pure=True, args={"x": "${steps.quick.output}"}),
        call("write", args={"x": "${steps.read.output}"}),
    )
    found = optimise(spec)
    assert needs(found.spec) == {
        "slow": set(),
        "quick": set(),
        "read": {"quick"},
        "write": {"read", "slow"},
    }
    assert found.counts["widened"] == 1
    assert "`slow`" in found.changes[0].message
    assert (found.before, found.after) == (11.0, 10.0)
    assert found.gain == pytest.approx(1 / 11)


def test_the_order_of_effects_and_every_need_with_data_stays() -> None:
    spec = workflow(
        call("first"),
        call("second", needs=["first"]),
        call("third", needs=["first", "second"], args={"x": "${steps.first.output}"}),
        call("fourth", needs=["first", "third"]),
    )
    found = optimise(spec)
    # No step is pure: only what is implied goes, and `third` reads `first`.
    assert found.spec is spec or needs(found.spec)["third"] == {"first", "second"}
    assert found.before == found.after


def test_a_need_that_is_implied_goes_where_the_plan_gets_shorter_at_all() -> None:
    steps = [call("a"), call("b", needs=["a"]), call("c", needs=["a", "b"])]
    alone = workflow(*steps)
    assert optimise(alone).spec is alone
    found = optimise(
        workflow(call("x"), call("y"), *steps, call("z", estimate="9s"), parallelism=2)
    )
    assert (found.before, found.after) == (10.0, 9.0)
    assert needs(found.spec)["c"] == {"b"}
    assert found.counts == {"reduced": 1, "reordered": 1}


def test_equal_pure_steps_run_once_and_readers_read_the_one_that_is_left() -> None:
    spec = workflow(
        call("load"),
        {
            "name": "parse-a",
            "call": {"entry": "steps:parse", "args": {"x": "${steps.load.output}"}},
            "pure": True,
        },
        {
            "name": "parse-b",
            "call": {"entry": "steps:parse", "args": {"x": "${steps.load.output}"}},
            "pure": True,
        },
        {
            "name": "count-a",
            "call": {"entry": "steps:count", "args": {"x": "n: ${steps['parse-a'].output}"}},
            "pure": True,
        },
        {
            "name": "count-b",
            "call": {"entry": "steps:count", "args": {"x": "n: ${steps['parse-b'].output}"}},
            "pure": True,
        },
        call(
            "join",
            args={"x": ["${steps['count-a'].output}", {"y": "$${ ${steps['count-b'].output} }"}]},
        ),
        parallelism=1,
        result="steps.join.output + steps['parse-b'].output",
    )
    found = optimise(spec)
    assert found.merged == {"parse-b": "parse-a", "count-b": "count-a"}
    assert [step.name for step in found.spec.steps] == ["load", "parse-a", "count-a", "join"]
    assert found.spec.result == "steps.join.output + steps['parse-a'].output"
    assert_same_meaning(spec, found.spec, found.merged)


@pytest.mark.parametrize(
    "change",
    [
        {"pure": False},
        {"when": "params.x"},
        {"timeout": "3s"},
        {"allowFailure": True},
        {"retry": {"attempts": 2}},
        {"pool": {"name": "other"}},
        {"call": {"entry": "steps:twin", "args": {"x": 2}}},
    ],
)
def test_steps_that_differ_are_not_merged(change: dict) -> None:
    twin = {"call": {"entry": "steps:twin", "args": {"x": 1}}, "pure": True}
    spec = workflow(
        {"name": "one", **twin},
        {"name": "two", **twin, **change},
        call("end", needs=["one", "two"]),
        parallelism=1,
        params={"x": True},
    )
    assert not optimise(spec).merged


def test_last_steps_are_not_merged_where_their_outputs_are_the_result() -> None:
    twin = {"call": {"entry": "steps:twin"}, "pure": True}
    steps = [{"name": "one", **twin}, {"name": "two", **twin}]
    assert not optimise(workflow(*steps, parallelism=1)).merged
    assert optimise(workflow(*steps, parallelism=1, result="steps.two.output")).merged


@pytest.mark.parametrize(
    "special",
    [
        {"join": "any"},
        {"onError": {"action": "skip"}},
    ],
)
def test_where_needs_mean_more_than_order_nothing_is_touched(special: dict) -> None:
    spec = workflow(
        call("slow", estimate="9s"),
        call("other"),
        call("odd", needs=["slow", "other"], **special),
        call("read", needs=["odd"], pure=True),
        call("write", needs=["read", "slow"]),
        parallelism=1,
    )
    found = optimise(spec)
    assert needs(found.spec) == needs(spec)
    whole = optimise(spec.model_copy(update={"on_error": spec.steps[2].on_error}))
    assert needs(whole.spec) == needs(spec)


def test_what_on_exit_steps_read_stays_and_they_end_the_plan() -> None:
    twin = {"call": {"entry": "steps:twin"}, "pure": True}
    spec = workflow(
        {"name": "one", **twin},
        {"name": "two", **twin},
        call("end", needs=["one", "two"], args={"x": "${steps.one.output + steps.two.output}"}),
        call("tell", args={"x": "${steps.two.output}"}, estimate="5s"),
        parallelism=1,
        onExit=["tell"],
    )
    found = optimise(spec)
    assert found.merged == {}
    plan = Plan.of(build_graph(spec))
    assert plan.needs[3] == (2,)


def test_long_paths_start_first_where_places_are_few() -> None:
    spec = workflow(
        *(call(f"short-{at}", estimate="1s") for at in range(4)),
        call("begin", estimate="1s"),
        call("end", needs=["begin"], estimate="4s"),
        parallelism=2,
    )
    found = optimise(spec)
    assert found.spec.steps[0].name == "begin"
    assert (found.before, found.after) == (7.0, 6.0)


def test_names_are_read_anew_everywhere_and_nothing_else_changes() -> None:
    names = {"a": "b", "a-b": "c", "x": "y-z"}
    text = "steps.a.output + 'steps.a' + item.steps.a + steps['a-b'].state + steps.ab.output"
    told = "steps.b.output + 'steps.a' + item.steps.a + steps.c.state + steps.ab.output"
    assert in_expression(text, names) == told
    assert in_expression("steps.x.output", names) == "steps['y-z'].output"
    value = {
        "steps.a": ["${steps.a.output} and $${steps.a.output}", 3, {"k": "${ {'q': steps.a} }"}]
    }
    assert in_template(value, names) == {
        "steps.a": ["${steps.b.output} and $${steps.a.output}", 3, {"k": "${ {'q': steps.b} }"}]
    }
