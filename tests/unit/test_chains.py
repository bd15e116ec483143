"""Chains of map and filter over long lists give the same in pieces as together."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seedbed.crds import chains
from seedbed.crds.cel_runtime import cel
from seedbed.crds.chains import chain_of
from seedbed.crds.comprehensions import MOST_ITEMS
from seedbed.crds.errors import InvalidError
from seedbed.crds.expressions import Expression, Scope
from seedbed.crds.tokens import tokens

CHAINS = [
    "params.l.filter(i, i.ok)",
    "params.l.map(i, i.n * 2)",
    "params.l.map(i, i)",
    "params.l.filter(i, i.n > 3 && !i.ok).map(j, j.n + 1)",
    "params['l'].map(i, i.ok, {'n': i.n})",
    "params.l.map(i, [i.n, i.n]).filter(p, p.exists(x, x % 3 == 0))",
    "params.l.map(i, math.abs(0 - i.n)).filter( n , '.map(x, y)'.size() > n)",
]
OTHERS = [
    "params.l",
    "[1, 2].map(i, i)",
    "params.l.filter(i, i.ok).size()",
    "size(params.l.filter(i, i.ok))",
    "params.l.filter(i, i.n > params.n)",
    "params.l.filter(i, i.n > index)",
    "params.l.filter(i, flag('x'))",
    "params.l.map(i, [i].map(j, j))",
    "params.l.exists(i, i.ok)",
    "params.l + params.l.map(i, i)",
    "params.l.map(i, i)[0]",
]
ROOTS, SPACES = frozenset({"params", "steps"}), frozenset({"math"})


@pytest.mark.parametrize("text", CHAINS)
def test_what_is_a_chain(text: str) -> None:
    assert chain_of(text, [*tokens(text)], ROOTS, SPACES) is not None


@pytest.mark.parametrize("text", OTHERS)
def test_what_is_none(text: str) -> None:
    assert chain_of(text, [*tokens(text)], ROOTS, SPACES) is None


@given(st.sampled_from(CHAINS), st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=40))
def test_pieces_give_what_the_whole_gives(text: str, given: list[tuple[int, bool]]) -> None:
    items = [{"n": number, "ok": ok} for number, ok in given]
    expression = Expression.parse(text, "f")
    whole = cel.evaluate(text.replace("math.abs(0 - i.n)", "i.n"), {"params": {"l": items}})
    assert expression.evaluate(Scope(params={"l": items})) == whole


def test_its_items_are_all_that_the_engine_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what stands around the list nor more of it than a piece."""
    seen: list[Any] = []
    context = cel.Context

    def noting(values: dict[str, Any], functions: Any) -> Any:
        seen.append(values)
        return context(values, functions)

    monkeypatch.setattr(cel, "Context", noting)
    items = list(range(20))
    scope = Scope(params={"l": items, "other": "x" * 1000})
    assert Expression.parse("params.l.map(i, i)", "f").evaluate(scope) == items
    assert seen == [{chains.PIECE: items[at : at + 8]} for at in (0, 8, 16)]


def test_errors_are_told_as_of_the_whole() -> None:
    text = "params.l.map(i, 10 / i)"
    for items in ([0], [*range(30, -1, -1)]):
        with pytest.raises(InvalidError, match=r"cannot evaluate `params\.l\.map"):
            Expression.parse(text, "f").evaluate(Scope(params={"l": items}))


def test_a_list_that_is_too_long_is_refused() -> None:
    items = [0] * (MOST_ITEMS // 2 + 1)
    with pytest.raises(InvalidError, match="more than 500,000 items"):
        Expression.parse("params.l.filter(i, true).map(i, i)", "f").evaluate(
            Scope(params={"l": items})
        )


@pytest.mark.parametrize("value", [{"a": 1}, [1, 2]])
def test_what_is_no_long_list_goes_as_a_whole(value: Any) -> None:
    found = Expression.parse("params.l.map(i, i)", "f").evaluate(Scope(params={"l": value}))
    assert found == list(value)
