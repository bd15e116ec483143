"""Conditions in the form that kubectl, Helm, Argo CD and Flux read: Ready, Reconciling, Stalled.

`Ready` says whether the object does what its spec asks. `Reconciling` is True while it is on its way
there by itself, `Stalled` while somebody has to change something first. Both are always present, so
that a tool which waits for one of them to turn False sees it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from seedbed.controllers.plan import Event, Raw

MESSAGE_LIMIT = 700
"""Bytes of a message: three conditions carry it, and a status has to stay under 16 KiB."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")
Truth = Literal["True", "False", "Unknown"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one condition says: whether it holds, one word for why, one sentence for people."""

    status: Truth
    reason: str
    message: str


def ready(reason: str, message: str) -> dict[str, Verdict]:
    """The object does what its spec asks."""
    return _overall("Ready", reason, message)


def waiting(reason: str, message: str) -> dict[str, Verdict]:
    """Not yet, and it will come by itself."""
    return _overall("Reconciling", reason, message)


def stalled(reason: str, message: str) -> dict[str, Verdict]:
    """No, and it needs somebody to change something."""
    return _overall("Stalled", reason, message)


def resting(reason: str, message: str) -> dict[str, Verdict]:
    """No, because the user wants it so: neither on its way nor stuck."""
    return _overall(None, reason, message)


def _overall(holds: str | None, reason: str, message: str) -> dict[str, Verdict]:
    """The three conditions of every object, of which at most one is True."""
    return {
        name: Verdict("True" if name == holds else "False", reason, message)
        for name in ("Ready", "Reconciling", "Stalled")
    }


def conditions(
    previous: Raw, verdicts: Mapping[str, Verdict], generation: int, now: datetime
) -> list[dict[str, Any]]:
    """The `conditions` of a status.

    Args:
        previous: the status before; a condition whose status stays keeps its transition time.
        verdicts: what each condition says now, by type.
        generation: of the spec that was looked at.
        now: the time, for conditions whose status changes.
    """
    before = {condition["type"]: condition for condition in previous.get("conditions", ())}
    made = []
    for name, verdict in verdicts.items():
        known = before.get(name, {})
        same = known.get("status") == verdict.status and "lastTransitionTime" in known
        made.append(
            {
                "type": name,
                "status": verdict.status,
                "reason": verdict.reason,
                "message": shortened(verdict.message),
                "lastTransitionTime": known["lastTransitionTime"] if same else timestamp(now),
                "observedGeneration": generation,
            }
        )
    return made


def condition(obj: Raw | None, name: str) -> Raw:
    """One condition of an object, {} where it has none."""
    status = (obj or {}).get("status") or {}
    for found in status.get("conditions") or ():
        if found.get("type") == name:
            return dict(found)
    return {}


def news(previous: Raw, verdicts: Mapping[str, Verdict]) -> tuple[Event, ...]:
    """An Event where `Ready` says something else than before.

    At the start only a problem is worth one: that a new object is on its way its status says too,
    and an Event is one more write for each object.
    """
    verdict = verdicts["Ready"]
    before = condition({"status": previous}, "Ready")
    if (before.get("status"), before.get("reason")) == (verdict.status, verdict.reason):
        return ()
    problem = verdicts["Stalled"].status == "True" or verdict.reason.endswith("NotFound")
    if not before and not problem:
        return ()
    return (Event("Warning" if problem else "Normal", verdict.reason, shortened(verdict.message)),)


def timestamp(moment: datetime) -> str:
    """A time as Kubernetes writes it, in whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def generation_of(obj: Raw) -> int:
    """The generation of an object's spec."""
    return int(obj["metadata"].get("generation", 1))


def shortened(text: str, limit: int = MESSAGE_LIMIT) -> str:
    """A text on one line, cut to `limit` bytes of UTF-8 between two characters."""
    line = _CONTROL.sub(" ", text).strip().encode(errors="replace")
    if len(line) <= limit:
        return line.decode()
    return line[: limit - 3].decode(errors="ignore") + "\u2026"
