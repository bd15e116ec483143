"""The command `seedbed`, also `kubectl seedbed`. What a command needs is imported when it runs."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from seedbed.cli.source import Source

API_SERVICE = "seedbed-system/seedbed-api:http"
_INTERRUPTED = 130


class Listing(StrEnum):
    """How objects are printed."""

    table = "table"
    wide = "wide"
    json = "json"
    yaml = "yaml"


class Form(StrEnum):
    """How a result is printed."""

    table = "table"
    json = "json"
    yaml = "yaml"


app = typer.Typer(
    name="seedbed",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Runs autonomous agents and long workflows, on Kubernetes or in this one process.",
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the user wants to look."""

    context: str | None = None
    local: Path | None = None
    api: str | None = None
    api_service: str = ""
    token: str | None = None

    def open(self) -> AbstractAsyncContextManager[Source]:
        """Open it for reading."""
        if self.local is not None:
            return import_module("seedbed.cli.embedded.state").opened(self.local)  # type: ignore[no-any-return]  # a context manager of a Source
        module = import_module("seedbed.cli.cluster")
        api = module.Api(self.api, self.api_service, self.token)
        return module.connected(self.context, api)  # type: ignore[no-any-return]  # likewise


Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace; the context's own by default.")
]
Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig.")]
Local = Annotated[
    Path | None, typer.Option(help="Read the state folder of `seedbed run` instead of a cluster.")
]
Api = Annotated[
    str | None, typer.Option(help="URL of Seedbed's API; through the API server by default.")
]
ApiService = Annotated[
    str, typer.Option(help="Seedbed's API in the cluster: NAMESPACE/SERVICE:PORT.")
]
Token = Annotated[
    str | None,
    typer.Option(
        envvar="SEEDBED_TOKEN", help="Bearer token for Seedbed's API; the kubeconfig's by default."
    ),
]
Name = Annotated[str, typer.Argument(help="Name of the Workflow.")]


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
    _finish(command.run(options))


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
    _read(lambda source: commands.get(source, wanted, output), Place(context, local))


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
    _read(lambda source: commands.describe(source, kind, name, namespace), place)


@app.command()
def logs(
    *,
    workflow: Name,
    step: Annotated[str | None, typer.Option(help="Only this step.")] = None,
    workers: Annotated[
        int, typer.Option(help="Also the last lines that each worker pod wrote.")
    ] = 0,
    namespace: Namespace = None,
    context: Context = None,
    api: Api = None,
    api_service: ApiService = API_SERVICE,
    token: Token = None,
    local: Local = None,
) -> None:
    """Show the step log of a Workflow's newest run."""
    commands = import_module("seedbed.cli.reading")
    place = Place(context, local, api, api_service, token)
    _read(lambda source: commands.logs(source, workflow, namespace, step, workers), place)


@app.command()
def watch(workflow: Name, namespace: Namespace = None, context: Context = None) -> None:
    """Follow a Workflow until its run ends; the exit code is 0 where it succeeded."""
    commands = import_module("seedbed.cli.reading")
    place = Place(context)
    _read(lambda source: commands.watch(source, workflow, namespace), place)


@app.command()
def result(
    *,
    workflow: Name,
    namespace: Namespace = None,
    output: Annotated[Form, typer.Option("--output", "-o")] = Form.table,
    context: Context = None,
    api: Api = None,
    api_service: ApiService = API_SERVICE,
    token: Token = None,
    local: Local = None,
) -> None:
    """Print the result of a Workflow's newest run."""
    commands = import_module("seedbed.cli.reading")
    place = Place(context, local, api, api_service, token)
    _read(lambda source: commands.result(source, workflow, namespace, output), place)


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


def _read(command: Callable[[Source], Awaitable[int]], place: Place) -> None:
    async def reading() -> int:
        async with place.open() as source:
            return await command(source)

    _finish(reading())


def _finish(command: Coroutine[Any, Any, int]) -> None:
    """Run a command and leave with its code; a user's mistake is one line, never a traceback."""
    from seedbed.crds.errors import SeedbedError  # noqa: PLC0415 - keeps the help fast

    try:
        code = asyncio.run(command)
    except SeedbedError as error:
        for line in error.message.splitlines():
            print(f"error: {line}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = _INTERRUPTED
    raise typer.Exit(code)
