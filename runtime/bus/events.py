"""The event log: 16 partitions by key, three priorities, batches, followers that acknowledge, dead letters.

An event's key (a run's id, as a rule) says its partition for ever. A partition and a priority make a
lane, and a lane keeps the order in which one producer put its events. Events travel in compressed
batches: of 50, or of what 100 ms brought, whichever comes first; critical ones go at once. A lane sends
one batch at a time, and what comes meanwhile goes with the next, so its rate has no fixed ceiling.

A producer never grows: its buffer is bounded, and an overflow policy says what happens at the bound.
The log is transport. It keeps events for a limited time and within limited space, low priority in the
least; what a run's follower misses stands in the run's journal.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, Protocol

from msgspec import Struct

from seedbed.crds.addresses import partition_of
from seedbed.crds.errors import InvalidError

Priority = Literal["critical", "normal", "low"]
PRIORITIES: tuple[Priority, ...] = ("critical", "normal", "low")
"""In the order in which they are served."""

Overflow = Literal["ShedLow", "Wait", "Reject"]
"""What a full buffer does with the next event.

ShedLow: an event of low priority is dropped, and makes room for others; counted.
Wait: `emit` waits for room, for a limited time; `put` refuses.
Reject: refuses.
Critical events are never dropped: a reserve is theirs alone, and behind it they are refused aloud.
"""

PAYLOAD_LIMIT = 256 * 1024
"""Bytes that one event may carry."""


class Lane(NamedTuple):
    """One ordered part of the log."""

    partition: int
    priority: Priority


class Event(Struct, frozen=True):
    """Something that happened.

    Attributes:
        key: what it belongs to, such as a run's id; events of one key and priority stay in order.
        kind: one word, such as `journal` or `run.finished`.
        at: Unix time.
        payload: what there is to tell, in the form that its kind has.
    """

    key: str
    kind: str
    at: float
    payload: bytes = b""
    priority: Priority = "normal"

    @property
    def lane(self) -> Lane:
        """Where it goes."""
        return _lane(self.key, self.priority)


@lru_cache(maxsize=65_536)
def _lane(key: str, priority: Priority) -> Lane:
    return Lane(partition_of(key), priority)


@dataclass(frozen=True, slots=True)
class Limits:
    """How much one priority's part of the log keeps, oldest first out.

    Attributes:
        seconds: for how long.
        size: bytes, of all partitions together.
    """

    seconds: float
    size: int


@dataclass(frozen=True, slots=True)
class EventSettings:
    """How a process puts events, and how long the log keeps them.

    Attributes:
        size: events that make a batch go.
        wait: seconds after which a smaller one goes.
        largest: events in one batch, when many have come while the one before was under way.
        buffered: events that may wait to be sent in this process, all lanes together.
        buffered_bytes: bytes of payload that may wait.
        overflow: what happens when more come.
        patience: seconds that `emit` waits for room under the policy Wait.
        critical: how much is kept of the priority; likewise `normal`, `low` and `dead` letters.
        replicas: servers of a NATS cluster that keep each event.
        governs: whether this process sets how much is kept; the others take the log as they find it.
    """

    size: int = 50
    wait: float = 0.1
    largest: int = 500
    buffered: int = 100_000
    buffered_bytes: int = 64 * 1024 * 1024
    overflow: Overflow = "ShedLow"
    patience: float = 5.0
    critical: Limits = Limits(7 * 86_400.0, 64 * 1024 * 1024)
    normal: Limits = Limits(86_400.0, 512 * 1024 * 1024)
    low: Limits = Limits(6 * 3600.0, 128 * 1024 * 1024)
    dead: Limits = Limits(30 * 86_400.0, 64 * 1024 * 1024)
    replicas: int = 1
    governs: bool = False

    def limits(self, priority: Priority) -> Limits:
        """What is kept of a priority."""
        kept: Limits = getattr(self, priority)
        return kept


@dataclass(frozen=True, slots=True)
class Start:
    """Where a follower's name begins when the log sees it first; later it goes on where it was.

    At most one is given; with none it begins with the oldest event that is kept.

    Attributes:
        new: only what comes from now on.
        at: Unix time: batches that the log took then or later.
        sequence: position in the priority's part of the log, as `Delivered.sequence` tells.
    """

    new: bool = False
    at: float | None = None
    sequence: int | None = None


FIRST = Start()
NEW = Start(new=True)


@dataclass(frozen=True, slots=True)
class Delivered:
    """A batch in a follower's hands.

    Attributes:
        sequence: position in the priority's part of the log.
        deliveries: how often this name got it, 1 for the first time.
        missed: batches of this producer and lane that went before the follower could get them.
    """

    lane: Lane
    sequence: int
    events: Sequence[Event]
    deliveries: int = 1
    missed: int = 0


class Follower(Protocol):
    """One name's place in one partition. Only one may be open at a time, or order is lost."""

    async def next(self, wait: float) -> Delivered | None:
        """The next batch, critical before normal before low, or None after `wait` seconds."""

    async def ack(self, delivered: Delivered) -> None:
        """It is handled: never deliver it to this name again. In order of delivery."""


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that its follower could not handle.

    Attributes:
        number: its name in the list; 0 before it has one.
        follower: whose handling failed.
        failures: how often.
        reason: how it failed last.
        at: Unix time at which it was given up.
    """

    event: Event
    follower: str
    failures: int
    reason: str
    at: float
    number: int = 0


class EventLog(Protocol):
    """Every method but `put` may raise UnavailableError when the server does not answer in time."""

    def put(self, event: Event) -> None:
        """Take an event to be sent with its lane's next batch; never waits.

        Raises:
            QueueFullError: the buffer is full, and the policy refuses the event.
            InvalidError: the payload is too large.
        """

    async def emit(self, event: Event) -> None:
        """Like `put`, but where the policy is Wait it waits for room first."""

    async def flush(self, wait: float = 5.0) -> None:
        """Return when every event that was put is in the log.

        Raises:
            UnavailableError: they are not within `wait` seconds; they stay in the buffer.
        """

    async def prepare(self) -> None:
        """Make the log, and keep in it what the settings say where they govern."""

    def follow(
        self,
        name: str,
        partition: int,
        priorities: Sequence[Priority] = PRIORITIES,
        *,
        start: Start = FIRST,
    ) -> AbstractAsyncContextManager[Follower]:
        """Follow a partition under a name that the log remembers; without a name, for this once.

        What was delivered and not acknowledged is delivered again, in order, when the name is followed
        again: `Delivered.deliveries` of the first such batch says for the how manieth time.

        Raises:
            InvalidError: the name, or a start by sequence for more than one priority.
        """

    async def forget(self, name: str) -> None:
        """Forget where a name was, in every partition."""

    async def bury(self, letter: DeadLetter) -> None:
        """Keep an event that could not be handled."""

    async def dead_letters(self, *, after: int = 0, limit: int = 100) -> list[DeadLetter]:
        """Dead letters behind number `after`, oldest first."""

    async def replay(self, numbers: Collection[int]) -> int:
        """Put dead letters back at the end of their lanes, each for its follower alone.

        Returns:
            How many there were; the others are gone already.
        """

    async def discard(self, numbers: Collection[int]) -> int:
        """Forget dead letters; returns how many there were."""


_NAME = re.compile(r"[A-Za-z0-9_-]{0,64}")


def checked_follow(name: str, priorities: Sequence[Priority], start: Start) -> None:
    """Pass where a log can be followed like this.

    Raises:
        InvalidError: naming what is wrong.
    """
    if not _NAME.fullmatch(name):
        raise InvalidError(
            "follower", f"expected at most 64 letters, digits, - and _, not {name!r}"
        )
    if not priorities or not set(priorities) <= set(PRIORITIES):
        raise InvalidError("priorities", f"expected some of {', '.join(PRIORITIES)}")
    if start.sequence is not None and len(priorities) > 1:
        raise InvalidError("start", "a sequence counts for one priority only")
