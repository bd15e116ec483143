"""`map` and `filter` over long lists, in a time that does not grow with the square of their length.

The CEL engine makes the list of a `map` or `filter` by adding one item after the other to a copy of what it
has: 4,000 objects take half a minute, and nothing else runs meanwhile. So each of them is done in
three storeys, over lists of lists of lists that each have about the cube root of the items:

    x.filter(i, i > 5)
    x._parts().map(_of4, _of4.map(_in4, _in4.filter(i, i > 5)))._whole()

As every item goes through `_parts`, that also bounds the work of one evaluation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from seedbed.crds.tokens import Token, tokens

MOST_ITEMS = 500_000
"""Items that all `map` and `filter` of one evaluation may have together: some seconds of work."""
_BUILDS_A_LIST = frozenset({"map", "filter"})


def in_parts(text: str) -> str:
    """An expression that gives the same; the text as it is where no list is made in it."""
    found = [*tokens(text)]
    pieces: list[str] = []
    written = 0
    ends: list[bool] = []
    for at, token in enumerate(found):
        if token.text == "(":
            ends.append(makes_a_list(found, at))
        elif token.text == "." and makes_a_list(found, at + 2):
            pieces += [text[written : token.start], _opening(at)]
            written = token.start
        elif token.text == ")" and ends and ends.pop():
            pieces += [text[written : token.end], "))._whole()"]
            written = token.end
    return "".join([*pieces, text[written:]])


def numbers(count: int) -> list[int]:
    """CEL's `lists.range`: the numbers from 0 up to, not including, `count`."""
    if count > MOST_ITEMS:
        raise ValueError(f"lists.range gives at most {MOST_ITEMS:,} numbers")
    return list(range(count))


def check_count(items: int) -> None:
    """Pass where one evaluation may go through so many items.

    Raises:
        ValueError: it may not.
    """
    if items > MOST_ITEMS:
        raise ValueError(f"map and filter go through more than {MOST_ITEMS:,} items")


def functions() -> Mapping[str, Callable[[Any], Any]]:
    """What an expression in parts calls, for one evaluation."""
    seen = 0

    def parts(value: Any) -> list[list[list[Any]]]:
        nonlocal seen
        if not isinstance(value, (list, tuple, Mapping)):
            raise TypeError("map and filter take a list")
        items = list(value)
        seen += len(items)
        check_count(seen)
        size = max(1, math.ceil(len(items) ** (1 / 3)))
        return _cut(_cut(items, size), size)

    return {"_parts": parts, "_whole": _whole}


def _whole(value: Any) -> list[Any]:
    return [item for lists in value for items in lists for item in items]


def _cut(items: list[Any], size: int) -> list[list[Any]]:
    return [items[at : at + size] for at in range(0, len(items), size)]


def makes_a_list(found: list[Token], at: int) -> bool:
    """Whether the parenthesis at this place opens a macro that makes a list."""
    if not 1 < at < len(found):
        return False
    dot, name, opening = (found[place].text for place in (at - 2, at - 1, at))
    return dot == "." and name in _BUILDS_A_LIST and opening == "("


def _opening(at: int) -> str:
    return f"._parts().map(_of{at}, _of{at}.map(_in{at}, _in{at}"
