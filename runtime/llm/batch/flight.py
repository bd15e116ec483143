"""One call to the models that several callers wait for.

The first caller leads: its budget pays. Where it goes away, the next one whose budget agrees leads and
pays from then on, and the call goes on. What comes of a stream is kept, so that whoever joins reads it
from its beginning, each as fast as it likes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

from seedbed.crds.errors import SeedbedError, UnavailableError
from seedbed.runtime.llm.call import Attempt, Call, Reply, Rest
from seedbed.runtime.llm.requests import Json
from seedbed.runtime.llm.resilience.targets import TooLateError

JOINED = "joined"
"""Outcome of an attempt that another caller paid for."""


class GivenUpError(UnavailableError):
    """The caller that led went away before a model was asked."""


class Flight:
    """See the module.

    Attributes:
        open: whether callers may still join.
        task: runs it; set by whoever starts it.
    """

    task: asyncio.Task[None]

    def __init__(self, leader: Call) -> None:
        self.open = True
        self._members = [leader]
        self._size = 1
        self._patience = leader.deadline
        self._over = False
        self._error: Exception | None = None
        self._whole: Json | None = None
        self._chunks: list[Json] = []
        self._moved = asyncio.Event()
        self._handing = asyncio.Lock()
        self._affording = False
        self._afforded: tuple[str, int | None] | None = None
        self._refused: Call | None = None
        # What it costs and what was tried stands in the leader's own account from the beginning, where
        # the leader's budget looks for it.
        self._call = Call(
            leader.request,
            leader.identity,
            leader.deadline,
            AsyncExitStack(),
            candidates=leader.candidates,
            attempts=leader.attempts,
            spent=leader.spent,
            task=leader.task,
            floor=leader.floor,
            afford=self._afford,
        )

    @property
    def leader(self) -> Call:
        """Who pays."""
        return self._members[0]

    def join(self, call: Call) -> None:
        """Wait for it too; only while it is open."""
        self._members.append(call)
        self._size += 1
        self._call.deadline = max(self._call.deadline, call.deadline)

    async def run(self, rest: Rest) -> None:
        """Ask, and hand on what comes. Every end is told to all who wait."""
        try:
            async with self._call.closing:
                reply = await rest(self._call)
                self._whole = reply.whole
                if reply.chunks is not None:
                    async for chunk in reply.chunks:
                        self._chunks.append(chunk)
                        self._tell()
        except Exception as error:  # noqa: BLE001 - all who wait for it raise it
            self._error = error
        except asyncio.CancelledError:
            self._error = self._error or UnavailableError("the service ends")
            raise
        finally:
            self.open, self._over = False, True
            self._tell()

    async def reply(self, call: Call) -> Reply:
        """The answer, as soon as it begins.

        Raises:
            SeedbedError: what it ended with.
        """
        while not (self._over or self._chunks):
            await self._moved.wait()
        if self._error is not None and not self._chunks:
            raise self._error
        self._account(call)
        return Reply(self._whole) if self._whole is not None else Reply(chunks=self._replay(call))

    def spares(self, call: Call, now: float) -> bool:
        """Whether it failed for a reason that is not this caller's, so that it may ask again."""
        if self._refused is not None:
            return self._refused is not call
        late = isinstance(self._error, TooLateError) and self._patience <= now
        return (late or isinstance(self._error, GivenUpError)) and call.deadline > now

    async def leave(self, call: Call) -> None:
        """A caller waits no more. Where it led, another does; where nobody can, all ends."""
        async with self._handing:
            if self._over or call not in self._members:
                return
            leads = call is self.leader
            if leads and (self._affording or not await self._handed_over()):
                await self._give_up()
            elif not self._over:
                self._members.remove(call)

    async def _handed_over(self) -> bool:
        """The first of the others that can pay for what is under way leads."""
        for heir in self._members[1:]:
            try:
                if self._afforded is not None:
                    await heir.afford(*self._afforded)
            except SeedbedError:
                continue
            heir.attempts += self._call.attempts
            self._call.attempts, self._call.spent = heir.attempts, heir.spent
            self._members.remove(heir)
            self._members.insert(0, heir)
            return True
        return False

    async def _give_up(self) -> None:
        self.open = False
        self._error = GivenUpError("who asked first has gone away")
        self.task.cancel()
        await asyncio.wait({self.task})

    async def _afford(self, model: str, worst: int | None) -> None:
        async with self._handing:
            leader = self.leader
            self._affording = True
        try:
            await leader.afford(model, worst)
        except SeedbedError:
            self._refused = leader
            self._call.refusal = leader.refusal
            raise
        finally:
            self._affording = False
        self._refused = None
        self._afforded = (model, worst)

    async def _replay(self, call: Call) -> AsyncIterator[Json]:
        at = 0
        while at < len(self._chunks) or not self._over:
            if at == len(self._chunks):
                await self._moved.wait()
                continue
            yield self._chunks[at]
            at += 1
        if self._error is not None:
            raise self._error
        self._account(call)

    def _account(self, call: Call) -> None:
        """What a caller is told of it."""
        leads = call is self.leader
        call.served_by = self._call.served_by
        call.notes |= self._call.notes
        if self._size > 1:
            role = "leader" if leads else JOINED
            call.notes |= {"Batch": role, "Batch_Size": str(self._size)}
        if not leads and self._over:
            call.attempts.append(Attempt(call.served_by, JOINED))

    def _tell(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
