"""The commands about plans: critical-path. What a command needs is imported when it runs."""

from __future__ import annotations

from importlib import import_module
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
    read,
)

app = typer.Typer()


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
