"""Templates: typed values, text, escapes."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.crds.errors import InvalidError
from seedbed.crds.expressions import Scope
from seedbed.crds.templates import Template, escape

SCOPE = Scope(params={"n": 2, "list": [1, "a"], "text": "x", "on": True, "none": None})
TEXT = st.text(alphabet=st.sampled_from([*"${}'\"ab \\\n", "é"]), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("${params.list}", [1, "a"]),
        ("${ params.n }", 2),
        ("n=${params.n}, ${params.text}!", "n=2, x!"),
        ("${params.list} ${params.on} ${params.none}", '[1,"a"] true null'),
        ("$${params.n} $ {} $$", "${params.n} $ {} $$"),
        ("$$${params.n}", "$${params.n}"),
        ("${ {'a': '}'}.a }${\"}{\" + '${'}", "}}{${"),
        ({"a": ["${params.n}", {"b": "$${"}], "c": 1}, {"a": [2, {"b": "${"}], "c": 1}),
        ("", ""),
        (None, None),
    ],
)
def test_rendering(template: Any, value: Any) -> None:
    assert Template.parse(template, "f").render(SCOPE) == value


def test_it_knows_what_it_reads() -> None:
    template = Template.parse(
        ["${steps.a.output}", {"k": "${flag('f', item)} ${steps.b.state}"}], "f"
    )
    assert template.steps == {"a", "b"}
    assert template.flags == {"f"}
    assert template.per_item
    assert [each.field for each in template.expressions] == ["f[0]", "f[1].k", "f[1].k"]
    assert not Template.parse("${params.item}", "f").per_item


@pytest.mark.parametrize(
    ("template", "field", "said"),
    [
        ({"a b": ["${1 +}"]}, "f['a b'][0]", "it ends too early"),
        ("${params.x", "f", "no closing `}`"),
        ("${'}", "f", "not a CEL expression"),
        ("echo ${HOME}", "f", "a plain `${` is written `$${`"),
        ("${}", "f", "it ends too early"),
    ],
)
def test_what_is_said_of_wrong_ones(template: Any, field: str, said: str) -> None:
    with pytest.raises(InvalidError) as refused:
        Template.parse(template, "f")
    assert refused.value.field == field
    assert said in refused.value.expected


@given(TEXT)
def test_an_escaped_text_renders_to_itself(text: str) -> None:
    template = Template.parse(escape(text), "f")
    assert template.expressions == ()
    assert template.render(SCOPE) == text


@given(JSON)
def test_a_value_without_expressions_renders_to_itself(value: Any) -> None:
    def escaped(inner: Any) -> Any:
        if isinstance(inner, str):
            return escape(inner)
        if isinstance(inner, list):
            return [escaped(item) for item in inner]
        if isinstance(inner, dict):
            return {key: escaped(item) for key, item in inner.items()}
        return inner

    assert Template.parse(escaped(value), "f").render(SCOPE) == value


@given(TEXT)
def test_any_text_is_a_template_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidError):
        Template.parse(text, "f")


@given(st.lists(TEXT | st.sampled_from([1, None, True])))
def test_values_between_text_keep_their_order(parts: list[Any]) -> None:
    params = {f"p{at}": part for at, part in enumerate(parts)}
    text = "|".join(f"${{params.p{at}}}" for at in range(len(parts))) + "|"
    expected = "|".join(part if isinstance(part, str) else json.dumps(part) for part in parts)
    assert Template.parse(text, "f").render(Scope(params=params)) == expected + "|"


@pytest.mark.parametrize("count", [2, 16, 17, 40])
def test_each_expression_is_evaluated_once_and_put_in_at_its_place(count: int) -> None:
    asked: list[str] = []

    def flag(name: str, subject: str | None) -> bool:
        asked.append(name)
        return True

    places = [f"${{flag('f{at}') ? {at} : 0}}" for at in range(count)]
    template = Template.parse({"all": places, "text": "".join(places[:2])}, "args")
    expected = {"all": list(range(count)), "text": "01"}
    assert template.render(Scope(flag=flag)) == expected
    assert asked == [*(f"f{at}" for at in range(count)), "f0", "f1"]
