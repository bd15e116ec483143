"""The commands about batches of offline work: batches list, batches show, batches cancel."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from seedbed.cli import output as printed
from seedbed.cli.options import Form, Namespace, Output, Place, anywhere, read
from seedbed.cli.source import Source

app = typer.Typer(help="Batches of offline work for models.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(help="The batch's id.")]
_ENDS = ("completed", "failed", "expired", "cancelled")
_HEAD = ("ID", "STATUS", "DONE", "FAILED", "COST", "SAVED", "AGE")


@app.command(name="list")
@anywhere
def list_(
    *,
    all_namespaces: Annotated[bool, typer.Option("--all-namespaces", "-A")] = False,
    namespace: Namespace = None,
    output: Output = Form.table,
    place: Place,
) -> None:
    """List the newest batches of a namespace."""

    async def show(source: Source) -> int:
        found = await source.batches("" if all_namespaces else namespace or source.namespace)
        head = ("NAMESPACE", *_HEAD) if all_namespaces else _HEAD
        rows = [_row(each, named=all_namespaces) for each in found["data"]]
        printed.print_as(output, found["data"], head, rows)
        return 0

    read(show, place)


@app.command()
@anywhere
def show(
    *,
    batch: Id,
    output: Output = Form.table,
    place: Place,
) -> None:
    """Show one batch: who answered its lines, what it cost, and why it stands still."""

    async def shown(source: Source) -> int:
        found = await source.batch(batch)
        printed.print_as(output, found, ("FIELD", "VALUE"), _fields(found))
        return 0

    read(shown, place)


@app.command()
@anywhere
def cancel(*, batch: Id, place: Place) -> None:
    """Have a batch end early; answers that are there by then are kept."""

    async def cancelled(source: Source) -> int:
        print(f"{batch} is {(await source.cancel_batch(batch))['status']}")
        return 0

    read(cancelled, place)


def _row(batch: Mapping[str, Any], *, named: bool) -> tuple[str, ...]:
    counts, told = batch["request_counts"], batch["seedbed"]
    done = counts["completed"] + counts["failed"]
    halted = " (halted)" if told["halted"] else ""
    row = (
        batch["id"],
        f"{batch['status']}{halted}",
        f"{done}/{counts['total']}",
        str(counts["failed"]),
        f"${told['cost_dollars']}",
        f"${told['saved_dollars']}",
        printed.age(datetime.fromtimestamp(batch["created_at"], UTC).isoformat()),
    )
    return (told["namespace"], *row) if named else row


def _fields(batch: Mapping[str, Any]) -> list[tuple[str, ...]]:
    counts, told = batch["request_counts"], batch["seedbed"]
    ended = next((batch[f"{each}_at"] for each in _ENDS if batch[f"{each}_at"]), None)
    rows = [
        ("id", batch["id"]),
        ("namespace", told["namespace"]),
        ("endpoint", batch["endpoint"]),
        ("status", batch["status"]),
        ("halted", told["halted"] or "-"),
        ("lines", f"{counts['completed']} done, {counts['failed']} failed of {counts['total']}"),
        *((f"by {name.replace('_', ' ')}", str(n)) for name, n in told["answered_by"].items()),
        *((f"full price for {model}", why) for model, why in told["full_price"].items()),
        ("cost", f"${told['cost_dollars']}"),
        ("saved", f"${told['saved_dollars']}"),
        ("created", _at(batch["created_at"])),
        ("expires", _at(batch["expires_at"])),
        ("ended", _at(ended)),
        ("input file", batch["input_file_id"]),
        ("output file", batch["output_file_id"] or "-"),
        ("error file", batch["error_file_id"] or "-"),
    ]
    errors = (batch["errors"] or {}).get("data", ())
    return [*rows, *(("error", str(each["message"])) for each in errors)]


def _at(moment: int | None) -> str:
    return "-" if moment is None else datetime.fromtimestamp(moment, UTC).isoformat(" ")
