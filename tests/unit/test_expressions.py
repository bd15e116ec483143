"""CEL expressions: what they name, what they give, and what is said of wrong ones."""

from __future__ import annotations

from typing import Any

import pytest

from seedbed.crds.cel_runtime import cel
from seedbed.crds.errors import InvalidError, NotFoundError
from seedbed.crds.expressions import Expression, Scope

SCOPE = Scope(
    params={"n": 2, "text": "a,b", "none": None, "day": {"from": 1}},
    steps={"read": {"output": [1, 2, 3]}, "read-file": {"output": {"x": 1.5}}},
    run={"id": "r1", "namespace": "team", "workflow": "w"},
    flag=lambda name, subject: (name, subject) in {("style", "pip"), ("all", None)},
    item={"name": "pip"},
    index=4,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("params.n + 1", 3),
        ("steps.read.output[1]", 2),
        ("steps['read-file'].output.x", 1.5),
        ('steps["read-file"].output.x', 1.5),
        ("item.name + string(index)", "pip4"),
        ("run.namespace", "team"),
        ("flag('style', item.name)", True),
        ("flag('style', 'uv')", False),
        ("flag('all')", True),
        ("params.none", None),
        ("has(params.missing) ? params.missing : 'none'", "none"),
        ("false && params.missing", False),
        ("steps.read.output.map(x, x * 2).filter(x, x > 2)", [4, 6]),
        ("steps.read.output.exists(x, x == 3) && steps.read.output.all(x, x > 0)", True),
        ("size(steps.read.output) == 3", True),
        ("params.text.split(',').join('-')", "a-b"),
        ("['b', 'a'].sort().first()", "a"),
        ("[].first()", None),
        ("math.greatest(1, params.n)", 2),
        ("toJson({'a': [1, null]})", '{"a":[1,null]}'),
        ("parseJson('{\"a\": 1}').a", 1),
        ("{'a': 1u, 2: b'x'}", {"a": 1, "2": "x"}),
        ("timestamp('2026-01-02T03:04:05Z')", "2026-01-02T03:04:05Z"),
        ("duration('90m')", "5400s"),
        ("type(params.n) == int", True),
        ("'}' + \"'\" // a remark", "}'"),
        ("params.text.matches('^a') ? 1 : 2", 1),
    ],
)
def test_values(text: str, value: Any) -> None:
    found = Expression.parse(text, "f").evaluate(SCOPE)
    assert found == value
    assert type(found) is type(value)


def test_it_knows_what_it_reads() -> None:
    text = (
        "steps.a.output + steps['b-c'].output.map(x, x.steps.d) + [flag('one', \"steps.e\"), item]"
    )
    expression = Expression.parse(text, "f")
    assert expression.steps == {"a", "b-c"}
    assert expression.flags == {"one"}
    assert expression.variables == {"steps", "item"}
    assert expression.per_item
    assert not Expression.parse("'item ' + params.item", "f").per_item


def test_only_the_steps_it_names_are_read() -> None:
    class Watched(dict[str, Any]):
        def __getitem__(self, key: str) -> Any:
            assert key == "a", "converting every step would make a run's cost quadratic"
            return super().__getitem__(key)

    steps = Watched({f"s{at}": {"output": at} for at in range(1000)} | {"a": {"output": 7}})
    assert Expression.parse("steps.a.output", "f").evaluate(Scope(steps=steps)) == 7


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it ends too early"),
        ("1 +", "it ends too early at column 4"),
        ("a ? b", "it ends too early"),
        ("params.x = 1", "unexpected '= ' at column 10"),
        ("params.x\n  ) + 1", "at line 2, column 3"),
        ("nope", "unknown variable `nope`; there are index, item, iteration, output, params"),
        ("param.x", "did you mean `params`?"),
        ("sizee('a')", "unknown function `sizee()`; did you mean `size`?"),
        ("math.greatst(1, 2)", "did you mean `math.greatest`?"),
        ("params.x.trimm()", "did you mean `trim`?"),
        ("steps.my-step.output", "is written steps['my-step']"),
        ("steps.step-2-b.output", "is written steps['step-2-b']"),
        ("steps[params.x].output", "with a literal name"),
        ("size(steps)", "with a literal name"),
        ("steps.map(k, k)", "with a literal name"),
        ("flag(params.x)", "flag('name')"),
        ("flag('a' + 'b')", "flag('name')"),
        ("[1].map(item, item)", "`item` has a meaning already"),
        ("[[", "it ends too early"),
        ("(" * 2000, "is not a CEL expression"),
        ("😀", "is not a CEL expression"),
        ("[1].map(x, " * 85 + "1" + ")" * 85, "has too many macros within macros"),
    ],
)
def test_what_is_said_of_wrong_text(text: str, said: str) -> None:
    with pytest.raises(InvalidError) as refused:
        Expression.parse(text, "spec.steps[0].when")
    assert refused.value.field == "spec.steps[0].when"
    assert said in refused.value.expected
    assert "\n" not in refused.value.expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("params.missing", "there is no 'missing'"),
        ("1 / 0", "division by zero"),
        ("params.n + 1.5", "No such overload"),
        ("steps.read.output[9]", "out of bounds"),
        ("string([1])", "string() does not take such values"),
        ("1.0 / 0.0", "JSON cannot write"),
        ("parseJson('{')", "unexpected end of data"),
        ("[1, 'a'].sort()", "not supported between"),
        ("steps.gone.output", "there is no 'gone'"),
        ("3.map(x, x)", "map and filter take a list"),
        ("lists.range(1000000)", "lists.range gives at most 500,000 numbers"),
    ],
)
def test_what_is_said_of_wrong_values(
    text: str, said: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InvalidError) as refused:
        Expression.parse(text, "spec.result").evaluate(SCOPE)
    assert refused.value.field == "spec.result"
    assert said in refused.value.expected
    assert capfd.readouterr().err == "", "the library must not write to standard error"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[3, 1, 2].map(x, x * 2)", [6, 2, 4]),
        ("[3, 1, 2].map(x, x > 1, x * 2)", [6, 4]),
        ("[3, 1, 2].filter(x, x > 1)", [3, 2]),
        ("[].map(x, x)", []),
        ("{'a': 1}.map(k, k)", ["a"]),
        ("[[1], [2, 3]].map(x, x.filter( y , y > 1 ).map(y, [y]))", [[], [[2], [3]]]),
        ("[1].map(i, ')') + ['.map(x, y)']", [")", ".map(x, y)"]),
        ("[1, 2].all(x, [x].map(y, y).size() == 1) ? [1].filter(i, true) : []", [1]),
        ("[{'n': 1, 's': ['a']}, {'n': 2, 's': []}].filter(x, size(x.s) > 0).map(x, x.n)", [1]),
    ],
)
def test_lists_are_made_as_cel_says(text: str, value: Any) -> None:
    assert cel.evaluate(text) == value
    assert Expression.parse(text, "f").evaluate(Scope()) == value


def test_long_lists_are_no_work_of_hours() -> None:
    """The engine that evaluates it does nothing else meanwhile; the CEL library alone takes minutes."""
    items = [{"at": at, "text": "x" * 50, "tags": ["a", "b"]} for at in range(8_000)]
    text = "size(params.items.filter(i, i.at > 9).map(i, i.tags.filter(t, t == 'a')))"
    assert Expression.parse(text, "f").evaluate(Scope(params={"items": items})) == 7_990


def test_lists_in_lists_have_a_bound(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("seedbed.crds.comprehensions.MOST_ITEMS", 100)
    enough = Expression.parse("lists.range(9).map(x, lists.range(9).map(y, x * y))", "f")
    assert enough.evaluate(Scope())[8][8] == 64
    with pytest.raises(InvalidError, match="map and filter go through more than 100 items"):
        Expression.parse("lists.range(9).map(x, lists.range(99).map(y, y))", "f").evaluate(Scope())
    assert capfd.readouterr().err == ""


def test_an_error_of_a_flag_comes_out_as_it_is() -> None:
    def flag(name: str, _subject: str | None) -> bool:
        raise NotFoundError("FeatureFlag", name)

    with pytest.raises(NotFoundError):
        Expression.parse("flag('gone') || true", "f").evaluate(Scope(flag=flag))
