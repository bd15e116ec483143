"""The work queue: keys to look at, each once however often it was added, one worker a key.

A key added while a worker has it is looked at again when the worker is done. A key that failed comes
back after an exponentially growing, jittered wait, so that one bad object cannot starve the others.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)

FIRST_RETRY = 0.05
LONGEST_RETRY = 30.0
HURRIED_FAILURES = 5
"""What of earlier failures still counts for a key that was told to hurry: the next wait is 1.6 s."""


def _spread() -> float:
    return random.uniform(0.8, 1.2)  # noqa: S311 -- spreads retries, guards nothing


class WorkQueue(Generic[K]):
    """A de-duplicating queue with delays.

    Args:
        jitter: gives a factor around 1 for each wait; replaced in tests.
    """

    def __init__(self, jitter: Callable[[], float] | None = None) -> None:
        self._jitter = jitter or _spread
        self._ready: deque[K] = deque()
        self._dirty: set[K] = set()
        self._busy: set[K] = set()
        self._failures: dict[K, int] = {}
        self._timers: dict[K, asyncio.TimerHandle] = {}
        self._wake = asyncio.Event()

    def __len__(self) -> int:
        return len(self._ready)

    @property
    def idle(self) -> bool:
        """Whether nothing is waiting or in work; delayed keys do not count."""
        return not self._dirty and not self._busy

    @property
    def failed(self) -> int:
        """How many keys wait to be tried again."""
        return len(self._failures.keys() & self._timers.keys())

    def add(self, key: K) -> None:
        """Have the key looked at soon."""
        if key in self._dirty:
            return
        self._dirty.add(key)
        if key not in self._busy:
            self._ready.append(key)
            self._wake.set()

    def add_after(self, key: K, delay: float) -> None:
        """Have the key looked at after `delay` seconds; an earlier appointment stands."""
        loop = asyncio.get_running_loop()
        due = loop.time() + delay
        known = self._timers.get(key)
        if known is not None:
            if known.when() <= due:
                return
            known.cancel()
        self._timers[key] = loop.call_at(due, self._due, key)

    def _due(self, key: K) -> None:
        self._timers.pop(key, None)
        self.add(key)

    async def take(self) -> K:
        """The next key; wait until there is one. Every key taken must be given to `done`."""
        while not self._ready:
            self._wake.clear()
            await self._wake.wait()
        key = self._ready.popleft()
        self._dirty.discard(key)
        self._busy.add(key)
        return key

    def done(self, key: K) -> None:
        """The worker has finished with the key, whatever came of it."""
        self._busy.discard(key)
        if key in self._dirty:
            self._ready.append(key)
            self._wake.set()

    def retry(self, key: K, after: float | None = None) -> float:
        """Have a key that failed looked at later; returns the wait in seconds."""
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        backoff = min(LONGEST_RETRY, FIRST_RETRY * 2 ** min(failures, 16)) * self._jitter()
        wait: float = backoff if after is None else max(after, backoff)
        self.add_after(key, wait)
        return wait

    def hurry(self, within: float) -> None:
        """Have keys that failed looked at in about so many seconds: what they failed of may be over."""
        for key in self._failures.keys() & self._timers.keys():
            self._failures[key] = min(self._failures[key], HURRIED_FAILURES)
            self.add_after(key, within * self._jitter())

    def forget(self, key: K) -> None:
        """The key went well: its next failure starts from the shortest wait."""
        self._failures.pop(key, None)

    def close(self) -> None:
        """Drop every appointment."""
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
