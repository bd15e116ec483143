"""`seedbed events`: what followers of the event log could not handle."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from importlib import import_module
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from seedbed.cli.options import Form, Output, Place, in_cluster, read

if TYPE_CHECKING:
    from seedbed.cli.cluster import ClusterSource
    from seedbed.cli.source import Source

_COLUMNS = ("NUMBER", "GIVEN UP", "FOLLOWER", "KIND", "KEY", "PRIORITY", "FAILURES", "REASON")
_PAGE = 1000

app = typer.Typer(no_args_is_help=True, help="Events that their followers could not handle.")

Numbers = Annotated[list[int], typer.Argument(metavar="NUMBER...", help="Which dead letters.")]
Every = Annotated[bool, typer.Option("--all", help="All that there are now.")]


@app.command("dead-letters")
@in_cluster
def dead_letters(
    *,
    output: Output = Form.table,
    place: Place,
) -> None:
    """List events that were given up, oldest first."""
    read(lambda source: listed(source, output), place)


@app.command()
@in_cluster
def replay(
    *,
    numbers: Numbers = [],  # noqa: B006  # typer copies it
    every: Every = False,
    place: Place,
) -> None:
    """Give dead letters to their followers once more."""
    read(lambda source: acted(source, "POST", "/replay", numbers, every=every), place)


@app.command()
@in_cluster
def discard(
    *,
    numbers: Numbers = [],  # noqa: B006  # typer copies it
    every: Every = False,
    place: Place,
) -> None:
    """Forget dead letters."""
    read(lambda source: acted(source, "DELETE", "", numbers, every=every), place)


async def listed(source: Source, form: str) -> int:
    """Prints all dead letters."""
    found = await _all(source)
    if not found and form == Form.table:
        print("no dead letters")
        return 0
    shown = import_module("seedbed.cli.output")
    shown.print_as(form, {"deadLetters": found}, _COLUMNS, map(_row, found))
    return 0


async def acted(source: Source, method: str, tail: str, numbers: list[int], *, every: bool) -> int:
    """Replays or discards, and says how many."""
    from seedbed.crds.errors import InvalidError, TerminalError  # noqa: PLC0415 - keeps help fast

    if every == bool(numbers):
        raise InvalidError("NUMBER", "give some, or --all")
    chosen = [one["number"] for one in await _all(source)] if every else numbers
    gone = 0
    for number in chosen:
        try:
            await _api(source, f"/{number}{tail}", method)
        except TerminalError as error:
            if error.code != "not_found":
                raise
            gone += 1
            print(f"{number}: there is no such dead letter")
    print(f"{len(chosen) - gone} {'replayed' if tail else 'discarded'}")
    return 1 if gone and not every else 0


async def _all(source: Source) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    while True:
        after = found[-1]["number"] if found else 0
        page = (await _api(source, f"?after={after}&limit={_PAGE}"))["deadLetters"]
        found += page
        if len(page) < _PAGE:
            return found


async def _api(source: Source, tail: str, method: str = "GET") -> Any:
    cluster = cast("ClusterSource", source)
    return json.loads(await cluster.api.text(f"/api/v3/dead-letters{tail}", method))


def _row(letter: dict[str, Any]) -> tuple[str, ...]:
    event = letter["event"]
    when = datetime.fromtimestamp(letter["at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    told = (letter["follower"], event["kind"], event["key"], event["priority"])
    return (str(letter["number"]), when, *told, str(letter["failures"]), letter["reason"][:80])
