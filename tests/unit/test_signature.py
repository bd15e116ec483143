"""Signatures: what they say, and what is said of wrong ones."""

from __future__ import annotations

import contextlib
import keyword
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.crds.errors import InvalidError
from seedbed.crds.signature import FieldType, Signature, SignatureField

scalars = st.sampled_from(["str", "int", "float", "bool", "dict"]).map(FieldType)
choices = st.lists(
    st.text(alphabet="abc '-", min_size=1, max_size=8), min_size=1, max_size=4, unique=True
).map(lambda texts: FieldType("Literal", choices=tuple(texts)))
types = st.recursive(
    scalars | choices,
    lambda inner: inner.map(lambda item: FieldType("list", item=item)),
    max_leaves=4,
)
names = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(
    lambda name: not keyword.iskeyword(name)
)


@st.composite
def signatures(draw: st.DrawFn) -> Signature:
    found = draw(st.lists(names, min_size=2, max_size=8, unique=True))
    fields = tuple(SignatureField(name, draw(types)) for name in found)
    split = draw(st.integers(1, len(fields) - 1))
    return Signature(fields[:split], fields[split:])


@pytest.mark.req("DSX-03")
@given(signatures(), st.sampled_from(["", " ", "  \n"]))
def test_what_is_written_is_read_again(signature: Signature, space: str) -> None:
    text = str(signature)
    assert Signature.parse(text) == signature
    assert Signature.parse(text.replace(" -> ", f"{space}->{space}")) == signature


@given(st.text(alphabet="ab: ,->[]'list Literal", max_size=40))
def test_any_text_is_a_signature_or_refused(text: str) -> None:
    with contextlib.suppress(InvalidError):
        assert Signature.parse(str(Signature.parse(text))) == Signature.parse(text)


@pytest.mark.req("DSX-05")
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "expected the name of an input at column 1, found the end"),
        ("a", "expected `,` or `->` at column 2, found the end"),
        ("a ->", "expected the name of an output at column 5, found the end"),
        ("a, -> b", "expected the name of an input at column 4, found `->`"),
        ("a: text -> b", "expected a type (str, int, float, bool, dict, list[T]"),
        ("a: list -> b", "expected `[` and the type of the items at column 9"),
        ("a: list[int -> b", "expected `]` at column 13"),
        ("a -> b: Literal[x]", "expected a text in quotes at column 17"),
        ("a -> b: Literal['x' 'y']", "expected `,` or `]` at column 21"),
        ("a -> a", "the field `a` appears twice, again at column 6"),
        ("a -> class", "no Python keyword"),
        ("a -> _b", "begins with a letter"),
        ("a b -> c", "expected `,` or `->` at column 3"),
        ("a -> b -> c", "expected `,` or the end at column 8"),
        ("a: " + "list[" * 9 + "int" + "]" * 9 + " -> b", "at most 8 lists in each other"),
        (",".join(f"a{at}" for at in range(65)) + " -> b", "at most 64 a side"),
    ],
)
def test_what_is_said_of_wrong_ones(text: str, said: str) -> None:
    with pytest.raises(InvalidError) as refused:
        Signature.parse(text)
    assert said in refused.value.expected


@pytest.mark.req("DSX-04")
@pytest.mark.parametrize(
    ("form", "good", "bad"),
    [
        ("str", ["", "é"], [1, None, []]),
        ("int", [0, -3], [1.5, True, "1"]),
        ("float", [1.5, 2], [False, "2"]),
        ("bool", [True], [0, "true"]),
        ("dict", [{}, {"a": 1}], [[], "x"]),
        ("list[list[int]]", [[], [[1], []]], [[1], [["a"]], "ab"]),
        ("Literal['a', 'b']", ["a"], ["c", 1, None]),
    ],
)
def test_types_accept_their_values(form: str, good: list[Any], bad: list[Any]) -> None:
    field = Signature.parse(f"x: {form} -> y").inputs[0].type
    assert all(field.accepts(value) for value in good)
    assert not any(field.accepts(value) for value in bad)


def test_chain_of_thought_adds_its_reasoning() -> None:
    signature = Signature.parse("a -> b: int")
    assert str(signature.with_strategy("Predict")) == "a: str -> b: int"
    assert str(signature.with_strategy("ChainOfThought")) == "a: str -> reasoning: str, b: int"
    with pytest.raises(InvalidError, match="leave it out"):
        Signature.parse("a -> reasoning").with_strategy("ChainOfThought")


def test_wrong_inputs_are_named() -> None:
    problems = Signature.parse("a: int, b -> c").input_problems({"a": "x", "z": 1}, "inputs")
    assert [str(problem) for problem in problems] == [
        "inputs.a: must be int",
        "inputs.b: is required, as str",
        "inputs.z: is not in the signature, which has a, b",
    ]
