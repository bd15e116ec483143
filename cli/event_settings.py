"""`SEEDBED_EVENTS`: how a process puts events, and how long the log keeps them, as one JSON object."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from seedbed.crds.base import Duration, seconds
from seedbed.crds.invalid import invalid
from seedbed.runtime.bus.events import EventSettings, Limits, Overflow

VARIABLE = "SEEDBED_EVENTS"
_MIB = 1024 * 1024


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Kept(_Model):
    """For how long events are kept, and how many of them."""

    age: Duration
    sizeMiB: int = Field(ge=1, le=1024 * 1024)  # noqa: N815  # as in the chart's values

    def limits(self) -> Limits:
        """In seconds and bytes."""
        return Limits(seconds(self.age), self.sizeMiB * _MIB)


class Keep(_Model):
    """What is kept of each priority, and of dead letters."""

    critical: Kept = Kept(age="168h", sizeMiB=64)
    normal: Kept = Kept(age="24h", sizeMiB=512)
    low: Kept = Kept(age="6h", sizeMiB=128)
    dead: Kept = Kept(age="720h", sizeMiB=64)


class EventsSetting(_Model):
    """The chart's `nats.events`."""

    overflow: Overflow = "ShedLow"
    buffered: int = Field(default=100_000, ge=1000, le=10_000_000)
    replicas: Literal[1, 3, 5] = 1
    keep: Keep = Keep()

    def settings(self, governs: bool) -> EventSettings:  # noqa: FBT001  # the only argument
        """For the bus; `governs` in the process that sets what the log keeps."""
        return EventSettings(
            buffered=self.buffered,
            overflow=self.overflow,
            critical=self.keep.critical.limits(),
            normal=self.keep.normal.limits(),
            low=self.keep.low.limits(),
            dead=self.keep.dead.limits(),
            replicas=self.replicas,
            governs=governs,
        )


def read_events(text: str) -> EventsSetting:
    """The setting from JSON.

    Raises:
        InvalidError: naming what is wrong.
    """
    try:
        return EventsSetting.model_validate_json(text)
    except ValidationError as error:
        raise invalid(error, VARIABLE) from None
