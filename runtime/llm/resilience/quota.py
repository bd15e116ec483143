"""How much of a provider's rate limit is used. Pure: it is told the time.

Two sources: the limits that the models file states, counted here over the last minute, and what the
provider tells with each answer (`x-ratelimit-*`, `retry-after`). The stricter one counts.
"""

from __future__ import annotations

import math
import re
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

ALERT_AT = 0.8
MINUTE = 60.0
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}

Unit = Literal["requests", "tokens"]
UNITS: tuple[Unit, ...] = ("requests", "tokens")


@dataclass(frozen=True, slots=True)
class _Told:
    """A limit as the provider told it last."""

    limit: int
    remaining: int
    until: float


class _Minute:
    """What was used in the last minute, and what the provider says of it."""

    def __init__(self, limit: int | None) -> None:
        self.limit = limit
        self.told: _Told | None = None
        self._taken: deque[tuple[float, int]] = deque()
        self._sum = 0

    @property
    def limited(self) -> bool:
        return self.limit is not None or self.told is not None

    def take(self, amount: int, now: float) -> None:
        self._taken.append((now, amount))
        self._sum += amount
        if self.told is not None and amount > 0:
            left = max(0, self.told.remaining - amount)
            self.told = _Told(self.told.limit, left, self.told.until)

    def used(self, now: float) -> float:
        self._forget(now)
        shares = [0.0]
        if self.limit:
            shares.append(self._sum / self.limit)
        if self.told is not None and self.told.limit:
            shares.append(1 - self.told.remaining / self.told.limit)
        return max(shares)

    def wait(self, amount: int, now: float) -> float:
        """Seconds until `amount` fits; infinite where it never does."""
        self._forget(now)
        longest = 0.0
        if self.limit is not None:
            longest = self._wait_own(amount, now, self.limit)
        if self.told is not None and amount > self.told.remaining:
            longest = max(longest, self.told.until - now)
        return longest

    def _wait_own(self, amount: int, now: float, limit: int) -> float:
        if amount > limit:
            return math.inf
        over = self._sum + amount - limit
        for at, taken in self._taken:
            if over <= 0:
                return 0.0
            over -= taken
            if over <= 0:
                return at + MINUTE - now
        return 0.0

    def _forget(self, now: float) -> None:
        while self._taken and self._taken[0][0] <= now - MINUTE:
            self._sum -= self._taken.popleft()[1]
        if self.told is not None and self.told.until <= now:
            self.told = None


class Quota:
    """One target's rate limits."""

    def __init__(self, requests: int | None = None, tokens: int | None = None) -> None:
        """Limits per minute; None where there is none or it is not known."""
        self._units: dict[Unit, _Minute] = {
            "requests": _Minute(requests),
            "tokens": _Minute(tokens),
        }
        self._closed_until = 0.0
        self._alerted: set[Unit] = set()

    def wait(self, tokens: int, now: float) -> float:
        """Seconds until a request of so many tokens fits; infinite where it never does."""
        waits = [self._units["requests"].wait(1, now), self._units["tokens"].wait(tokens, now)]
        return max(*waits, self._closed_until - now, 0.0)

    def take(self, tokens: int, now: float) -> None:
        """A request is sent."""
        self._units["requests"].take(1, now)
        self._units["tokens"].take(tokens, now)

    def correct(self, expected: int, used: int, now: float) -> None:
        """A request has ended: what it used takes the place of what was expected."""
        if used != expected:
            self._units["tokens"].take(used - expected, now)

    def refused(self, retry_after: float | None, now: float) -> None:
        """The provider said 429."""
        self._closed_until = max(self._closed_until, now + (retry_after or 0.0))

    def heard(self, headers: Mapping[str, str], now: float) -> None:
        """The provider told its limits with an answer."""
        for unit in UNITS:
            limit = headers.get(f"x-ratelimit-limit-{unit}", "")
            remaining = headers.get(f"x-ratelimit-remaining-{unit}", "")
            if limit.isdigit() and remaining.isdigit():
                reset = _duration(headers.get(f"x-ratelimit-reset-{unit}", ""))
                self._units[unit].told = _Told(int(limit), int(remaining), now + reset)

    def alerts(self, now: float) -> dict[Unit, float]:
        """The used share of each limit that has reached `ALERT_AT` since the last time it was below."""
        found: dict[Unit, float] = {}
        for unit, minute in self._units.items():
            if not minute.limited:
                continue
            used = minute.used(now)
            if used < ALERT_AT:
                self._alerted.discard(unit)
            elif unit not in self._alerted:
                self._alerted.add(unit)
                found[unit] = used
        return found

    def used(self, now: float) -> dict[Unit, float]:
        """The used share of each limit, 0 where none is known."""
        return {unit: minute.used(now) for unit, minute in self._units.items()}


def _duration(text: str) -> float:
    """Seconds of `6m0s`, `20ms` or `3`; a minute where it cannot be read."""
    if text.replace(".", "", 1).isdigit():
        return float(text)
    parts = _PART.findall(text)
    return sum(float(n) * _SECONDS[unit] for n, unit in parts) if parts else MINUTE
