"""What pydantic finds wrong, as an error of ours."""

from __future__ import annotations

from pydantic import ValidationError

from seedbed.crds.errors import InvalidError


def invalid(error: ValidationError, *within: str, whole: str = "body") -> InvalidError:
    """The first thing that is wrong with a value.

    Args:
        error: pydantic's.
        within: where the value stands, such as `spec`.
        whole: names the value where all of it is wrong and it stands nowhere.
    """
    first = error.errors()[0]
    field = ".".join((*within, *(str(part) for part in first["loc"])))
    return InvalidError(field or whole, first["msg"].removeprefix("Value error, "))
