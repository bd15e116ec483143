"""What the commands share: where the user wants to look, the options that say so, and the way out."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from enum import StrEnum
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
