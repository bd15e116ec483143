"""The command that makes manifests of plans written in Python: render."""

from __future__ import annotations

import runpy
import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from seedbed.cli.options import finish

app = typer.Typer()


@app.command()
def render(
    *,
    file: Annotated[Path, typer.Argument(help="Python file that makes one or more plans.")],
) -> None:
    """Print the manifests of the plans that a Python file makes.

    The file is executed here, with your rights; see `seedbed.crds.builder`.
    """

    async def command() -> int:
        return _render(file)

    finish(command())


def _render(file: Path) -> int:
    from seedbed.crds.builder import Plan  # noqa: PLC0415  # keeps the help fast
    from seedbed.crds.errors import InvalidError  # noqa: PLC0415  # likewise

    if not file.is_file():
        raise InvalidError(str(file), "there is no such file")
    found = list({id(each): each for each in _executed(file) if isinstance(each, Plan)}.values())
    if not found:
        raise InvalidError(str(file), "makes no Plan in a variable of its own")
    for plan in found:
        try:
            plan.check()
        except InvalidError as error:
            raise InvalidError(f"{file}: Workflow {plan.name}", error.message) from error
    print("---\n".join(plan.yaml() for plan in found), end="")
    return 0


def _executed(file: Path) -> list[object]:
    from seedbed.crds.errors import InvalidError, SeedbedError  # noqa: PLC0415  # likewise

    sys.path.insert(0, str(file.parent.resolve()))
    try:
        return list(runpy.run_path(str(file)).values())
    except SeedbedError as error:
        raise InvalidError(_place(file, error), error.message) from error
    except Exception as error:  # whatever a user's file raises is the user's to know
        raise InvalidError(_place(file, error), f"{type(error).__name__}: {error}") from error


def _place(file: Path, error: Exception) -> str:
    """File and line where it went wrong, as far as they are of the user's file."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename == str(file):
            return f"{file}:{frame.lineno}"
    return str(file)
