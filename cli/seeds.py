"""The commands about SeedLayers: seeds status, seeds decisions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from seedbed.cli import output as printed
from seedbed.cli.options import API_SERVICE, Context, Form, Local, Namespace, Output, Place, read
from seedbed.cli.source import Source
from seedbed.crds.kinds import SEED_LAYER
from seedbed.crds.seed_messages import STAGES

app = typer.Typer(help="What the seeds of a SeedLayer do.", no_args_is_help=True)
Layer = Annotated[str, typer.Argument(help="Name of the SeedLayer.")]
# Callers of a pod show a token of their own, not that of Seedbed's API.
Token = Annotated[
    str, typer.Option(envvar="SEEDBED_SEED_TOKEN", help="What the SeedLayer's tokenSecret holds.")
]

_FIELDS = (
    ("epoch", "Epoch"),
    ("step", "Training steps"),
    ("accuracy", "Accuracy"),
    ("baseAccuracy", "Without seeds"),
    ("newParameters", "New parameters"),
    ("throughput", "Served"),
    ("memory", "Memory"),
    ("gpuUtilisation", "GPU"),
)


@app.command()
def status(
    *,
    layer: Layer,
    namespace: Namespace = None,
    output: Output = Form.table,
    context: Context = None,
    local: Local = None,
) -> None:
    """Show how far the seeds are, and what was decided last."""

    async def show(source: Source) -> int:
        obj = await source.object(SEED_LAYER, namespace or source.namespace, layer)
        found = obj.get("status") or {}
        if output is not Form.table:
            print(printed.serialised(found, output))
            return 0
        console = printed.console()
        stages = found.get("seeds") or {}
        rows = [(stage, str(stages[stage])) for stage in STAGES if stages.get(stage)]
        console.print(printed.plain_table(("STAGE", "SEEDS"), rows))
        console.print()
        console.print(printed.plain_table(("", ""), _facts(found)))
        return 0

    read(show, Place(context, local, None, API_SERVICE, None))


@app.command()
def decisions(
    *,
    layer: Layer,
    after: Annotated[int, typer.Option(min=0, help="Only those behind this number.")] = 0,
    namespace: Namespace = None,
    output: Output = Form.table,
    token: Token = "",
    context: Context = None,
    local: Local = None,
) -> None:
    """Show what was decided about the seeds, and why: the last 500."""

    async def show(source: Source) -> int:
        found = await source.seed_decisions(namespace or source.namespace, layer, after, token)
        heads = ("NUMBER", "TIME", "EPOCH", "LAYER", "SEED", "MOVE", "RULE", "WHY")
        printed.print_as(output, found, heads, (_row(one) for one in found))
        return 0

    read(show, Place(context, local, None, API_SERVICE, None))


def _facts(found: Mapping[str, Any]) -> Sequence[tuple[str, str]]:
    rows = [(title, str(found[name])) for name, title in _FIELDS if name in found]
    if forward := found.get("forward"):
        rows.append(("Forward", " / ".join(f"{name} {forward[name]}" for name in forward)))
    if kept := found.get("lastCheckpoint"):
        rows.append(("Checkpoint", f"epoch {kept['epoch']}, {kept['time']}"))
    if last := found.get("lastDecision"):
        what = f"seed {last['seed']} of {last['layer']} became {last['action']}: {last['reason']}"
        rows.append(("Last decision", what))
    return rows


def _row(one: Mapping[str, Any]) -> tuple[str, ...]:
    moment = datetime.fromtimestamp(one["at"], UTC).strftime("%Y-%m-%d %H:%M:%S")
    move = f"{one['from']} → {one['to']}"
    numbers = (str(one["number"]), moment, str(one["epoch"]))
    return (*numbers, one["layer"], str(one["slot"]), move, one["rule"], one["reason"])
