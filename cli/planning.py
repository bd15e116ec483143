"""The commands about plans: critical-path, graph, optimise. What a command needs is imported when it runs."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from seedbed.cli.options import (
    API_SERVICE,
    Api,
    ApiService,
    Context,
    Form,
    Local,
    Name,
    Namespace,
    Place,
    Token,
    finish,
    read,
)

app = typer.Typer()


class Picture(StrEnum):
    """What a picture shows: steps over time, or what needs what."""

    gantt = "gantt"
    layers = "layers"


@app.command("critical-path")
def critical_path(
    *,
    workflow: Name,
    all_steps: Annotated[
        bool, typer.Option("--all", help="Also the steps beside the path, with their slack.")
    ] = False,
    namespace: Namespace = None,
    output: Annotated[Form, typer.Option("--output", "-o")] = Form.table,
    context: Context = None,
    api: Api = None,
    api_service: ApiService = API_SERVICE,
    token: Token = None,
    local: Local = None,
) -> None:
    """Show what a Workflow's newest run waits for: its longest path, bottlenecks and expected end."""
    commands = import_module("seedbed.cli.analysis")
    place = Place(context, local, api, api_service, token)
    read(
        lambda source: commands.critical_path(
            source, workflow, namespace, output, all_steps=all_steps
        ),
        place,
    )


@app.command()
def graph(
    *,
    workflow: Annotated[str, typer.Argument(help="Name of a Workflow, or a manifest's file.")],
    file: Annotated[
        Path | None, typer.Option("--output", "-o", help="SVG file to write; else it is printed.")
    ] = None,
    form: Annotated[Picture, typer.Option(help="Steps over time, or what needs what.")] = (
        Picture.gantt
    ),
    namespace: Namespace = None,
    context: Context = None,
    api: Api = None,
    api_service: ApiService = API_SERVICE,
    token: Token = None,
    local: Local = None,
) -> None:
    """Draw a Workflow's newest run, or the plan in a file, with its critical path."""
    commands = import_module("seedbed.cli.analysis")
    if Path(workflow).is_file():
        finish(commands.graph_of_file(Path(workflow), form, file))
        return
    place = Place(context, local, api, api_service, token)
    read(lambda source: commands.graph(source, workflow, namespace, form, file), place)


@app.command()
def optimise(
    *,
    workflow: Annotated[str, typer.Argument(help="Name of a Workflow, or a manifest's file.")],
    write: Annotated[
        Path | None, typer.Option(help="Write the shorter plan of a manifest's file to this file.")
    ] = None,
    namespace: Namespace = None,
    output: Annotated[Form, typer.Option("--output", "-o")] = Form.table,
    context: Context = None,
    api: Api = None,
    api_service: ApiService = API_SERVICE,
    token: Token = None,
    local: Local = None,
) -> None:
    """Show what would make a plan shorter without changing what it means; nothing is changed."""
    commands = import_module("seedbed.cli.analysis")
    if Path(workflow).is_file():
        finish(commands.optimise_file(Path(workflow), output, write))
        return
    place = Place(context, local, api, api_service, token)
    read(lambda source: commands.optimise(source, workflow, namespace, output), place)
