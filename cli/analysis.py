"""Shows the analysis of a Workflow's newest run: longest path, bottlenecks, expected end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from seedbed.cli import output
from seedbed.cli.source import Source

_PATH_SHOWN = 30
_STEPS_SHOWN = 100


async def critical_path(
    source: Source, workflow: str, namespace: str | None, form: str, *, all_steps: bool
) -> int:
    """Prints the critical path and what holds the end up."""
    space = namespace or source.namespace
    path = await source.analysis(space, workflow, "critical-path")
    held = await source.analysis(space, workflow, "bottlenecks")
    told = {**path, "bottlenecks": held["bottlenecks"], "slowestPaths": held["slowestPaths"]}
    if form in ("json", "yaml"):
        print(output.serialised(told, form))
        return 0
    console = output.console()
    console.print(_heading(told))
    console.print(_steps("Critical path", told["path"], _PATH_SHOWN))
    console.print(_bottlenecks(told["bottlenecks"]))
    if all_steps:
        console.print(_steps("Steps by slack", told["steps"], _STEPS_SHOWN))
    return 0


def _heading(told: Mapping[str, Any]) -> str:
    line = f"{told['phase']}: the longest path takes {duration(told['seconds'])}"
    if told["eta"]:
        line += f"; {duration(told['remaining'])} left, until about {told['eta']}"
    return line


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in ("Step", "State", "From") else "right")
    return table


def _steps(title: str, steps: Sequence[Mapping[str, Any]], most: int) -> Table:
    """The first and the last steps where there are too many."""
    table = _table(title, "Step", "State", "Takes", "Starts", "Slack", "From")
    shown = list(steps)
    if len(shown) > most:
        shown = [*shown[: most // 2], {}, *shown[-(most // 2) :]]
    for step in shown:
        if not step:
            table.add_row(f"… {len(steps) - most} more", *[""] * 5)
            continue
        table.add_row(
            step["name"] + (f" x{step['units']}" if step["units"] != 1 else ""),
            step["state"],
            duration(step["seconds"]),
            f"+{duration(step['start'])}",
            duration(step["slack"]),
            step["source"],
        )
    return table


def _bottlenecks(found: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Bottlenecks", "Step", "Takes", "Share", "Would save")
    for one in found:
        table.add_row(
            one["name"], duration(one["seconds"]), f"{one['share']:.0%}", duration(one["gain"])
        )
    return table


def duration(seconds: float) -> str:
    """Seconds as people say them: `1h02m`, `3m05s`, `12.3s`, `250ms`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < 60:  # noqa: PLR2004  # a minute
        return f"{seconds:.1f}s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:  # noqa: PLR2004  # an hour
        return f"{minutes}m{rest:02d}s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours}h{minutes:02d}m"
