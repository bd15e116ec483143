"""What people and other systems have told a run: approvals and events; and who waits for them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from seedbed.crds.messages import Decision, StepKey
from seedbed.crds.values import written
from seedbed.runtime.workflow.records import ApprovalGiven, EventReceived, StepWaiting

KEPT_EVENTS = 1000
"""Events that a run keeps for steps that do not wait for them yet; more are refused."""
KEPT_BYTES = 16 * 1024 * 1024
"""Bytes that the payloads of these events may have together."""
SEEN_EVENTS = 1000
"""Ids of events that a run remembers, so that one that is sent twice counts once."""


@dataclass(slots=True)
class Inbox:
    """What has come in.

    Attributes:
        waiting: steps that wait, with what for.
        approvals: what was decided, by step; the last decision counts until the step waits.
        events: events that no step has taken, oldest first, by name.
        seen: the events that came last, as NAME/ID; a journal of an earlier version has the id alone.
        bytes: of the payloads of those that no step has taken.
    """

    waiting: dict[StepKey, StepWaiting] = field(default_factory=dict)
    approvals: dict[str, Decision] = field(default_factory=dict)
    events: dict[str, deque[EventReceived]] = field(default_factory=dict)
    seen: dict[str, None] = field(default_factory=dict)
    bytes: int = 0

    @property
    def kept(self) -> int:
        """How many events no step has taken."""
        return sum(map(len, self.events.values()))

    @property
    def is_full(self) -> bool:
        """Whether no further event is kept."""
        return self.kept >= KEPT_EVENTS or self.bytes >= KEPT_BYTES

    def take(self, record: ApprovalGiven | EventReceived) -> None:
        """Take a record in."""
        if isinstance(record, ApprovalGiven):
            self.approvals[record.step] = record.decision
            return
        self.events.setdefault(record.name, deque()).append(record)
        self.bytes += _size(record)
        self.see(f"{record.name}/{record.id}")

    def knows(self, event: EventReceived) -> bool:
        """Whether the event has come before: one of this name with its id."""
        return f"{event.name}/{event.id}" in self.seen or event.id in self.seen

    def see(self, event: str) -> None:
        """Remember an event."""
        self.seen[event] = None
        while len(self.seen) > SEEN_EVENTS:
            del self.seen[next(iter(self.seen))]

    def next(self, event: str) -> EventReceived | None:
        """The oldest event of this name that no step has taken."""
        kept = self.events.get(event)
        return kept[0] if kept else None

    def taken(self, event: str) -> None:
        """A step has ended with an event: with the oldest that is kept, where one is."""
        kept = self.events.get(event)
        if kept:
            self.bytes -= _size(kept.popleft())
        if not kept:
            self.events.pop(event, None)

    def waiting_for(self, event: str) -> Iterator[StepKey]:
        """The steps that wait for an event of this name."""
        for key, record in self.waiting.items():
            if record.event == event:
                yield key

    def records(self) -> Iterator[ApprovalGiven | EventReceived]:
        """The shortest journal that leads to the approvals and events."""
        for step, decision in self.approvals.items():
            yield ApprovalGiven(step, 0.0, decision)
        for kept in self.events.values():
            yield from kept


def _size(event: EventReceived) -> int:
    return 0 if event.payload is None else len(written(event.payload, any_keys=True))
