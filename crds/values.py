"""Values that steps take and give, as JSON.

A value goes through several writers of JSON, inside of other values each time: a step's output stands in
a list of outputs, in a result, in a status. So its depth is bounded where it comes in, far below what the
writers take, and nothing that holds it can be refused later, where nobody could tell whose value it was.
"""

from __future__ import annotations

from typing import Any

import orjson

DEEPEST = 200
"""Levels of lists and objects that a value may have."""
_WRITER_TAKES = 254


def written(value: Any, *, any_keys: bool = False) -> bytes:
    """A value as JSON.

    Args:
        value: anything.
        any_keys: write keys that are no text as text.

    Raises:
        TypeError: what is wrong with it: it is no JSON, or nests too deep.
    """
    option = orjson.OPT_NON_STR_KEYS if any_keys else None
    try:
        data = orjson.dumps(value, option=option)
        # Only what has so many opening brackets can be that deep.
        if data.count(b"[") + data.count(b"{") > DEEPEST:
            for _ in range(_WRITER_TAKES - DEEPEST):
                value = [value]
            orjson.dumps(value, option=option)
    except orjson.JSONEncodeError as error:
        if "Recursion limit" not in str(error):
            raise
        raise TypeError(f"it nests more than {DEEPEST} levels deep") from error
    return data
