"""W3C trace context: which trace a piece of work belongs to, over every hop."""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, replace
from typing import Self

_HEADER = re.compile(
    r"(?P<version>[0-9a-f]{2})-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})"
    r"(?P<more>-.*)?"
)
_SAMPLED = 1


@dataclass(frozen=True, slots=True)
class TraceContext:
    """One hop of a trace.

    Attributes:
        trace: 32 hexadecimal digits, the same over all hops.
        span: 16 hexadecimal digits, this hop's own.
        sampled: whether the trace is recorded.
    """

    trace: str
    span: str
    sampled: bool = True

    @classmethod
    def new(cls) -> Self:
        """The first hop of a new trace."""
        return cls(_random_id(16), _random_id(8))

    @classmethod
    def parse(cls, header: str) -> Self | None:
        """What a `traceparent` header says, or None where it is not valid."""
        found = _HEADER.fullmatch(header.strip())
        if found is None or found["version"] == "ff":
            return None
        if found["more"] and found["version"] == "00":
            return None
        if not int(found["trace"], 16) or not int(found["span"], 16):
            return None
        return cls(found["trace"], found["span"], bool(int(found["flags"], 16) & _SAMPLED))

    @classmethod
    def following(cls, header: str) -> Self:
        """The hop behind the one in the header; a new trace where the header is not valid."""
        before = cls.parse(header)
        return cls.new() if before is None else before.child()

    def child(self) -> Self:
        """The next hop of the same trace."""
        return replace(self, span=_random_id(8))

    def __str__(self) -> str:
        """The `traceparent` header."""
        return f"00-{self.trace}-{self.span}-{_SAMPLED if self.sampled else 0:02x}"


def _random_id(size: int) -> str:
    # All zeros would mean that there is none.
    return next(found for found in iter(lambda: secrets.token_hex(size), "") if int(found, 16))
