"""The command `seedbed`, also `kubectl seedbed`. What a command needs is imported when it runs."""

from __future__ import annotations

from enum import StrEnum
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

from seedbed.cli import (
    baseline,
    batches,
    cache,
    checkpoints,
    costs,
    deciding,
    events,
    planning,
    plans,
    record_of_runs,
    rendering,
    seeds,
)
from seedbed.cli.loops import fast_loop
from seedbed.cli.options import (
    Context,
    Form,
    Local,
    Name,
    Namespace,
    Output,
    Place,
    anywhere,
    finish,
    read,
)


class Listing(StrEnum):
    """How objects are printed."""

    table = "table"
    wide = "wide"
    json = "json"
    yaml = "yaml"


app = typer.Typer(
    name="seedbed",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Runs autonomous agents and long workflows, on Kubernetes or in this one process.",
)
app.add_typer(baseline.app)
app.add_typer(checkpoints.app)
app.add_typer(costs.app)
app.add_typer(deciding.app)
app.add_typer(planning.app)
app.add_typer(record_of_runs.app)
app.add_typer(rendering.app)
app.add_typer(plans.app, name="plan")
app.add_typer(events.app, name="events")
app.add_typer(batches.app, name="batches")
app.add_typer(cache.app, name="cache")
app.add_typer(seeds.app, name="seeds")


@app.command()
def run(
    *,
    paths: Annotated[
        list[Path], typer.Argument(metavar="FILE_OR_FOLDER...", help="Manifests to run.")
    ],
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="For objects that name no namespace.")
    ] = "default",
    models: Annotated[
        Path | None, typer.Option(help="Models file; the local model where none is given.")
    ] = None,
    keep: Annotated[
        Path | None, typer.Option(help="State folder; a run that was killed goes on from it.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds after which to give up.")] = 3600.0,
) -> None:
    """Run manifests in this one process: no cluster, no servers.

    The exit code is 0 where every Workflow succeeded and everything else is Ready.
    """
    command = import_module("seedbed.cli.embedded.command")
    options = command.Options(tuple(paths), namespace, models, keep, timeout)
    finish(command.run(options), fast_loop())


@app.command()
def init(
    *,
    namespace: Namespace = None,
    context: Context = None,
    wait: Annotated[float, typer.Option(help="Seconds to wait for the admission webhook.")] = 120.0,
) -> None:
    """Make the three standard Pools in a namespace, where they are missing."""

    async def making() -> int:
        cluster, standard = map(import_module, ("seedbed.cli.cluster", "seedbed.cli.standard"))
        async with cluster.connected(context) as source:
            return int(await standard.create(source, namespace, wait))

    finish(making())


@app.command()
def get(
    *,
    kind: Annotated[str | None, typer.Argument(help="Kind; all of them by default.")] = None,
    name: Annotated[str | None, typer.Argument(help="Name of one object.")] = None,
    namespace: Namespace = None,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A")] = False,
    output: Annotated[Listing, typer.Option("--output", "-o")] = Listing.table,
    context: Context = None,
    local: Local = None,
) -> None:
    """List objects."""
    commands = import_module("seedbed.cli.reading")
    wanted = commands.Selection(kind, name, namespace, all_namespaces)
    read(lambda source: commands.get(source, wanted, output), Place(context, local))


@app.command()
def describe(
    *,
    kind: Annotated[str, typer.Argument(help="Kind, plural or short name.")],
    name: Annotated[str, typer.Argument(help="Name of the object.")],
    namespace: Namespace = None,
    context: Context = None,
    local: Local = None,
) -> None:
    """Show one object with its conditions, recent steps and Events."""
    commands = import_module("seedbed.cli.reading")
    place = Place(context, local)
    read(lambda source: commands.describe(source, kind, name, namespace), place)


@app.command()
@anywhere
def logs(
    *,
    workflow: Name,
    step: Annotated[str | None, typer.Option(help="Only this step.")] = None,
    workers: Annotated[
        int, typer.Option(help="Also the last lines that each worker pod wrote.")
    ] = 0,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on until the run is over.")
    ] = False,
    namespace: Namespace = None,
    place: Place,
) -> None:
    """Show the step log of a Workflow's newest run."""
    commands = import_module("seedbed.cli.reading")
    if follow:
        read(lambda source: commands.follow(source, workflow, namespace, step), place)
        return
    read(lambda source: commands.logs(source, workflow, namespace, step, workers), place)


@app.command()
@anywhere
def items(
    *,
    workflow: Name,
    step: Annotated[str, typer.Argument(help="Name of the step; NAME[INDEX] for one of many.")],
    namespace: Namespace = None,
    place: Place,
) -> None:
    """Print what a step yields, item by item, while it runs; at its pace, and it at yours."""
    commands = import_module("seedbed.cli.reading")
    read(lambda source: commands.items(source, workflow, step, namespace), place)


@app.command()
@anywhere
def watch(
    *,
    workflow: Name,
    steps: Annotated[bool, typer.Option(help="Show each step as it goes.")] = False,
    namespace: Namespace = None,
    place: Place,
) -> None:
    """Follow a Workflow until its run ends; the exit code is 0 where it succeeded."""
    commands = import_module("seedbed.cli.reading")
    read(lambda source: commands.watch(source, workflow, namespace, steps=steps), place)


@app.command()
@anywhere
def result(
    *,
    workflow: Name,
    namespace: Namespace = None,
    output: Output = Form.table,
    place: Place,
) -> None:
    """Print the result of a Workflow's newest run."""
    commands = import_module("seedbed.cli.reading")
    read(lambda source: commands.result(source, workflow, namespace, output), place)


@app.command(
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def serve(arguments: typer.Context) -> None:
    """Run one role of Seedbed as a server; see `seedbed serve --help`."""
    # Its libraries are many, so only the role that is asked for loads them.
    import_module("seedbed.cli.serve").app(arguments.args, prog_name="seedbed serve")


@app.command()
def version() -> None:
    """Print the version."""
    print(f"seedbed {installed_version('seedbed')}")
