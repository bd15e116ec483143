"""How far a pod of a SeedLayer has come: what its parts note, and its reports and pages tell."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from seedbed.crds.errors import SeedbedError
from seedbed.crds.seed_messages import Activity, Phase, SeedCheckpointed, SeedDecision
from seedbed.runtime.seeds.policy import Decision
from seedbed.runtime.seeds.stages import Stage

LOGGED = 500
"""Decisions that are kept, in memory and with each checkpoint."""


def _reason(error: SeedbedError) -> str:
    return "".join(part.title() for part in error.code.split("_"))


def stage_key(stage: Stage) -> str:
    """A stage as the status names it, such as `fineTuning`."""
    return stage.label[0].lower() + stage.label[1:]


@dataclass(slots=True)
class Progress:
    """Changed by one thread, that of the event loop.

    Attributes:
        reason, message: why the phase is what it is, where there is more to say.
        decisions: the last ones as records, each with its number and Unix time, oldest first.
        decided: how many there were.
        step: training steps so far.
        checkpoint: the newest one.
        errors: requests and epochs that failed since the start.
        news: set when something has changed that others wait for.
    """

    phase: Phase = "Loading"
    reason: str = ""
    message: str = ""
    activity: Activity = "Waiting"
    decisions: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=LOGGED))
    decided: int = 0
    step: int = 0
    checkpoint: SeedCheckpointed | None = None
    errors: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)

    def enter(self, phase: Phase, message: str = "", reason: str = "") -> None:
        """Begin a phase."""
        self.phase, self.message, self.reason = phase, message, reason
        self.news.set()

    def serve(self, refused: SeedbedError | None = None) -> None:
        """The model is served; where a newer spec was refused, the former one's."""
        if refused is None:
            self.enter("Serving")
        else:
            self.enter("Serving", f"serves the former spec: {refused.message}", _reason(refused))

    def serve_only(self, failed: SeedbedError) -> None:
        """The model is served, and cannot be trained."""
        self.act("Waiting")
        self.enter("Serving", f"serves, and learns nothing more: {failed.message}", _reason(failed))

    def fail(self, error: SeedbedError) -> None:
        """Nothing is served until something changes."""
        self.enter("Failed", error.message, _reason(error))

    def act(self, activity: Activity) -> None:
        """Training begins or stops."""
        if self.activity != activity:
            self.activity = activity
            self.news.set()

    def log(self, decision: Decision, at: float) -> dict[str, Any]:
        """Note a decision that was carried out; gives its record."""
        self.decided += 1
        record = {"number": self.decided, "at": at, **decision.record()}
        self.decisions.append(record)
        self.news.set()
        return record

    def last_decision(self) -> SeedDecision | None:
        """For the report."""
        if not self.decisions:
            return None
        last = self.decisions[-1]
        action = last["to"][0].lower() + last["to"][1:]
        return SeedDecision(last["epoch"], action, last["layer"], last["slot"], last["reason"])

    def kept(self) -> dict[str, str]:
        """What goes into a checkpoint beside the tensors."""
        told = {"step": self.step, "decided": self.decided, "decisions": list(self.decisions)}
        return {"progress": orjson.dumps(told).decode()}

    def resume(self, kept: Mapping[str, str]) -> None:
        """Go on from what a checkpoint held."""
        told = orjson.loads(kept.get("progress") or "{}")
        self.step, self.decided = told.get("step", 0), told.get("decided", 0)
        self.decisions.clear()
        self.decisions.extend(told.get("decisions", ()))
