"""Whether enough verified hits speak for serving similar requests at all. Pure.

A bet against the claim that more than the accepted share of hits is wrong (a test by betting, an
e-process): it gains a little with each hit that was right and loses much with each that was wrong. By
Ville's inequality a claim that is true lets the bet ever multiply by 1 / DOUBT with a chance of DOUBT at
most, however often one looks. So hits are asked anyway until it has, and again once it has lost that.
"""

from __future__ import annotations

import math

DOUBT = 0.1
"""Chance that serving begins though more than the accepted share is wrong."""
_HOPE = 0.5
"""Share of the accepted one that the bet is best for."""
_ENOUGH = math.log(1 / DOUBT)
_MOST = 2 * _ENOUGH
"""What is gained beyond it is not kept, so that a change for the worse shows soon."""


class Proof:
    """What the verified hits of one namespace have proven."""

    def __init__(self, accepted: float, *, needed: bool = True) -> None:
        """`accepted`: share of hits that may be wrong. Where it is not `needed`, it always holds."""
        hoped = accepted * _HOPE
        self._right = math.log((1 - hoped) / (1 - accepted))
        self._wrong = math.log(_HOPE)
        self._needed = needed
        self._wealth = 0.0

    def add(self, *, correct: bool) -> None:
        """One more verified hit."""
        gained = self._right if correct else self._wrong
        self._wealth = min(_MOST, self._wealth + gained)

    @property
    def holds(self) -> bool:
        """Whether similar requests may be served."""
        return not self._needed or self._wealth >= _ENOUGH
