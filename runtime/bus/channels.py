"""Three channels for what every node should hear: control, telemetry, events; a thin layer on the event log.

A message goes to all who are subscribed now, on whatever node, in the order in which its sender sent it.
Control travels as critical, events as normal, telemetry as low priority: control passes a telemetry that
floods the log, and telemetry is dropped first.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar, Literal

import orjson
from pydantic import TypeAdapter, ValidationError

from seedbed.crds.addresses import partition_of
from seedbed.crds.errors import InvalidError
from seedbed.crds.invalid import invalid
from seedbed.runtime.bus.events import NEW, Event, EventLog, Follower, Priority

Channel = Literal["control", "telemetry", "events"]

_PRIORITY: dict[Channel, Priority] = {"control": "critical", "telemetry": "low", "events": "normal"}
_WAIT = 30.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelMessage:
    """What all messages share.

    Attributes:
        source: the node or component that sends it.
    """

    kind: ClassVar[str] = ""
    channel: ClassVar[Channel] = "events"
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StartTrace(ChannelMessage):
    """Begin to trace what matches; `targets` are names, none for all."""

    kind: ClassVar[str] = "start_trace"
    channel: ClassVar[Channel] = "control"
    trace: str
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StopTrace(ChannelMessage):
    """End a trace."""

    kind: ClassVar[str] = "stop_trace"
    channel: ClassVar[Channel] = "control"
    trace: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceEvent(ChannelMessage):
    """Something that a trace saw, at a Unix time."""

    kind: ClassVar[str] = "trace_event"
    channel: ClassVar[Channel] = "telemetry"
    trace: str
    name: str
    at: float
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceCompleted(ChannelMessage):
    """A trace is over; `events` is how many it saw."""

    kind: ClassVar[str] = "trace_completed"
    trace: str
    events: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceContext(ChannelMessage):
    """The W3C context under which a node goes on with a trace."""

    kind: ClassVar[str] = "trace_context"
    channel: ClassVar[Channel] = "telemetry"
    trace: str
    traceparent: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StartProfiling(ChannelMessage):
    """Profile the targets for some seconds."""

    kind: ClassVar[str] = "start_profiling"
    channel: ClassVar[Channel] = "control"
    targets: tuple[str, ...] = ()
    seconds: float = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizationStarted(ChannelMessage):
    """An optimisation has begun."""

    kind: ClassVar[str] = "optimization_started"
    optimization: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizationProgress(ChannelMessage):
    """How far it is, as a fraction, and the best score so far."""

    kind: ClassVar[str] = "optimization_progress"
    channel: ClassVar[Channel] = "telemetry"
    optimization: str
    done: float
    score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizationError(ChannelMessage):
    """It met an error; `code` is stable."""

    kind: ClassVar[str] = "optimization_error"
    optimization: str
    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizationCompleted(ChannelMessage):
    """It is over."""

    kind: ClassVar[str] = "optimization_completed"
    optimization: str
    score: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StopOptimization(ChannelMessage):
    """End it with the best found so far."""

    kind: ClassVar[str] = "stop_optimization"
    channel: ClassVar[Channel] = "control"
    optimization: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleOptimization(ChannelMessage):
    """Go on with another number of workers."""

    kind: ClassVar[str] = "scale_optimization"
    channel: ClassVar[Channel] = "control"
    optimization: str
    workers: int


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerPerformanceUpdate(ChannelMessage):
    """What a worker did lately."""

    kind: ClassVar[str] = "worker_performance_update"
    channel: ClassVar[Channel] = "telemetry"
    worker: str
    steps_per_second: float
    busy: float = 0.0


_FORMS: dict[str, type[ChannelMessage]] = {
    form.kind: form for form in ChannelMessage.__subclasses__()
}
_READERS: dict[str, TypeAdapter[Any]] = {}


class Channels:
    """The channels of an event log."""

    def __init__(self, events: EventLog) -> None:
        self._events = events

    async def broadcast(self, channel: Channel, message: ChannelMessage) -> None:
        """Send to all who are subscribed to the channel.

        Raises:
            QueueFullError: this process has more to send than the log takes.
        """
        payload = orjson.dumps(asdict(message))
        key, priority = _key(channel), _PRIORITY[channel]
        await self._events.emit(Event(key, message.kind, time.time(), payload, priority))

    async def route_message(
        self, message: ChannelMessage, priority: Literal["high", "normal"] = "normal"
    ) -> Channel:
        """Send on the channel of the message's kind, or on control where it has high priority.

        Returns:
            The channel.
        """
        channel: Channel = "control" if priority == "high" else message.channel
        await self.broadcast(channel, message)
        return channel

    @asynccontextmanager
    async def subscribe(self, channel: Channel) -> AsyncIterator[AsyncIterator[ChannelMessage]]:
        """Hear what is sent on a channel while the context is open."""
        key, priority = _key(channel), _PRIORITY[channel]
        async with self._events.follow("", partition_of(key), (priority,), start=NEW) as follower:
            yield _heard(follower, key)


async def _heard(follower: Follower, key: str) -> AsyncIterator[ChannelMessage]:
    while True:
        delivered = await follower.next(_WAIT)
        if delivered is None:
            continue
        for event in delivered.events:
            # Runs share the partition; a kind of a newer version is nothing to this one.
            if event.key != key or event.kind not in _FORMS:
                continue
            try:
                yield decode_message(event.kind, event.payload)
            except InvalidError as error:
                _log.warning("a message %s cannot be read: %s", event.kind, error)
        await follower.ack(delivered)


def decode_message(kind: str, payload: bytes) -> ChannelMessage:
    """A message from JSON.

    Raises:
        InvalidError: naming what is wrong.
    """
    form = _FORMS.get(kind)
    if form is None:
        raise InvalidError("kind", f"expected one of {', '.join(_FORMS)}, not {kind!r}")
    if kind not in _READERS:
        _READERS[kind] = TypeAdapter(form)
    try:
        message: ChannelMessage = _READERS[kind].validate_json(payload)
    except ValidationError as error:
        raise invalid(error, whole=kind) from error
    return message


def _key(channel: Channel) -> str:
    return f"channel/{channel}"
