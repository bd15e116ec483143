"""What may cost much is known before it is evaluated, and what is cheap is evaluated at once."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from seedbed.crds.errors import InvalidError
from seedbed.crds.expression_cost import LONGEST
from seedbed.crds.expressions import Expression, Pending, Scope
from seedbed.crds.templates import FEW, Template
from seedbed.runtime.workflow.evaluation import evaluations
from seedbed.runtime.workflow.evaluation.evaluations import Evaluations

ITEMS = [{"name": f"item-{at}", "ok": True} for at in range(5)]


def is_cheap(expressed: str, **params: Any) -> bool:
    expression = Expression.parse(expressed, "f")
    return expression.cost.is_cheap(orjson.dumps(expression.reads(Scope(params=params))))


@pytest.mark.parametrize(
    "text",
    [
        "params.n + 1 > 3 && size(params.items) < 10",
        "params.items.filter(x, x.ok).map(x, x.name)",
        "params.items.exists(x, x.name == 'item-2') ? params.n : 0",
        "params.text.split(',').join('-')",
        "params.items.map(x, x.name).join(', ')",
        "params.text.replace('item', 'part')",
        "toJson(params.items)",
        "params.text.matches('^[a-z]+$')",
        "lists.range(1000)",
        "lists.range(20).map(x, x * 2)",
    ],
)
def test_what_people_write_is_cheap_on_what_is_small(text: str) -> None:
    assert is_cheap(text, n=1, items=ITEMS, text="a,b")


@pytest.mark.parametrize(
    "text",
    [
        "params.items.map(x, params.items.map(y, params.items.map(z, 1)))",
        "['xxxxxxxx']" + ".map(t, t + t)" * 12,
        "lists.range(500000)",
        "lists.range(params.n)",
        "lists.range(9" + "0" * 17 + ")",
        "lists.range(200).map(x, lists.range(200)).map(x, lists.range(200))",
        "params.text.replace('', params.text).replace('', params.text)",
        "params.text.matches('(a{1000}){1000}')",
        "params.text.matches(params.text)",
        "params.long + 'x'",
        "params.items.map(x, 'x').join(params.text)",
        "params.items.map(x, 'x').join('')",
    ],
)
def test_what_grows_is_not(text: str) -> None:
    assert not is_cheap(text, n=3, items=list(range(500)), text="x" * 20_000, long="x" * 40_000)


_LEAVES = st.sampled_from(
    [
        "params.a",
        "params.b",
        "[1, 2, 3]",
        "['x', params.c]",
        "[params.b, params.a]",
        "lists.range(30)",
    ]
)


def _grown(lists: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    bodies = st.sampled_from(["{v}", "[{v}, {v}]", "[{v}, params.a]", "toJson({v})"])
    return st.one_of(
        st.tuples(lists, lists).map(lambda pair: f"({pair[0]} + {pair[1]})"),
        st.tuples(lists, bodies, st.sampled_from("uvw")).map(
            lambda made: f"{made[0]}.map({made[2]}, {made[1].format(v=made[2])})"
        ),
        st.tuples(lists, lists).map(lambda pair: f"{pair[0]}.map(o, {pair[1]})"),
        lists.map(lambda made: f"{made}.filter(f, true)"),
        lists.map(lambda made: f"toJson({made}).replace('1', toJson(params.b)).split(',')"),
        lists.map(lambda made: f"{made}.distinct()"),
    )


@settings(max_examples=150)
@given(st.recursive(_LEAVES, _grown, max_leaves=6), st.integers(0, 30), st.integers(0, 200))
def test_nothing_that_is_cheap_makes_more_than_was_told(text: str, items: int, length: int) -> None:
    params = {"a": [1] * items, "b": ["x" * length], "c": "y"}
    expression = Expression.parse(text, "f")
    read = orjson.dumps(expression.reads(Scope(params=params)))
    assume(expression.cost.is_cheap(read))
    made = len(orjson.dumps(expression.compute(Scope(params=params))))
    count = 1 + read.count(b",") + read.count(b"[") + read.count(b"{")
    assert made <= expression.cost.most(len(read), count)


def test_a_path_gives_what_stands_there_and_copies_nothing() -> None:
    big = [{"name": "a"}, {"name": "b"}]
    scope = Scope(
        params={"big": big, "in": {"a-b": 1}}, steps={"s-1": {"output": big}}, index=1, item=big[0]
    )
    assert Expression.parse("params.big", "f").evaluate(scope) is big
    assert Expression.parse("steps['s-1'].output[index]", "f").evaluate(scope) is big[1]
    assert Expression.parse("params['in']['a-b']", "f").evaluate(scope) == 1
    assert Expression.parse("item.name", "f").evaluate(scope) == "a"
    for wrong in ("params.big[7]", "params.big.name", "params.nothing", "item[0]"):
        with pytest.raises(InvalidError, match=r"cannot evaluate"):
            Expression.parse(wrong, "f").evaluate(scope)


def test_of_the_parameters_only_those_that_it_names_are_read() -> None:
    scope = Scope(params={"n": 1, "m": 2, "big": ["x"] * 1000})
    assert Expression.parse("params.n + params.m", "f").reads(scope) == {"params": {"n": 1, "m": 2}}
    assert Expression.parse("size(params) + params.n", "f").reads(scope)["params"] == scope.params
    assert Expression.parse("params['n'] + 1", "f").reads(scope)["params"] == scope.params


@pytest.mark.parametrize(
    "text", ["+".join("1" * 40_000), "params" + ".a" * 1500, "'" + "x" * LONGEST + "'"]
)
def test_text_that_would_overflow_the_stack_is_refused(text: str) -> None:
    """The CEL library ends the whole process otherwise."""
    with pytest.raises(InvalidError, match=r"at most [\d,]+ are possible"):
        Expression.parse(text, "f")


def test_a_short_template_cannot_repeat_a_long_text_for_ever() -> None:
    scope = Scope(params={"text": "x" * 1_000_000})
    many = Template.parse({"all": "${params.text}" * (FEW + 10_000)}, "f")
    with pytest.raises(InvalidError, match="puts in more than 4194304 bytes"):
        many.render(scope)
    small = Template.parse(["${params.text}"] * (FEW + 1), "f")
    assert small.render(Scope(params={"text": "a"})) == ["a"] * (FEW + 1)


def test_cheap_expressions_share_the_time_of_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that has many of them goes on in the next turn, and others have theirs between."""
    monkeypatch.setattr(evaluations, "TURN_SECONDS", 1e-9)
    woken: list[str] = []
    engine = Evaluations()
    engine.wake = dict.fromkeys(range(16), woken.append)
    evaluate = engine.of("run-1")
    expression = Expression.parse("params.n + 1", "f")
    assert evaluate(expression, Scope(params={"n": 1})) == 2
    with pytest.raises(Pending) as pending:
        evaluate(expression, Scope(params={"n": 1}))
    engine.new_turn()
    assert evaluate(expression, Scope(params={"n": 1})) == 2
    assert pending.value.full
    assert woken == ["run-1"]
