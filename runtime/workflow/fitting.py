"""What a run can take in: JSON values up to a size, lists up to a length."""

from __future__ import annotations

from typing import Any

from seedbed.crds.errors import InvalidError
from seedbed.crds.messages import VALUE_LIMIT, StepError
from seedbed.crds.values import written

MAX_ITEMS = 100_000
"""Items that one forEach may have."""


def check_value(value: Any, field: str) -> None:
    """Pass where a value can be kept: JSON, not too deep, not too large."""
    if value is None or value == {}:
        return  # what most steps take and give; it need not be encoded to be small
    try:
        size = len(written(value, any_keys=True))
    except TypeError as error:
        raise InvalidError(field, f"cannot be written: {error}") from error
    if size > VALUE_LIMIT:
        raise InvalidError(field, f"has {size} bytes, at most {VALUE_LIMIT} are possible")


def unfit(output: Any, *, followed: bool) -> StepError | None:
    """Why an output cannot be taken; one whose items others follow has no more than they may have."""
    try:
        check_value(output, "output")
        if followed and isinstance(output, list):
            check_count(output, "output")
    except InvalidError as error:
        return StepError("value_too_large", error.message, retryable=False)
    return None


def check_count(items: list[Any], field: str) -> None:
    """Pass where a list has no more items than a forEach may have."""
    if too_many(len(items)):
        raise InvalidError(field, f"gives {len(items)} items, at most {MAX_ITEMS} are possible")


def too_many(count: int) -> bool:
    """Whether a forEach may not have so many items."""
    return count > MAX_ITEMS
