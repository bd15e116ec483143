"""Conditions that every Kubernetes tool understands (kstatus): Ready, Reconciling, Stalled and more.

A condition's time moves only when its status changes, so a pass that finds the same state writes
nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from seedbed.controllers.plan import Raw

MESSAGE_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class Claim:
    """What a reconciler says of an object now; the time is added by `conditions`."""

    type: str
    holds: bool | None
    reason: str
    message: str = ""


def ready(reason: str, message: str = "") -> tuple[Claim, ...]:
    """All is as the spec wants it."""
    return _overall("ready", reason, message)


def waiting(reason: str, message: str) -> tuple[Claim, ...]:
    """Work goes on, or something else must come first; it resolves by itself."""
    return _overall("waiting", reason, message)


def stalled(reason: str, message: str) -> tuple[Claim, ...]:
    """It cannot go on until the user changes the spec."""
    return _overall("stalled", reason, message)


def _overall(
    state: Literal["ready", "waiting", "stalled"], reason: str, message: str
) -> tuple[Claim, ...]:
    return (
        Claim("Ready", state == "ready", reason, message),
        Claim("Reconciling", state == "waiting", reason, message),
        Claim("Stalled", state == "stalled", reason, message),
    )


def conditions(
    claims: Iterable[Claim], before: Sequence[Mapping[str, Any]], generation: int, now: datetime
) -> list[dict[str, Any]]:
    """Claims as conditions, keeping the time of those whose status is what it was."""
    known = {str(condition["type"]): condition for condition in before}
    return [_condition(claim, known.get(claim.type), generation, now) for claim in claims]


def _condition(
    claim: Claim, before: Mapping[str, Any] | None, generation: int, now: datetime
) -> dict[str, Any]:
    status = "Unknown" if claim.holds is None else str(claim.holds)
    same = before is not None and before.get("status") == status
    since = before["lastTransitionTime"] if before is not None and same else timestamp(now)
    return {
        "type": claim.type,
        "status": status,
        "reason": claim.reason,
        "message": shortened(claim.message, MESSAGE_LIMIT),
        "lastTransitionTime": since,
        "observedGeneration": generation,
    }


def holds(obj: Raw | None, type_: str) -> bool:
    """Whether an object's condition is True."""
    if obj is None:
        return False
    found: Sequence[Mapping[str, Any]] = (obj.get("status") or {}).get("conditions") or ()
    return any(each["type"] == type_ and each["status"] == "True" for each in found)


def timestamp(moment: datetime) -> str:
    """A time as Kubernetes writes it, in whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def shortened(text: str, limit: int) -> str:
    """A text of at most `limit` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
