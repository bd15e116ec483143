"""The graph of a Workflow: levels, implied needs, and what is refused."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.crds.errors import InvalidError
from seedbed.crds.graph_builder import build_graph, graph_problems
from seedbed.crds.step import EntryCall, Step
from seedbed.crds.workflow import WorkflowSpec

CALL = {"entry": "m:f"}


def spec(*steps: dict[str, Any], **more: Any) -> WorkflowSpec:
    filled = [{"call": CALL, **step} if step.keys().isdisjoint(("agent", "container")) else step
              for step in steps]  # fmt: skip
    return WorkflowSpec.model_validate({"steps": filled, **more})


def test_needs_are_those_named_and_those_read() -> None:
    graph = build_graph(
        spec(
            {"name": "a"},
            {"name": "b-c", "needs": ["a"]},
            {"name": "when", "when": "steps.a.output > 1"},
            {"name": "each", "forEach": "steps['b-c'].output", "when": "item > steps.when.output"},
            {"name": "in", "agent": {"name": "x", "inputs": {"q": "${steps.each.output}"}}},
            {
                "name": "pod",
                "needs": ["a"],
                "container": {
                    "image": "i",
                    "command": ["${steps['b-c'].state}"],
                    "args": ["${flag('f')}"],
                },
            },
            result="steps.pod.output",
        )
    )
    assert {name: node.needs for name, node in graph.nodes.items()} == {
        "a": (),
        "b-c": ("a",),
        "when": ("a",),
        "each": ("b-c", "when"),
        "in": ("each",),
        "pod": ("a", "b-c"),
    }
    assert graph.roots == ("a",)
    assert graph.leaves == ("in", "pod")
    assert graph.levels == (("a",), ("b-c", "when"), ("each", "pod"), ("in",))
    assert graph.dependents["a"] == ("b-c", "when", "pod")
    assert graph.flags == {"f"}
    assert graph.result is not None
    assert graph.result.steps == {"pod"}


@pytest.mark.req("DSX-20")
def test_a_cycle_is_refused_with_its_path() -> None:
    with pytest.raises(InvalidError) as refused:
        build_graph(
            spec(
                {"name": "start"},
                {"name": "a", "needs": ["start", "b"]},
                {"name": "b", "when": "steps.c.output"},
                {"name": "c", "needs": ["a"]},
                {"name": "behind", "needs": ["a"]},
            )
        )
    assert refused.value.field == "spec.steps[1].needs"
    assert "a → b → c → a" in refused.value.expected


def test_everything_wrong_is_told_at_once() -> None:
    broken = spec(
        {"name": "a", "needs": ["x"]},
        {"name": "a", "when": "1 +"},
        {"name": "b", "call": {"entry": "m:f", "args": {"x": "${index}"}}},
        {"name": "c", "agent": {"name": "x"}, "call": CALL},
        result="steps.y.output + item",
    )
    assert [error.field for error in graph_problems(broken)] == [
        "spec.steps[1].name",
        "spec.steps[0].needs[0]",
        "spec.steps[1].when",
        "spec.steps[2].call.args.x",
        "spec.steps[3]",
        "spec.result",
        "spec.result",
    ]


def test_a_when_reads_the_item_only_with_for_each() -> None:
    build_graph(spec({"name": "a", "forEach": "[1]", "when": "item == 1"}))
    with pytest.raises(InvalidError, match="add forEach"):
        build_graph(spec({"name": "a", "when": "item == 1"}))


def of_edges(count: int, edges: set[tuple[int, int]]) -> WorkflowSpec:
    """Steps `s0`..; an edge (a, b) means that b needs a."""
    steps = tuple(
        Step(
            name=f"s{at}",
            call=EntryCall(entry="m:f"),
            needs=tuple(f"s{a}" for a, b in sorted(edges) if b == at),
        )
        for at in range(count)
    )
    return WorkflowSpec(steps=steps)


pairs = st.sets(st.tuples(st.integers(0, 11), st.integers(0, 11)), max_size=40)


@pytest.mark.req("DSX-20")
@given(pairs, st.permutations(range(12)))
def test_levels_respect_needs(found: set[tuple[int, int]], order: list[int]) -> None:
    # Edges run along a random order, so that there is no cycle.
    rank = {step: at for at, step in enumerate(order)}
    edges = {(a, b) if rank[a] < rank[b] else (b, a) for a, b in found if a != b}
    graph = build_graph(of_edges(12, edges))
    level = {name: at for at, names in enumerate(graph.levels) for name in names}
    assert sorted(level) == sorted(graph.nodes)
    for node in graph.nodes.values():
        longest = max((level[need] for need in node.needs), default=-1)
        assert level[node.name] == longest + 1, "the first level after all that it needs"
    assert set(graph.roots) == set(graph.levels[0])
    assert {(a, b) for a in graph.nodes for b in graph.dependents[a]} == {
        (f"s{a}", f"s{b}") for a, b in edges
    }


@given(pairs, st.lists(st.integers(0, 11), min_size=2, max_size=12, unique=True))
def test_a_random_cycle_is_refused_with_a_real_one(
    found: set[tuple[int, int]], ring: list[int]
) -> None:
    edges = {(a, b) for a, b in found if a != b}
    edges |= {(a, b) for a, b in zip(ring, [*ring[1:], ring[0]], strict=True)}
    problems = graph_problems(of_edges(12, edges))
    assert len(problems) == 1
    path = problems[0].expected.removeprefix("the steps wait for each other: ").split(" → ")
    assert path[0] == path[-1]
    if not any("…" in name for name in path):
        drawn = {(int(b[1:]), int(a[1:])) for a, b in pairwise(path)}
        assert drawn <= edges


def test_a_large_graph_is_built() -> None:
    count = 10_000
    steps = tuple(
        Step.model_construct(
            name=f"s{at}",
            call=EntryCall.model_construct(entry="m:f", args={}),
            needs=tuple({f"s{(at * 7 + k * 13) % at}" for k in range(5)}) if at else (),
        )
        for at in range(count)
    )
    graph = build_graph(WorkflowSpec.model_construct(steps=steps, result=None))
    assert sum(len(names) for names in graph.levels) == count
