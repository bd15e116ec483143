"""Money as whole nano-dollars.

A call to a small model costs some 25 micro-dollars, so whole micro-dollars would be wrong by up to
four percent of a call; nano-dollars are exact for every price per million tokens that has at most
three decimals, and a 64-bit number of them reaches nine thousand million dollars.
"""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal
from functools import lru_cache

NANOS = 1_000_000_000
"""Nano-dollars of one dollar."""
AMOUNT_PATTERN = r"^(0|[1-9][0-9]{0,8})(\.[0-9]{1,6})?$"


@lru_cache(maxsize=4096)
def nanos(dollars: str | Decimal) -> int:
    """Whole nano-dollars of an amount such as `5.00`; what is below one counts as one."""
    return int((Decimal(dollars) * NANOS).to_integral_value(ROUND_CEILING))


def dollars(amount: int) -> str:
    """An amount of nano-dollars as `12.50` or `0.000025`: cents, and as many more as it has."""
    whole, part = divmod(abs(amount), NANOS)
    after = f"{part:09d}".rstrip("0").ljust(2, "0")
    return f"{'-' if amount < 0 else ''}{whole}.{after}"
