"""When a write is needed: what the server added is no difference, what somebody changed is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.operator.difference import covers, same_status

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("desired", "observed", "same"),
    [
        ({"a": 1}, {"a": 1, "added": 2}, True),
        ({"a": 1}, {"a": 2}, False),
        ({"a": [1, 2]}, {"a": [1]}, False),
        ({"a": [{"n": 1}]}, {"a": [{"n": 1, "default": "x"}]}, True),
        ({"a": []}, {}, True),
        ({"a": {}}, {}, True),
        ({"a": []}, {"a": [1]}, False),
        ({"a": None}, {}, True),
        ({"cpu": 1}, {"cpu": "1"}, True),
        ({"loss": 1.0}, {"loss": 1}, True),
        ({"on": 1}, {"on": True}, False),
        ({"on": True}, {"on": "True"}, False),
        ({"on": False}, {}, False),
    ],
)
def test_covers(desired: Any, observed: Any, same: bool) -> None:
    assert covers(desired, observed) is same


@given(JSON)
def test_everything_covers_itself(value: Any) -> None:
    assert covers(value, value)


@given(
    st.dictionaries(st.text(min_size=1, max_size=4), st.integers(), max_size=4),
    st.integers(min_value=0),
)
def test_a_status_is_the_same_whatever_its_token(status: dict[str, int], token: int) -> None:
    status.pop("fencingToken", None)
    assert same_status(status, {**status, "fencingToken": token})


def test_a_field_that_should_go_is_a_difference() -> None:
    assert not same_status({"phase": "Running"}, {"phase": "Running", "result": 1})
    stands = {"steps": [{"name": "a", "message": "of before"}], "next": {"name": "b", "at": 1}}
    assert not same_status({**stands, "steps": [{"name": "a"}]}, stands)
    assert not same_status({**stands, "next": {"name": "b"}}, stands)
    assert same_status({**stands, "steps": [{"name": "a", "message": "of before"}]}, stands)
