"""What the commands share: where the user wants to look, the options that say so, and the way out."""

from __future__ import annotations

import asyncio
import inspect
import sys
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
from functools import wraps
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from seedbed.cli.source import Source

API_SERVICE = "seedbed-system/seedbed-api:http"
_INTERRUPTED = 130


class Form(StrEnum):
    """How a result is printed."""

    table = "table"
    json = "json"
    yaml = "yaml"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the user wants to look."""

    context: str | None = None
    local: Path | None = None
    api: str | None = None
    api_service: str = ""
    token: str | None = None
    account: str | None = None

    def open(self) -> AbstractAsyncContextManager[Source]:
        """Open it for reading."""
        if self.local is not None:
            return import_module("seedbed.cli.embedded.state").opened(self.local)  # type: ignore[no-any-return]  # a context manager of a Source
        cluster, seedbed_api = map(
            import_module, ("seedbed.cli.cluster", "seedbed.cli.seedbed_api")
        )
        api = seedbed_api.Api(self.api, self.api_service, self.token, self.account)
        return cluster.connected(self.context, api)  # type: ignore[no-any-return]  # likewise


Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace; the context's own by default.")
]
Output = Annotated[Form, typer.Option("--output", "-o")]
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
Account = Annotated[
    str | None,
    typer.Option(
        envvar="SEEDBED_ACCOUNT",
        help="Service account, NAMESPACE/NAME, as which Seedbed's API is asked; for users without a "
        "token, such as those known by a client certificate.",
    ),
]
Name = Annotated[str, typer.Argument(help="Name of the Workflow.")]

_IN_CLUSTER: dict[str, tuple[Any, Any]] = {
    "context": (Context, None),
    "api": (Api, None),
    "api_service": (ApiService, API_SERVICE),
    "token": (Token, None),
    "account": (Account, None),
}
_ANYWHERE = {**_IN_CLUSTER, "local": (Local, None)}


def in_cluster(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that say which cluster, as its argument `place`."""
    return _placed(command, _IN_CLUSTER)


def anywhere(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options that say where to look, as its argument `place`."""
    return _placed(command, _ANYWHERE)


def _placed(
    command: Callable[..., None], options: Mapping[str, tuple[Any, Any]]
) -> Callable[..., None]:
    @wraps(command)
    def placed(**given: Any) -> None:
        where = {name: given.pop(name) for name in options}
        command(**given, place=Place(**where))

    signature = inspect.signature(command, eval_str=True)
    kept = [each for each in signature.parameters.values() if each.name != "place"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=form)
        for name, (form, default) in options.items()
    ]
    # The command line is made from these two.
    placed.__signature__ = signature.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]  # as inspect reads it
    placed.__annotations__ = {each.name: each.annotation for each in (*kept, *added)}
    return placed


def read(command: Callable[[Source], Awaitable[int]], place: Place) -> None:
    """Run a command on the opened place and leave with its code."""

    async def reading() -> int:
        async with place.open() as source:
            return await command(source)

    finish(reading())


def finish(
    command: Coroutine[Any, Any, int],
    loop: Callable[[], asyncio.AbstractEventLoop] | None = None,
) -> None:
    """Run a command and leave with its code; a user's mistake is one line, never a traceback.

    Args:
        command: what to run.
        loop: makes the event loop, where it is not asyncio's own.
    """
    from seedbed.crds.errors import SeedbedError  # noqa: PLC0415 - keeps the help fast

    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            code = runner.run(command)
    except SeedbedError as error:
        for line in error.message.splitlines():
            print(f"error: {line}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = _INTERRUPTED
    raise typer.Exit(code)
