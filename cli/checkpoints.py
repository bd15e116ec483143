"""The commands about checkpoints: checkpoint, checkpoints, restore, fork, rotate-keys."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from seedbed.cli.options import (
    Context,
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

Run = Annotated[
    str | None, typer.Option(help="An earlier run, by its id; the newest one by default.")
]


@app.command()
@in_cluster
def checkpoint(
    *,
    workflow: Name,
    namespace: Namespace = None,
    place: Place,
) -> None:
    """Take a checkpoint of a Workflow's run now."""
    commands = import_module("seedbed.cli.checkpointing")
    read(lambda source: commands.take(source, workflow, namespace), place)


@app.command()
@anywhere
def checkpoints(
    *,
    workflow: Name,
    run: Run = None,
    namespace: Namespace = None,
    output: Output = Form.table,
    place: Place,
) -> None:
    """List the checkpoints of a Workflow's run."""
    commands = import_module("seedbed.cli.checkpointing")
    read(lambda source: commands.listed(source, workflow, namespace, run, output), place)


@app.command()
@in_cluster
def restore(
    *,
    workflow: Name,
    checkpoint: Annotated[int, typer.Option(help="Number of the checkpoint.", min=1)],
    run: Run = None,
    namespace: Namespace = None,
    place: Place,
) -> None:
    """Have a Workflow go on from one of its checkpoints: its present run ends, a new one begins there."""
    commands = import_module("seedbed.cli.checkpointing")
    read(lambda source: commands.restore(source, workflow, namespace, run, checkpoint), place)


@app.command()
@anywhere
def fork(
    *,
    workflow: Name,
    name: Annotated[str, typer.Option(help="Name of the new Workflow.")],
    checkpoint: Annotated[
        int | None, typer.Option(help="Number of a checkpoint; the run as it is by default.", min=1)
    ] = None,
    set_: Annotated[
        list[str], typer.Option("--set", metavar="PARAM=VALUE", help="Another value, as YAML.")
    ] = [],  # noqa: B006  # typer reads it and never changes it
    again: Annotated[
        list[str], typer.Option("--again", metavar="STEP", help="A step to execute again anyway.")
    ] = [],  # noqa: B006  # likewise
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the manifest instead of creating it.")
    ] = False,
    run: Run = None,
    namespace: Namespace = None,
    place: Place,
) -> None:
    """Make a new Workflow that goes on from a run of another one, with other parameters.

    What the other parameters do not change is taken over, and not executed again. With `--local` the
    manifest is printed, for `seedbed run --keep`.
    """
    commands = import_module("seedbed.cli.checkpointing")
    printed = dry_run or place.local is not None
    wish = commands.Fork(name, run, checkpoint, tuple(set_), tuple(again), printed)
    read(lambda source: commands.fork(source, workflow, namespace, wish), place)


@app.command("rotate-keys")
def rotate_keys(
    *,
    file: Annotated[
        Path | None, typer.Option(help="A key ring's file, instead of the Secret.")
    ] = None,
    secret: Annotated[
        str, typer.Option(help="The Secret with the key ring: NAMESPACE/NAME.")
    ] = "seedbed-system/seedbed-checkpoint-keys",  # noqa: S107  # the name of a Secret
    context: Context = None,
) -> None:
    """Add a key that encrypts checkpoints from now on; the older ones still decrypt."""
    commands = import_module("seedbed.cli.checkpointing")
    if file is not None:
        finish(commands.rotate_file(file))
        return
    read(lambda source: commands.rotate_secret(source, secret), Place(context))
