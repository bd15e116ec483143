"""Agents become programs, and answers are held to the signature."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.crds.errors import InvalidError
from seedbed.crds.signature import Signature
from seedbed.runtime.agents.adapter import JsonAnswerAdapter
from seedbed.runtime.agents.answer_form import read, schema
from seedbed.runtime.agents.errors import AnswerMalformedError, UnknownModuleError
from seedbed.runtime.agents.program import build, fingerprint
from tests.answers import program

SIGNATURE = Signature.parse("a: str -> kind: Literal['x', 'y'], n: int, tags: list[str]")


def test_predict_has_the_declared_fields() -> None:
    found = build(program("document: str, n: int -> kind: Literal['x', 'y'], why: str"))
    assert [f.name for f in found.signature.inputs] == ["document", "n"]
    assert [f.name for f in found.signature.outputs] == ["kind", "why"]
    assert found.name == "reader"


def test_chain_of_thought_reasons_first() -> None:
    found = build(program("q: str -> a: str", strategy="ChainOfThought"))
    assert [f.name for f in found.signature.outputs] == ["reasoning", "a"]


@pytest.mark.req("DSX-07")
@pytest.mark.parametrize("strategy", ["Nope", "predict", "ReAct2"])
def test_an_unknown_module_is_named(strategy: str) -> None:
    with pytest.raises(UnknownModuleError) as refused:
        build(program("q: str -> a: str", strategy=strategy))
    assert refused.value.code == "module_not_found"
    assert strategy in refused.value.message


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"signature": "q -> "}, "spec.signature"),
        ({"signature": "q: os.PathLike -> a"}, "spec.signature"),
        ({"model": {"temperature": 9}}, "spec.model.temperature"),
        ({"colour": "red"}, "spec.colour"),
        ({"demos": [{"q": "x"}]}, "spec.demos[0].a"),
        ({"demos": [{"q": "x", "a": 3}]}, "spec.demos[0].a"),
        ({"strategy": "ChainOfThought", "signature": "q -> reasoning"}, "spec.signature"),
    ],
)
def test_a_wrong_spec_is_refused_with_its_field(changes: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidError) as refused:
        build({**program("q: str -> a: str"), **changes})
    assert refused.value.field == field


def test_a_demo_may_leave_out_the_reasoning_but_not_an_output() -> None:
    demo = {"q": "one and one", "a": "two"}
    found = build(program("q -> a", strategy="ChainOfThought", demos=[demo]))
    assert found.module.predictors()[0].demos == [demo]


def test_the_same_content_is_the_same_program() -> None:
    one = {"signature": "q -> a", "pool": {"name": "g"}}
    other = {"pool": {"name": "g"}, "signature": "q -> a"}
    assert fingerprint(one) == fingerprint(other)
    assert fingerprint(one) != fingerprint({**one, "strategy": "ChainOfThought"})


def test_an_answer_that_fits_is_given_in_the_signatures_order() -> None:
    found = read('{"tags": ["a"], "n": 3, "kind": "x"}', SIGNATURE, cut_off=False)
    assert list(found.items()) == [("kind", "x"), ("n", 3), ("tags", ["a"])]


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ('{"kind": "z", "n": 3, "tags": []}', "kind"),
        ('{"kind": "x", "n": "3", "tags": []}', "n"),
        ('{"kind": "x", "n": true, "tags": []}', "n"),
        ('{"kind": "x", "n": 3, "tags": [4]}', "tags"),
        ('{"kind": "x", "n": 3}', "tags"),
        ('{"kind": "x", "n": 3, "tags": [], "more": 1}', "more"),
        ('{"kind": "x", "n', "answer"),
        ('["x"]', "answer"),
        ("a kind of licence", "answer"),
    ],
)
def test_an_answer_that_does_not_fit_names_the_field_and_may_be_tried_again(
    text: str, field: str
) -> None:
    with pytest.raises(AnswerMalformedError) as refused:
        read(text, SIGNATURE, cut_off=False)
    assert (refused.value.field, refused.value.code) == (field, "answer_malformed")


def test_an_answer_that_was_cut_off_says_why() -> None:
    with pytest.raises(AnswerMalformedError, match="maxTokens"):
        read('{"kind": "x", "n": 1', SIGNATURE, cut_off=True)


def test_the_schema_names_every_output_with_its_type() -> None:
    form = schema(SIGNATURE.outputs, 100)
    assert form["required"] == ["kind", "n", "tags"]
    assert form["additionalProperties"] is False
    assert form["properties"]["kind"] == {"type": "string", "enum": ["x", "y"]}
    assert form["properties"]["n"] == {"type": "integer"}
    assert form["properties"]["tags"]["items"]["type"] == "string"


@given(st.integers(min_value=1, max_value=1_000_000))
def test_texts_are_bounded_only_where_the_answer_is_short(max_tokens: int) -> None:
    bounds = [
        each.get("maxLength")
        for each in schema(Signature.parse("q -> a, b").outputs, max_tokens)["properties"].values()
    ]
    wanted = max_tokens if max_tokens <= 1000 else None
    assert bounds == [wanted, wanted]


def test_the_prompt_shows_demos_as_answers_and_ends_with_the_inputs() -> None:
    demo = {"q": "one and one", "a": "two"}
    found = build(program("q -> a", instructions="Add.", demos=[demo]))
    adapter = JsonAnswerAdapter(found.signature, 50)
    messages = adapter.format(found.module.signature, [demo], {"q": "two and two"})
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user"]
    assert messages[0]["content"].startswith("Add.")
    assert messages[2]["content"] == '{"a":"two"}'
    assert "two and two" in messages[3]["content"]
