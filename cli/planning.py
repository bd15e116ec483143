"""The commands about plans and goals. What a command needs is imported when it runs."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from seedbed.cli.options import (
    Form,
    Name,
    Namespace,
    Output,
    Place,
    anywhere,
    finish,
    in_cluster,
    read,
)

app = typer.Typer()


class Picture(StrEnum):
    """What a picture shows: steps over time, or what needs what."""

    gantt = "gantt"
    layers = "layers"


@app.command("critical-path")
@anywhere
def critical_path(
    *,
    workflow: Name,
    all_steps: Annotated[
        bool, typer.Option("--all", help="Also the steps beside the path, with their slack.")
    ] = False,
    namespace: Namespace = None,
    output: Output = Form.table,
    place: Place,
) -> None:
    """Show what a Workflow's newest run waits for: its longest path, bottlenecks and expected end."""
    commands = import_module("seedbed.cli.analysis")
    read(
        lambda source: commands.critical_path(
            source, workflow, namespace, output, all_steps=all_steps
        ),
        place,
    )


@app.command()
@anywhere
def profile(
    *,
    workflow: Name,
    namespace: Namespace = None,
    output: Output = Form.table,
    place: Place,
) -> None:
    """Show where the workers' time went: by kind of step (agent, call, ...), by body, by stage."""
    commands = import_module("seedbed.cli.analysis")
    read(lambda source: commands.profile(source, workflow, namespace, output), place)


@app.command()
@anywhere
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
    place: Place,
) -> None:
    """Draw a Workflow's newest run, or the plan in a file, with its critical path."""
    commands = import_module("seedbed.cli.analysis")
    if Path(workflow).is_file():
        finish(commands.graph_of_file(Path(workflow), form, file))
        return
    read(lambda source: commands.graph(source, workflow, namespace, form, file), place)


@app.command()
@anywhere
def optimise(
    *,
    workflow: Annotated[str, typer.Argument(help="Name of a Workflow, or a manifest's file.")],
    write: Annotated[
        Path | None, typer.Option(help="Write the shorter plan of a manifest's file to this file.")
    ] = None,
    namespace: Namespace = None,
    output: Output = Form.table,
    place: Place,
) -> None:
    """Show what would make a plan shorter without changing what it means; nothing is changed."""
    commands = import_module("seedbed.cli.analysis")
    if Path(workflow).is_file():
        finish(commands.optimise_file(Path(workflow), output, write))
        return
    read(lambda source: commands.optimise(source, workflow, namespace, output), place)


@app.command()
@in_cluster
def decompose(
    *,
    goal: Annotated[str, typer.Argument(help="What is to be reached.")],
    template: Annotated[
        Path | None, typer.Option(help="Rules of a known domain: a YAML file.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Model for goals that no rule knows.")] = None,
    here: Annotated[
        bool, typer.Option("--here", help="In this process, by the template alone.")
    ] = False,
    file: Annotated[
        Path | None, typer.Option("--output", "-o", help="With --here: FILE.html or FILE.json.")
    ] = None,
    max_tasks: Annotated[int, typer.Option(help="Tasks in the tree.")] = 20_000,
    max_depth: Annotated[int, typer.Option(help="Levels below the goal.")] = 120,
    max_calls: Annotated[int, typer.Option(help="Calls of the model.")] = 100,
    namespace: Namespace = None,
    place: Place,
) -> None:
    """Take a goal apart into a tree of tasks."""
    commands = import_module("seedbed.cli.goals")
    wanted = commands.Wanted(goal, template, model, max_tasks, max_depth, max_calls)
    if here:
        finish(commands.decompose_here(wanted, file))
        return
    read(lambda source: commands.decompose_there(source, wanted, namespace), place)


@app.command()
@in_cluster
def tree(
    *,
    name: Annotated[str, typer.Argument(help="Id of a tree, or the file of one.")],
    file: Annotated[
        Path | None, typer.Option("--output", "-o", help="FILE.html to look at, or FILE.json.")
    ] = None,
    place: Place,
) -> None:
    """Show a goal's tree of tasks."""
    commands = import_module("seedbed.cli.goals")
    if Path(name).is_file():
        finish(commands.tree_of_file(Path(name), file))
        return
    read(lambda source: commands.tree_there(source, name, file), place)
