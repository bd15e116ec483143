"""The event loop of processes that move many steps."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable

_YOUNG, _MIDDLE, _OLD = 20_000, 20, 50
"""How many objects, and how many younger collections, come before a collection of each generation."""


def fast_loop() -> Callable[[], asyncio.AbstractEventLoop]:
    """What makes a loop on libuv; sets the process up for many objects that live long.

    An engine keeps an object for each step of its runs. Python's collector by default looks at them all
    each time there are a quarter more, and at the young ones after every 700: with 10,000 steps that is
    a tenth of the processor's time.
    """
    from uvloop import new_event_loop  # noqa: PLC0415  # a moment that other commands need not wait

    gc.set_threshold(_YOUNG, _MIDDLE, _OLD)
    return new_event_loop
