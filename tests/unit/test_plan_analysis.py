"""Critical path, slack, bottlenecks and slowest paths against trying every path; list scheduling."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seedbed.crds.errors import InvalidError
from seedbed.crds.graph import Graph
from seedbed.crds.graph_builder import build_graph
from seedbed.crds.messages import StepError, StepKey
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.planning.critical_path import (
    bottlenecks,
    critical_path,
    slowest_paths,
)
from seedbed.runtime.workflow.planning.insight import Analysis, profile_told
from seedbed.runtime.workflow.planning.plan import Plan
from seedbed.runtime.workflow.planning.schedule import Job, simulate
from seedbed.runtime.workflow.planning.timings import UNKNOWN_SECONDS, Work, observe, works
from seedbed.runtime.workflow.records import (
    Record,
    StepExpanded,
    StepFailed,
    StepRepeated,
    StepScheduled,
    StepSkipped,
    StepSucceeded,
)
from tests.plans import every_path, length, plans
from tests.runs import call

SPANS = st.lists(st.integers(0, 20), min_size=9, max_size=9)


@pytest.mark.req("COG-4.2.2")
@given(plans(), SPANS)
@settings(max_examples=300, deadline=None)
def test_the_critical_path_is_the_longest_of_all(plan: Plan, times: list[int]) -> None:
    spans = [float(each) for each in times[: len(plan.names)]]
    found = critical_path(plan, spans)
    paths = every_path(plan)
    assert found.path in paths
    assert found.seconds == length(found.path, spans) == max(length(each, spans) for each in paths)
    for step, slack in enumerate(found.slack):
        longest = max(length(each, spans) for each in paths if step in each)
        assert slack == pytest.approx(found.seconds - longest)


@pytest.mark.req("COG-4.2.2")
@given(plans(), SPANS, st.integers(1, 12))
@settings(max_examples=300, deadline=None)
def test_the_slowest_paths_are_the_longest_ones(plan: Plan, times: list[int], count: int) -> None:
    spans = [float(each) for each in times[: len(plan.names)]]
    found = slowest_paths(critical_path(plan, spans), count)
    paths = every_path(plan)
    longest = sorted((length(each, spans) for each in paths), reverse=True)
    assert [path.seconds for path in found] == pytest.approx(longest[:count])
    assert len({path.steps for path in found}) == min(count, len(paths))
    for path in found:
        assert path.steps in paths
        assert path.seconds == pytest.approx(length(path.steps, spans))


@pytest.mark.req("COG-4.2.2")
@given(plans(), SPANS)
@settings(max_examples=300, deadline=None)
def test_a_bottlenecks_gain_is_what_its_disappearance_saves(plan: Plan, times: list[int]) -> None:
    spans = [float(each) for each in times[: len(plan.names)]]
    found = critical_path(plan, spans)
    told = bottlenecks(found, len(spans))
    assert {one.step for one in told} == set(found.path)
    assert [one.gain for one in told] == sorted((one.gain for one in told), reverse=True)
    for one in told:
        without = [0.0 if step == one.step else span for step, span in enumerate(spans)]
        assert one.gain == pytest.approx(found.seconds - critical_path(plan, without).seconds)


def test_steps_that_wait_for_each_other_are_refused() -> None:
    with pytest.raises(InvalidError, match="wait for each other"):
        Plan.build(["a", "b"], [[1], [0]])


def test_a_tie_of_ten_thousand_paths_costs_no_more_than_the_ten_that_are_told() -> None:
    """Twenty levels of two steps each way: 2 to the 20 equal paths."""
    needs = [[] if step < 2 else [step // 2 * 2 - 2, step // 2 * 2 - 1] for step in range(40)]
    plan = Plan.build([str(step) for step in range(40)], needs)
    found = slowest_paths(critical_path(plan, [0.1] * 40))
    assert len({path.steps for path in found}) == 10
    assert {round(path.seconds, 9) for path in found} == {2.0}


@given(plans(), SPANS, st.integers(1, 9))
@settings(max_examples=200, deadline=None)
def test_a_schedule_keeps_order_and_parallelism_and_leaves_no_place_free(
    plan: Plan, times: list[int], parallelism: int
) -> None:
    spans = [float(each) for each in times[: len(plan.names)]]
    found = simulate(plan, [Job(span) for span in spans], parallelism)
    for step, needs in enumerate(plan.needs):
        assert found.ends[step] == found.starts[step] + spans[step]
        assert all(found.starts[step] >= found.ends[need] for need in needs)
    for moment in {*found.starts}:
        busy = sum(
            start <= moment < end for start, end in zip(found.starts, found.ends, strict=True)
        )
        assert busy <= parallelism
    critical = critical_path(plan, spans).seconds
    # Graham's bounds: never better than both limits, never worse than their sum.
    assert max(critical, sum(spans) / parallelism) <= found.seconds
    assert found.seconds <= critical + sum(spans) / parallelism
    if parallelism >= len(spans):
        assert found.seconds == critical


def test_what_is_left_of_a_run_is_scheduled_from_now() -> None:
    plan = Plan.build(["done", "each", "last"], [[], [0], [1]])
    jobs = [Job(5.0, 0), Job(4.0, 3, (1.0,)), Job(2.0)]
    # One unit runs a second more; of the other three two run at a time.
    found = simulate(plan, jobs, 2)
    assert (found.starts[0], found.ends[0]) == (0.0, 0.0)
    assert found.starts[1] == 0.0
    assert found.ends[1] == 8.0
    assert found.seconds == 10.0


def graph(*steps: dict) -> Graph:
    return build_graph(WorkflowSpec.model_validate({"steps": list(steps)}))


def went(step: str, seconds: float, index: int = -1, began: float = 0.0) -> list[Record]:
    key = StepKey(step, index)
    return [
        StepScheduled(key, 1, began, "call", "general", 60.0, {}, {}),
        StepSucceeded(key, 1, began + seconds, "w", began, began + seconds, None),
    ]


def test_an_estimate_comes_from_what_is_most_alike() -> None:
    same = {"call": {"entry": "steps:same"}}
    found = graph(
        call("measured", estimate="9s"),
        call("before", estimate="9s"),
        call("told", estimate="90s"),
        {"name": "one", **same},
        {"name": "twin", **same},
        call("other"),
    )
    current = observe([*went("measured", 3.0), *went("one", 5.0)])
    earlier = [observe(went("before", seconds)) for seconds in (7.0, 8.0, 100.0)]
    told = works(found, current, earlier)
    assert [(each.seconds, each.source) for each in told] == [
        (3.0, "measured"),
        (8.0, "history"),
        (90.0, "declared"),
        (5.0, "measured"),
        (5.0, "similar"),
        (7.0, "similar"),
    ]
    assert {(each.seconds, each.source) for each in works(graph(call("a")), {})} == {
        (UNKNOWN_SECONDS, "default")
    }


def test_states_units_and_running_time_are_read_from_the_journal() -> None:
    found = graph(
        call("list"),
        call("each", forEach="steps.list.output"),
        call("off", when="false"),
        call("bad", retry={"attempts": 2}),
        call("none", forEach="[]"),
        call("later", forEach="steps.each.output"),
    )
    error = StepError("broken", "it broke")
    bad = StepKey("bad")
    records: list[Record] = [
        *went("list", 2.0, began=10.0),
        StepExpanded("each", 12.0, [1, 2, 3, 4]),
        *went("each", 4.0, 0, began=12.0),
        StepScheduled(StepKey("each", 1), 1, 13.0, "call", "general", 60.0, {}, {}),
        StepSkipped(StepKey("off"), 12.0),
        StepScheduled(bad, 1, 10.0, "call", "general", 60.0, {}, {}),
        StepFailed(bad, 1, 11.0, "w", 10.0, 11.0, error, retry_at=12.0),
        StepScheduled(bad, 2, 12.0, "call", "general", 60.0, {}, {}),
        StepFailed(bad, 2, 13.0, "w", 12.0, 13.0, error, retry_at=None),
        StepExpanded("none", 12.0, []),
    ]
    earlier = observe([StepExpanded("later", 0.0, [1, 2])])
    told = dict(zip(found.nodes, works(found, observe(records), [earlier]), strict=True))
    assert {name: work.state for name, work in told.items()} == {
        "list": "Succeeded",
        "each": "Running",
        "off": "Skipped",
        "bad": "Failed",
        "none": "Succeeded",
        "later": "Waiting",
    }
    assert (told["each"].units, told["each"].ended, told["each"].running) == (4, 1, (13.0,))
    assert told["later"].units == 2
    assert told["list"].span(100.0, 5) == 2.0
    # Two at a time: four units of 4 s are 8 s; one that hangs makes it longer.
    assert told["each"].span(14.0, 2) == 8.0
    assert told["each"].span(30.0, 2) == 18.0
    job = told["each"].job(14.0)
    assert (job.units, job.running) == (2, (3.0,))
    assert Work(3.0, "declared", 1, 0, (5.0,), "Running").span(6.0, 1) == 3.0


def test_what_a_unit_took_counts_all_its_iterations_and_what_it_cost_all_attempts() -> None:
    key, error = StepKey("poll"), StepError("broken", "it broke")
    records: list[Record] = [
        StepScheduled(key, 1, 10.0, "call", "general", 60.0, {}, {}),
        StepFailed(key, 1, 12.0, "w", 10.0, 12.0, error, retry_at=13.0),
        StepRepeated(key, 2, 16.0, "w", 13.0, 16.0, None, 0, 18.0),
        StepSucceeded(key, 3, 20.0, "w", 18.0, 20.0, None),
    ]
    times = observe(records)["poll"]
    assert (times.durations, times.spent) == ([7.0], 2.0 + 3.0 + 2.0)


@pytest.mark.req("DSX-37")
def test_the_time_of_a_mixed_pipeline_is_split_by_kind_and_stage() -> None:
    agent = {"name": "reader", "inputs": {"x": "${item}"}}
    spec = WorkflowSpec.model_validate(
        {
            "steps": [
                call("list"),
                {"name": "read", "agent": agent, "forEach": "steps.list.output"},
                {"name": "scan", "container": {"image": "scan:1"}, "needs": ["list"]},
                call("table", needs=["read", "scan"]),
                call("later", needs=["table"]),
            ]
        }
    )
    records = [
        *went("list", 1.0),
        StepExpanded("read", 1.0, ["a", "b"]),
        *went("read", 6.0, 0),
        *went("read", 2.0, 1),
        *went("scan", 10.0),
        *went("table", 1.0),
    ]
    found = build_graph(spec)
    times = observe(records)
    told = profile_told(Analysis(spec, found, works(found, times), 30.0, times=times))
    assert told["workerSeconds"] == 20.0
    assert told["kinds"] == {
        "call": {"steps": 2, "units": 2, "seconds": 2.0, "share": 0.1},
        "agent": {"steps": 1, "units": 2, "seconds": 8.0, "share": 0.4},
        "container": {"steps": 1, "units": 1, "seconds": 10.0, "share": 0.5},
    }
    assert list(told["bodies"])[:2] == ["container scan:1", "agent reader"]
    assert [sorted(stage) for stage in told["stages"]] == [
        ["call"],
        ["agent", "container"],
        ["call"],
    ]
    assert sum(share["share"] for stage in told["stages"] for share in stage.values()) == 1.0
