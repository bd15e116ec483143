"""The commands about all runs of a Workflow: stats, runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from seedbed.cli.options import Form, Name, Namespace, Output, Place, anywhere, read

if TYPE_CHECKING:
    from seedbed.cli.source import Source

app = typer.Typer()

_HUNDRED = 100
_MINUTE = 60


@app.command()
@anywhere
def stats(
    *,
    workflow: Name,
    steps: Annotated[int, typer.Option(help="Steps shown, those with the most time first.")] = 20,
    namespace: Namespace = None,
    output: Output = Form.table,
    place: Place,
) -> None:
    """Show how often, how long and how well a Workflow and its steps have run.

    Of a template: the runs that did the work of `workflow` steps.
    """

    async def command(source: Source) -> int:
        told = await source.analysis(namespace or source.namespace, workflow, "stats")
        rows = [_figures("(whole runs)", told["runs"])]
        rows += [_figures(step["name"], step) for step in told["steps"][:steps]]
        columns = ["STEP", "ENDED", "FAILED", "SUCCESS", "P50", "P95"]
        return _shown(told, output, columns, rows)

    read(command, place)


@app.command()
@anywhere
def runs(
    *,
    workflow: Name,
    namespace: Namespace = None,
    output: Output = Form.table,
    place: Place,
) -> None:
    """List a Workflow's newest runs, and below each the runs that do the work of its steps."""

    async def command(source: Source) -> int:
        told = await source.analysis(namespace or source.namespace, workflow, "runs")
        columns = ["RUN", "STEP", "WORKFLOW", "PHASE", "PROGRESS", "TIME"]
        return _shown(told, output, columns, list(_lines(told["runs"], "")))

    read(command, place)


def _shown(
    told: Mapping[str, Any], form: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]
) -> int:
    from seedbed.cli import output  # noqa: PLC0415  # keeps the help fast

    output.print_as(form, told, columns, rows)
    return 0


def _figures(name: str, told: Mapping[str, Any]) -> list[Any]:
    rate = told["successRate"]
    success = "" if rate is None else f"{rate * _HUNDRED:.0f} %"
    times = [_seconds(told[name]) for name in ("p50Seconds", "p95Seconds")]
    return [name, told["succeeded"] + told["failed"], told["failed"], success, *times]


def _lines(told: Sequence[Mapping[str, Any]], indent: str) -> Iterator[list[Any]]:
    for run in told:
        ended = run["finished"] is not None and run["started"] is not None
        took = _seconds(run["finished"] - run["started"]) if ended else ""
        name = f"{indent}{run['run']}"
        yield [name, run["step"], run["workflow"], run["phase"], run["progress"], took]
        yield from _lines(run["runs"], f"{indent}  ")


def _seconds(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f} s" if value < _MINUTE else f"{value / _MINUTE:.1f} min"
