"""Shows the analysis of a Workflow's newest run, or of a plan in a file, in words and as a picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.table import Table

from seedbed.cli import output
from seedbed.cli.embedded import manifests
from seedbed.cli.source import Source
from seedbed.crds.base import API_VERSION
from seedbed.crds.errors import InvalidError
from seedbed.crds.workflow import WorkflowSpec
from seedbed.runtime.workflow.planning.insight import of_plan, optimisation_told, spoken
from seedbed.runtime.workflow.planning.optimise import optimise as optimised
from seedbed.runtime.workflow.planning.picture import picture_named

_PATH_SHOWN = 30
_WORDS = ("Step", "State", "From", "Change", "Why")
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


async def graph(
    source: Source, workflow: str, namespace: str | None, form: str, file: Path | None
) -> int:
    """Writes the picture of a Workflow's newest run."""
    return _written(await source.picture(namespace or source.namespace, workflow, form), file)


async def graph_of_file(path: Path, form: str, file: Path | None) -> int:
    """Writes the picture of the plan that a manifest holds."""
    name, spec = workflow_in(path)
    return _written(picture_named(form)(of_plan(spec), f"Workflow {name}"), file)


async def optimise(source: Source, workflow: str, namespace: str | None, form: str) -> int:
    """Prints what would make the plan of a Workflow's newest run shorter."""
    space = namespace or source.namespace
    return _optimised(await source.analysis(space, workflow, "optimisation"), form)


async def optimise_file(path: Path, form: str, write: Path | None) -> int:
    """Prints what would make the plan in a manifest shorter, and writes that plan."""
    name, spec = workflow_in(path)
    if write is not None:
        shorter = optimised(spec).spec.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        head = {"apiVersion": API_VERSION, "kind": "Workflow", "metadata": {"name": name}}
        _write(write, output.serialised({**head, "spec": shorter}, "yaml") + "\n")
    return _optimised(optimisation_told(of_plan(spec)), form)


def _optimised(told: Mapping[str, Any], form: str) -> int:
    if form in ("json", "yaml"):
        print(output.serialised(told, form))
        return 0
    console = output.console()
    if told["gain"] > 0:
        times = f"{spoken(told['before'])} → {spoken(told['after'])}"
        console.print(f"Could be {told['gain']:.0%} shorter: {times}, simulated.")
        console.print(", ".join(f"{count:,} {sort}" for sort, count in told["counts"].items()))
    else:
        console.print(f"Nothing makes it shorter than {spoken(told['before'])}, simulated.")
    if told["changes"]:
        table = _table("First changes of each sort", "Change", "Step", "Why")
        for one in told["changes"]:
            table.add_row(one["sort"], one["step"], one["message"])
        console.print(table)
    for reason in told["leftOut"]:
        console.print(f"Not tried: {reason}.")
    return 0


async def profile(source: Source, workflow: str, namespace: str | None, form: str) -> int:
    """Prints where the time of workers went."""
    told = await source.analysis(namespace or source.namespace, workflow, "profile")
    if form in ("json", "yaml"):
        print(output.serialised(told, form))
        return 0
    console = output.console()
    console.print(f"{told['phase']}: workers spent {spoken(told['workerSeconds'])}")
    for title, column in (("By kind of step", "kinds"), ("By body", "bodies")):
        table = _table(title, "Step", "Steps", "Units", "Time", "Share")
        for name, share in sorted(told[column].items(), key=lambda item: -item[1]["seconds"]):
            table.add_row(name, *_shares(share))
        console.print(table)
    table = _table("By stage", "Stage", "Step", "Steps", "Units", "Time", "Share")
    for stage, kinds in enumerate(told["stages"][:_STEPS_SHOWN], start=1):
        for kind, share in kinds.items():
            table.add_row(str(stage), kind, *_shares(share))
    console.print(table)
    return 0


def _shares(share: Mapping[str, Any]) -> tuple[str, ...]:
    counts = f"{share['steps']:,}", f"{share['units']:,}"
    return *counts, spoken(share["seconds"]), f"{share['share']:.0%}"


def workflow_in(path: Path) -> tuple[str, WorkflowSpec]:
    """Name and spec of the one Workflow in a file of manifests.

    Raises:
        InvalidError: where it is not valid, or where there is none or more than one.
    """
    found = [obj for obj in manifests.load((path,), "default") if obj["kind"] == "Workflow"]
    if len(found) != 1:
        raise InvalidError(str(path), f"expected one Workflow, found {len(found)}")
    return found[0]["metadata"]["name"], WorkflowSpec.model_validate(found[0]["spec"])


def _written(svg: str, file: Path | None) -> int:
    if file is None:
        print(svg)
        return 0
    _write(file, svg)
    return 0


def _write(file: Path, text: str) -> None:
    try:
        file.write_text(text)
    except OSError as error:
        raise InvalidError(str(file), str(error)) from error
    print(f"{file}: {len(text):,} characters")


def _heading(told: Mapping[str, Any]) -> str:
    line = f"{told['phase']}: the longest path takes {spoken(told['seconds'])}"
    if told["eta"]:
        line += f"; {spoken(told['remaining'])} left, until about {told['eta']}"
    return line


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        table.add_column(name, justify="left" if name in _WORDS else "right")
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
            spoken(step["seconds"]),
            f"+{spoken(step['start'])}",
            spoken(step["slack"]),
            step["source"],
        )
    return table


def _bottlenecks(found: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("Bottlenecks", "Step", "Takes", "Share", "Would save")
    for one in found:
        table.add_row(
            one["name"], spoken(one["seconds"]), f"{one['share']:.0%}", spoken(one["gain"])
        )
    return table
