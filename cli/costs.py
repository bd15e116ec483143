"""The commands about money: costs, and models report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from seedbed.cli import output as printed
from seedbed.cli.options import Form, Namespace, Output, Place, anywhere, read
from seedbed.cli.source import Source

app = typer.Typer()
models = typer.Typer(help="What is known of models.", no_args_is_help=True)
app.add_typer(models, name="models")

_COLUMNS = ("DOLLARS", "CALLS", "PROMPT", "COMPLETION")


@app.command()
@anywhere
def costs(
    *,
    by: Annotated[
        str, typer.Option(help="namespace, workflow, agent, model, day or user.")
    ] = "model",
    workflow: Annotated[str, typer.Option(help="Only this Workflow's.")] = "",
    agent: Annotated[str, typer.Option(help="Only this Agent's.")] = "",
    since: Annotated[float, typer.Option(help="Unix time from which on to count.")] = 0.0,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A")] = False,
    namespace: Namespace = None,
    output: Output = Form.table,
    place: Place,
) -> None:
    """Show what model calls have cost."""
    asked = {"workflow": workflow, "agent": agent, "since": f"{since:g}"}

    async def show(source: Source) -> int:
        space = "" if all_namespaces else namespace or source.namespace
        found = await source.costs(by, namespace=space, **asked)
        printed.print_as(output, found, (by.upper(), *_COLUMNS), _rows(by, found))
        if output is Form.table:
            print(f"total ${found['dollars']}")
        return 0

    read(show, place)


@models.command("report")
@anywhere
def models_report(
    *,
    namespace: Namespace = None,
    output: Output = Form.table,
    place: Place,
) -> None:
    """Show what models cost and how good their answers are, as a curve for each task."""

    async def show(source: Source) -> int:
        found = await source.routing_report(namespace or source.namespace)
        heads = ("MODEL", "OUTCOMES", "GOOD", "$/1000")
        rows = (
            (one["model"], f"{one['outcomes']:g}", _share(one["good"]), _per(one))
            for one in found["models"]
        )
        printed.print_as(output, found, heads, rows)
        if output is Form.table:
            _print_curves(found["curves"])
        return 0

    read(show, place)


def _print_curves(curves: Mapping[str, Any]) -> None:
    """What a quality costs, by task."""
    console = printed.console()
    for task, curve in curves.items():
        console.print(f"\n{task}")
        points = [(_share(p["floor"]), _share(p["quality"]), _per(p)) for p in curve]
        console.print(printed.plain_table(("FLOOR", "QUALITY", "$/1000"), points))


def _rows(by: str, found: Mapping[str, Any]) -> list[tuple[str, ...]]:
    return [
        (
            one[by] or "-",
            one["dollars"],
            str(one["calls"]),
            str(one["prompt_tokens"]),
            str(one["completion_tokens"]),
        )
        for one in found["costs"]
    ]


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _per(one: Mapping[str, Any]) -> str:
    return f"{one['dollars_per_thousand']:.4f}"
