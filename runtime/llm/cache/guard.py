"""Facts that two prompts must share before likeness counts. Pure and symmetric."""

from __future__ import annotations

import re

_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")


def difference(one: str, other: str) -> str | None:
    """In which fact two prompts differ, or None."""
    if sorted(_NUMBER.findall(one)) != sorted(_NUMBER.findall(other)):
        return "number"
    return None
