"""Shows Workflows while they run: bars on a terminal, a line for each change elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from seedbed.cli.output import at
from seedbed.controllers.plan import Raw

_PHASES_OF_END = ("Succeeded", "Failed")
_LINE_EVERY = 1.0


class Display(Protocol):
    """Takes what is new."""

    def workflow(self, obj: Raw) -> None:
        """A Workflow as it is now."""

    def note(self, text: str) -> None:
        """One line for the user."""


@contextmanager
def shown(console: Console) -> Iterator[Display]:
    """Show progress while the context is open."""
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(complete_style="cyan", finished_style="green"),
        TextColumn("{task.fields[told]}"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console) as progress:
        yield _Bars(progress)


def ended(obj: Raw) -> bool:
    """Whether the status tells of the present spec's run, and that it is over."""
    current = at(obj, ".status.observedGeneration") == at(obj, ".metadata.generation")
    return current and at(obj, ".status.phase") in _PHASES_OF_END


def told(obj: Raw) -> str:
    """Where a Workflow stands, in a few words."""
    steps = at(obj, ".status.steps") or {}
    phase = at(obj, ".status.phase") or "Pending"
    parts = [phase, at(obj, ".status.progress") or ""]
    if phase == "Pending":
        parts.append(at(obj, '.status.conditions[?(@.type=="Ready")].message') or "")
    parts += [f"{steps[name]} {name}" for name in ("running", "failed") if steps.get(name)]
    recent = at(obj, ".status.recent") or ()
    if recent and not ended(obj):
        parts.append(f"{recent[0]['name']} {recent[0]['state'].lower()}")
    return " · ".join(part for part in parts if part)


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._tasks: dict[str, TaskID] = {}

    def workflow(self, obj: Raw) -> None:
        name = obj["metadata"]["name"]
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=None, told="")
        steps = at(obj, ".status.steps") or {}
        done = sum(steps.get(state, 0) for state in ("succeeded", "failed", "skipped"))
        total = steps.get("total") or None
        task = self._tasks[name]
        self._progress.update(task, completed=done, total=total, told=told(obj))
        if ended(obj):
            self._progress.stop_task(task)

    def note(self, text: str) -> None:
        self._progress.console.print(text)


class _Lines:
    """At most one line a second for each Workflow that runs, and always the last one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._begun = monotonic()
        self._last: dict[str, tuple[str, float]] = {}

    def workflow(self, obj: Raw) -> None:
        name, text, now = obj["metadata"]["name"], told(obj), monotonic()
        before, when = self._last.get(name, ("", 0.0))
        rare = ended(obj) or text.startswith("Pending")
        if text != before and (rare or now - when >= _LINE_EVERY):
            self._last[name] = (text, now)
            self._console.print(f"{now - self._begun:6.1f}s  {name}: {text}")

    def note(self, text: str) -> None:
        self._console.print(text)
