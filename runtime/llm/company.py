"""The calls that one request makes side by side, one for each of its prompts.

Each goes its own way, with the cache before it. Those that have to ask a model are paid for as one: the
money for all of them is reserved before the first is asked, so that no list is left half done for want
of money.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from seedbed.runtime.llm.call import Call, Reply, Rest

AT_ONCE = 16
"""Calls of one request that ask models at a time."""


class Company:
    """See the module.

    Attributes:
        paying: held while money for all is reserved.
        paid: whether it is.
    """

    def __init__(self, calls: Iterable[Call]) -> None:
        self.paying = asyncio.Lock()
        self.paid = False
        self._coming = set(calls)
        self._asking: set[Call] = set()
        self._complete = asyncio.Event()
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def asks(self, call: Call) -> None:
        """A call has come as far as the models; gives it its turn, which lasts until it is over."""
        if call in self._asking:
            return
        self._asking.add(call)
        self.leaves(call)
        await self._turns.acquire()
        call.closing.callback(self._turns.release)

    def leaves(self, call: Call) -> None:
        """A call is not waited for: it asks a model, or needs none."""
        self._coming.discard(call)
        if not self._coming:
            self._complete.set()

    async def asking(self) -> set[Call]:
        """Those that ask models, once that is known of all."""
        await self._complete.wait()
        return self._asking


async def together(call: Call, rest: Rest) -> Reply:
    """The stage behind the cache, where it is known that a call asks a model."""
    if call.company is not None:
        await call.company.asks(call)
    return await rest(call)
