"""How long a call waits for others to go along with. Pure.

Who waits pays with time, so nobody waits for a call that is not expected: only where calls of the same
kind have come closer together than what is left of the window. Where the next one is overdue by a few
of the usual gaps, those that wait go without it.
"""

from __future__ import annotations

from dataclasses import dataclass

_PATIENCE = 3.0
"""Usual gaps after which nobody is expected any more."""
_SHORTEST = 0.002
"""Seconds that a gap between two calls is easily off by on a busy machine."""
_WEIGHT = 0.3
"""Of the newest gap in the usual one."""


@dataclass(frozen=True, slots=True)
class Seen:
    """A group that waits, and the arrivals of its kind.

    Attributes:
        weight: of what waits.
        age: seconds since the first of them came.
        quiet: seconds since the last of them came.
        gap: usual seconds between two of the kind; None where only one was ever seen.
    """

    weight: int
    age: float
    quiet: float
    gap: float | None


def wait(seen: Seen, window: float, largest: int) -> float:
    """Seconds after which the group is to go if nobody comes; 0 for at once.

    Args:
        seen: the group.
        window: seconds that the first may wait.
        largest: weight from which on it goes at once.
    """
    left = window - seen.age
    if seen.weight >= largest or seen.gap is None or seen.gap > left:
        return 0.0
    return max(0.0, min(left, _PATIENCE * max(seen.gap, _SHORTEST) - seen.quiet))


def usual_gap(before: float | None, gap: float, window: float) -> float:
    """The usual gap after another one was seen.

    A gap beyond the window ends what was usual, and so does the first one within it: bursts begin and
    end at once.
    """
    if before is None or before > window or gap > window:
        return gap
    return before + _WEIGHT * (gap - before)
