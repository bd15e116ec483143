"""A circuit breaker for one target. Pure: it is told the time and what became of each call.

    closed ── share of failures in the window reached ──► open
    open ── its time is over ──► half-open: one call is let through
    half-open ── that call went well ──► closed;  it failed ──► open

Every call that is let through holds a pass. A pass from before the last transition counts for
nothing, so that calls which began before the target broke do not judge whether it has recovered.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from seedbed.crds.errors import UnavailableError

State = Literal["closed", "open", "half-open"]


@dataclass(frozen=True, slots=True)
class BreakerPolicy:
    """When a breaker opens, and for how long.

    Attributes:
        share: of calls that failed, from which on it opens.
        window: seconds that are looked at.
        minimum: calls in the window below which it never opens.
        rest: seconds that it stays open before one call may try.
    """

    share: float = 0.5
    window: float = 10.0
    minimum: int = 5
    rest: float = 30.0


class BreakerOpenError(UnavailableError):
    """The target failed too often lately and is not asked.

    Attributes:
        target: its name.
    """

    code = "breaker_open"

    def __init__(self, target: str, retry_after: float) -> None:
        super().__init__(f"model {target!r} failed too often and is not asked now", retry_after)
        self.target = target


@dataclass(frozen=True, slots=True)
class Pass:
    """The right to make one call."""

    period: int


class Breaker:
    """Counts calls and decides which may be made."""

    def __init__(
        self, policy: BreakerPolicy | None = None, changed: Callable[[State], None] | None = None
    ) -> None:
        """`changed` is told each transition."""
        self.state: State = "closed"
        self._policy = policy or BreakerPolicy()
        self._changed = changed or (lambda _: None)
        self._ended: deque[tuple[float, bool]] = deque()
        self._failures = 0
        self._period = 0
        self._opened = 0.0
        self._probing = False

    def admit(self, now: float) -> Pass | None:
        """A pass for one call, or None where none may be made now."""
        if self.state == "open" and now >= self._opened + self._policy.rest:
            self._become("half-open")
        if self.state == "open" or (self.state == "half-open" and self._probing):
            return None
        self._probing = self.state == "half-open"
        return Pass(self._period)

    def wait(self, now: float) -> float:
        """Seconds until it is worth asking for a pass again."""
        if self.state == "open":
            return max(0.0, self._opened + self._policy.rest - now)
        return 1.0 if self._probing else 0.0

    def ended(self, held: Pass, now: float, *, well: bool) -> None:
        """A call has ended: `well` where the target did what a target should."""
        if held.period != self._period:
            return
        if self.state == "half-open":
            self._close() if well else self._open(now)
            return
        self._forget(now)
        self._ended.append((now, well))
        self._failures += not well
        if (
            len(self._ended) >= self._policy.minimum
            and self._failures >= self._policy.share * len(self._ended)
            and not well
        ):
            self._open(now)

    def abandoned(self, held: Pass) -> None:
        """A call was given up by its caller and says nothing about the target."""
        if held.period == self._period:
            self._probing = False

    def _forget(self, now: float) -> None:
        while self._ended and self._ended[0][0] <= now - self._policy.window:
            _, well = self._ended.popleft()
            self._failures -= not well

    def _open(self, now: float) -> None:
        self._opened = now
        self._become("open")

    def _close(self) -> None:
        self._become("closed")

    def _become(self, state: State) -> None:
        self.state = state
        self._period += 1
        self._probing = False
        self._ended.clear()
        self._failures = 0
        self._changed(state)
